"""Calibrate a twin of a real double pendulum on all runs but one, and predict that one half a second ahead.

The runs, and the parameters to start from, are those of Wiebe et al., IEEE Robotics and Automation Magazine 2024.

    python examples/calibrate_pendulum.py --held-out 0
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from structwm.data.double_pendulum import RATE, read_identified_parameters
from structwm.demos.real_worlds import double_pendulum
from structwm.physics import RigidTwin, Settings, calibrate, rigid_recording
from structwm.physics.recorded_runs import read_runs
from structwm.physics.timed_runs import at_steps
from structwm.report.calibration import calibration_page, directions_in_words, draw_calibration

LINKS = ("upper", "lower")
PARAMETERS = [f"{link}.{name}" for link in LINKS for name in ("com_z", "inertia", "joint_damping", "joint_friction", "armature")]
PARAMETERS += ["lower.mass", "upper_effort.gain", "lower_effort.gain"]


@dataclass(frozen=True)
class Options:
    """What to run."""

    held_out: int = 0  # which of the four runs
    ahead: float = 0.5  # of predictions [s]
    iterations: int = 10  # Gauss-Newton steps at most
    folder: Path = Path("runs/calibrate_pendulum")  # of the report


def main(options: Options) -> None:
    twin = RigidTwin(double_pendulum(read_identified_parameters()["design_C.1/model_1.0"]), dt=1 / RATE, substeps=2)
    runs = read_runs("double_pendulum", twin.world)
    if not 0 <= options.held_out < len(runs):
        raise SystemExit(f"There are runs 0 to {len(runs) - 1}, got {options.held_out}.")
    options.folder.mkdir(parents=True, exist_ok=True)
    steps = round(options.ahead * RATE)
    held, rest = runs[options.held_out], [run for k, run in enumerate(runs) if k != options.held_out]
    seen, unseen = (
        rigid_recording(twin, [at_steps(run, twin.world, 1 / RATE) for run in part], windows=(steps, steps // 2), scale=(0.02, 0.02)) for part in (rest, [held])
    )
    before = unseen.compare(twin.roll(unseen.state, unseen.actions))
    settings = Settings(evaluations=0, iterations=options.iterations, explore=0)
    calibration = calibrate(twin, seen, PARAMETERS, held_out=unseen, settings=settings)
    for name, (low, high) in calibration.intervals(0.9).items():
        print(f"{name:22s} {calibration.values[name]:9.4g}   90 % interval {low:9.4g} to {high:9.4g}   identified by the authors as {twin.values[name]:.4g}")
    for line in directions_in_words(calibration, count=2):
        print(line)
    after = unseen.compare(calibration.twin.roll(unseen.state, unseen.actions))
    for name in after:
        sizes = [float(errors[name].square().nanmean().sqrt()) for errors in (before, after)]
        print(f"{name} up to {options.ahead:g} s ahead in {held.record}: RMS {sizes[0]:.4f} rad with the authors' parameters, {sizes[1]:.4f} rad calibrated")
    pictures = draw_calibration(calibration, unseen, labels=[held.record] * len(unseen))
    page = calibration_page(calibration, unseen, title="A real double pendulum", pictures=pictures)
    print(f"report: {page.write(options.folder / 'report.html')}")


if __name__ == "__main__":
    main(tyro.cli(Options))
