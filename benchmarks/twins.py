"""Rigid twins: `python -m benchmarks.twins [--quick] [--only PART ...]`.

Real cube tosses: RigidTwin, PyBullet and MuJoCo calibrated on the same 1, 4, 16 and 64 tosses with the same simulated seconds, each at the time step that suits
it best, and scored on 100 others from the first frame to the last. A real double pendulum beside the parameters that its authors identified. Friction of a
pushed block from masks alone, and a pushed T in images that others made. Simulated seconds a second beside the engines, cost and memory of gradients. How
often intervals hold the truth. The full run calibrates each engine, an hour or more on two cores, and keeps the results beside this file, so that it goes on
where it was stopped; `--quick` takes what was kept, and fewer fits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from rich.console import Console

from benchmarks import twin_tosses
from benchmarks.claims import publish
from benchmarks.twin_coverage import coverage_claims
from benchmarks.twin_images import image_claims
from benchmarks.twin_pendulum import pendulum_claims
from benchmarks.twin_speed import speed_claims
from structwm.demos.pushing import one_thread

Part = Callable[[bool, Console], dict[str, Any]]


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


def main() -> None:
    """Measure, print tables, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="evaluate the kept calibrations and make fewer fits; under 300 seconds")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="some parts only")
    options = parser.parse_args()
    console = Console(width=150)
    claims: dict[str, Any] = {}
    with one_thread():  # small launches are faster on one thread; what needs more says so
        for name in options.only:
            claims |= PARTS[name](options.quick, console)
    publish("twins", claims)


if __name__ == "__main__":
    main()
