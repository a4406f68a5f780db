"""Calibrate a twin of a real cube on a few of its tosses, and predict tosses it has not seen from their first frame to their last.

The tosses are those of ContactNets (Pfrommer, Halm and Posa, CoRL 2020). Any engine can be calibrated the same way.

    python examples/calibrate_cube.py --tosses 16 --engines rigid mujoco
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from structwm.data.cube_tosses import RATE, ROUNDING, SIDE, Toss, read_cube_tosses, toss_split
from structwm.demos.real_worlds import tossed_cube
from structwm.physics import BulletTwin, MujocoTwin, RigidRun, RigidTwin, Settings, calibrate, rigid_recording
from structwm.report.calibration import calibration_page, draw_calibration

ENGINES = {"rigid": RigidTwin, "bullet": BulletTwin, "mujoco": MujocoTwin}
PARAMETERS = ("friction", "restitution", "stiffness", "inertia", "offset", "gravity")


@dataclass(frozen=True)
class Options:
    """What to run."""

    tosses: int = 16  # that calibrate
    engines: tuple[Literal["rigid", "bullet", "mujoco"], ...] = ("rigid",)  # PyBullet takes minutes
    substeps: int = 4  # of the engine in a frame of 6.8 ms
    evaluations: int = 600  # draws of the global search
    round_edges: bool = True  # as the recordings show them
    folder: Path = Path("runs/calibrate_cube")  # of the report


def run_of(toss: Toss) -> RigidRun:
    """A toss as a run, from its twist at the first row."""
    return RigidRun({"cube": toss.poses}, {"cube": np.concatenate((toss.start[None], toss.twists[1:]))}, name=f"toss {toss.number}")


def main(options: Options) -> None:
    options.folder.mkdir(parents=True, exist_ok=True)
    tosses = read_cube_tosses()
    order, test = toss_split(len(tosses))
    settings = Settings(evaluations=options.evaluations, iterations=0, explore=options.evaluations // 3)
    for engine in options.engines:
        twin = ENGINES[engine](tossed_cube(ROUNDING if options.round_edges else 0.0), dt=1 / RATE, substeps=options.substeps)
        some, others = (rigid_recording(twin, [run_of(tosses[i]) for i in part]) for part in (order[: options.tosses], test))
        begin = time.perf_counter()
        calibration = calibrate(twin, some, PARAMETERS, held_out=others, settings=settings)
        print(f"\n{type(twin).__name__}, calibrated on {options.tosses} tosses in {time.perf_counter() - begin:.0f} s")
        for name, (low, high) in calibration.intervals(0.9).items():
            print(f"  {name:16s} {calibration.values[name]:10.4g}   90 % interval {low:.4g} to {high:.4g}")

        with torch.no_grad():
            states = calibration.twin.roll(others.state, others.actions).states
        poses = calibration.twin.scene.poses(states)[:, :, 0].numpy()
        errors = [np.linalg.norm(poses[k, 1 : len(tosses[i].poses), :3] - tosses[i].poses[1:, :3], axis=1).mean() / SIDE for k, i in enumerate(test)]
        print(f"  mean position error on {len(test)} other tosses: {100 * np.mean(errors):.1f} % of the cube's width, median {100 * np.median(errors):.1f} %")

        names = [f"toss {tosses[i].number}" for i in test]
        page = calibration_page(
            calibration, others, title=f"A real cube in {type(twin).__name__}", pictures=draw_calibration(calibration, others, labels=names)
        )
        print(f"  report: {page.write(options.folder / f'{engine}.html')}")


if __name__ == "__main__":
    main(tyro.cli(Options))
