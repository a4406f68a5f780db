"""Calibrate a twin on recorded pushes of an object, then push the object to goal poses.

The object lives in MuJoCo here. With a robot, fill `Pushes` with what it measured: outline, tip radius, and for each straight push the object's pose
[m, m, rad] before and after, and the tip's position [m] before and after.

    python examples/calibrate_and_push.py --pushes 20 --goals 3
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro

from structwm.data import Pushes
from structwm.demos.push_control import push_to_goals, random_goals
from structwm.physics import Settings, calibrate, push_recording, push_twin
from structwm.physics.pushing import CALIBRATED
from structwm.worlds import make, record_pushes


@dataclass(frozen=True)
class Options:
    """What to run."""

    pushes: int = 20  # that calibrate; fewer widen the intervals
    goals: int = 3  # random poses within 10 cm and 60 degrees
    seed: int = 0


def main(options: Options) -> None:
    worlds = [make("mujoco", pusher_radius=0.01, center_of_mass=(0.015, -0.008)) for _ in range(options.goals)]
    config = worlds[0].config
    recorded = record_pushes(worlds[0], options.pushes, seed=options.seed)
    measured = {name: getattr(recorded, name) for name in ("init_pose", "final_pose", "init_tip", "final_tip")}
    pushes = Pushes(surface="table", shape="box", outline=config.vertices, tip_radius=config.pusher_radius, **measured)

    calibration = calibrate(push_twin(pushes), push_recording(pushes), CALIBRATED, settings=Settings(evaluations=0))
    for name, (low, high) in calibration.intervals(0.9).items():
        print(f"{name:18s} {calibration.values[name]:7.3f}   90 % interval {low:7.3f} to {high:7.3f}")
    print(f"mean error on held-out pushes: yaw {calibration.errors['held out']['yaw']:.4f} rad, x {1000 * calibration.errors['held out']['x']:.2f} mm")

    twin = calibration.twin.with_timing(dt=config.dt, substeps=5)
    starts, goals = random_goals(options.goals, seed=options.seed)
    run = push_to_goals(worlds, starts, goals, twin, twin)
    for i, reached in enumerate(run.reached):
        position, yaw = 1000 * run.position_error[i], np.degrees(run.yaw_error[i])
        print(f"goal {i + 1}: {'reached' if reached else 'missed'} after {run.steps[i] * config.dt:.1f} s, {position:.1f} mm and {yaw:.1f} degrees off")


if __name__ == "__main__":
    main(tyro.cli(Options))
