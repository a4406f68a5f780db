"""Deformable twins: `python -m benchmarks.deformable [--quick] [--only PART ...]`.

`rope`: real cables by `RodTwin` with five calibrated parameters. `residual`: with what was learned of its errors on top. `transfer`: a new cable from few runs.
`--quick` calibrates on fewer runs and trains no networks.
"""

from __future__ import annotations

from benchmarks.parts import Part, run_parts
from benchmarks.rope_motion import residual_claims, rope_claims, transfer_claims

PARTS: dict[str, Part] = {"rope": rope_claims, "residual": residual_claims, "transfer": transfer_claims}


if __name__ == "__main__":
    run_parts("deformable", __doc__, PARTS, quick="fewer runs, no networks")
