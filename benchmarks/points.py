"""Learned dynamics of point clouds: `python -m benchmarks.points [--quick] [--only PART ...]`.

`cables`: real cables in motion, beside floors. `boxes`: several boxes on a table, pushers seen and not seen in training, more boxes than in training.
"""

from __future__ import annotations

from benchmarks.parts import Part, run_parts
from benchmarks.points_cables import cable_claims
from benchmarks.points_tabletop import box_claims

PARTS: dict[str, Part] = {"cables": cable_claims, "boxes": box_claims}


if __name__ == "__main__":
    run_parts("points", __doc__, PARTS, quick="evaluates what the full run trained")
