"""Calibrate a rod on recordings of a rope by cameras, then bring the rope to shapes by MPC: hanging, lying between two grippers, dragged by one.

The rope lives in PyBullet here. With a robot, give `calibrate_rod` recordings of your own rope, and `reach_shapes` worlds whose nodes you track.

    python examples/rope_goals.py --trials 3
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from structwm.demos.pushing import one_thread
from structwm.demos.rope_control import RopeControl, join_runs, reach_shapes
from structwm.demos.rope_models import calibrate_rod, explore, rod_model
from structwm.demos.rope_task import RopeTask, make_trials, sections
from structwm.report.ropes import rope_shapes


@dataclass(frozen=True)
class Options:
    """What to run."""

    trials: int = 3  # one of each kind; about half a minute each
    steps: int = RopeControl.steps  # of 0.2 s
    seed: int = 100
    out: Path = Path("runs/rope_goals.png")


def main(options: Options) -> None:
    console, task = Console(), RopeTask()
    calibration = calibrate_rod(task, [explore(task, seed=options.seed + number) for number in range(3)])
    for name, (low, high) in calibration.intervals(0.9).items():
        console.print(f"{name:18s} {calibration.values[name]:9.3g}   90 % interval {low:9.3g} to {high:9.3g}")
    trials = make_trials(task, options.trials, seed=options.seed)
    values = {name: float(value) for name, value in calibration.values.items()}
    parts = []
    for grippers in (1, 2):
        numbers = [k for k, trial in enumerate(trials) if len(trial.grippers) == grippers]
        if numbers:
            control = RopeControl(steps=options.steps, seed=options.seed)
            parts.append((numbers, reach_shapes(task, [trials[k] for k in numbers], rod_model(task, grippers, values), control)))
    run = join_runs(parts)
    table = Table("goal", "before [mm]", "after [mm]", "greatest stretch", "reached")
    for k, kind in enumerate(run.kinds):
        table.add_row(kind, f"{1e3 * run.before[k]:.0f}", f"{1e3 * run.after[k]:.1f}", f"{100 * run.stretch[k]:.0f} %", "yes" if run.reached[k] else "no")
    console.print(table)
    console.print(f"a plan: {1e3 * run.plan_seconds[1:].mean() / len(trials):.0f} ms a rope")
    starts, goals = (sections(np.stack([getattr(trial, name) for trial in trials])).numpy() for name in ("start", "goal"))
    titles = [f"{kind}: {1e3 * after:.1f} mm" for kind, after in zip(run.kinds, run.after, strict=True)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(rope_shapes(starts, goals, sections(run.nodes).numpy(), titles, clouds=[trial.cloud for trial in trials]))
    console.print(f"picture: {options.out}")


if __name__ == "__main__":
    with one_thread():
        main(tyro.cli(Options))
