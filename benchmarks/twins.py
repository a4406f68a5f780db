"""Rigid twins: `python -m benchmarks.twins [--quick] [--only PART ...]`.

Real cube tosses: RigidTwin, PyBullet and MuJoCo calibrated on the same 1, 4, 16 and 64 tosses with the same simulated seconds, each at the time step that suits
it best, and scored on 100 others from the first frame to the last. A real double pendulum beside the parameters that its authors identified. Friction of a
pushed block from masks alone, and a pushed T in images that others made. Simulated seconds a second beside the engines, cost and memory of gradients. How
often intervals hold the truth. The full run calibrates each engine, an hour or more on two cores, and keeps the results beside this file, so that it goes on
where it was stopped; `--quick` takes what was kept, and fewer fits.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console

from benchmarks import twin_tosses
from benchmarks.parts import Part, run_parts
from benchmarks.twin_coverage import coverage_claims
from benchmarks.twin_images import image_claims
from benchmarks.twin_pendulum import pendulum_claims
from benchmarks.twin_speed import speed_claims


def found(quick: bool, console: Console) -> dict[str, Any]:
    """Calibrations on tosses."""
    return twin_tosses.kept() if quick else twin_tosses.calibrated(console)


PARTS: dict[str, Part] = {
    "cube": lambda quick, console: twin_tosses.cube_claims(found(quick, console), console),
    "pendulum": pendulum_claims,
    "images": lambda quick, console: image_claims(console, quick),
    "coverage": coverage_claims,
    "speed": lambda quick, console: speed_claims(found(quick, console), quick, console),
}


if __name__ == "__main__":
    run_parts("twins", __doc__, PARTS, quick="evaluate the kept calibrations and make fewer fits; under 300 seconds")
