"""Shapes of a rope reached in PyBullet's soft body by MPPI on a rod that was calibrated on recordings by cameras of other motions.

Goals are what random other motions led to, none nearer than 5 cm (chamfer) to its start: hanging from two grippers, laid on the ground by two, or dragged by
one. Reached is a mean chamfer distance of both directions between the centre lines of at most 1 cm at rest, without a stretch of any edge beyond the limit at
any time. What the controller sees is in `structwm.demos.rope_control.reach_shapes`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.claims import claim, fraction_claim, median_claim
from structwm.demos.rope_control import RopeControl, RopeRun, do_nothing, join_runs, reach_shapes, straight_to_ends
from structwm.demos.rope_models import calibrate_rod, explore, rod_model
from structwm.demos.rope_task import KINDS, RopeTask, RopeTrial, make_trials

TRIALS, QUICK = 50, 3
EXPLORATIONS = 3
BLIND = 9  # trials of the uncalibrated rod
SEED = 0  # of the trials; planner and calibration were developed on others
PHYSTWIN = 2305.0  # seconds a plan, as its authors say


def planning_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Calibrate, plan and act, beside what does without."""
    task, control = RopeTask(), RopeControl(seed=SEED)
    begin = time.perf_counter()
    seen = [explore(task, seed=SEED + number) for number in range(EXPLORATIONS)]
    middle = time.perf_counter()
    calibration = calibrate_rod(task, seen)
    seconds = time.perf_counter() - middle
    values = {name: float(value) for name, value in calibration.values.items()}
    listed = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    made = f"{EXPLORATIONS} recordings of {float(seen[0].times[-1]):.0f} s by three cameras made in {middle - begin:.1f} s"
    console.print(f"{made}; calibrated in {seconds:.1f} s: {listed}")
    begin = time.perf_counter()
    trials = make_trials(task, QUICK if quick else TRIALS, seed=SEED)
    start = 1e3 * np.array([trial.distance for trial in trials])
    spread = ", ".join(f"{value:.0f}" for value in np.quantile(start, (0, 0.1, 0.5, 0.9, 1)))
    console.print(f"{len(trials)} trials made in {time.perf_counter() - begin:.0f} s; chamfer from start to goal, least, 10 %, 50 %, 90 %, most: {spread} mm")
    begin = time.perf_counter()
    runs = [controlled(task, trials, values, control, "MPPI, calibrated rod", console)]
    runs.append(do_nothing(task, trials))
    if not quick:
        runs.append(controlled(task, trials[:BLIND], {}, control, "MPPI, rod of default parameters", console))
        runs.append(straight_to_ends(task, trials))
    console.print(f"all runs took {time.perf_counter() - begin:.0f} s")
    show(runs, task, console)
    alone = one_plan(task, trials[:1], values, control)
    console.print(f"one plan for one rope: {1e3 * np.median(alone):.0f} ms (PhysTwin, a published spring-mass twin: {PHYSTWIN:.0f} s)")
    ours = runs[0]
    claims = {
        "rope_goal_success": fraction_claim(int(ours.reached.sum()), len(trials)),
        "rope_goal_chamfer_mm": claim(float(1e3 * np.median(ours.after)), n=len(trials)),
        "rope_calibration_s": claim(seconds, n=1),
        "rope_plan_ms": median_claim([1e3 * value for value in alone]),
        "rope_batched_plan_ms": claim(float(1e3 * ours.plan_seconds.sum() / control.steps / len(trials)), n=control.steps),
        "rope_mpc_rate_hz": claim(float(control.steps * len(trials) / ours.step_seconds.sum()), n=control.steps),
    }
    why = "the full run only"
    for name, at in (("rope_goal_success_uncalibrated", 2), ("rope_goal_success_oracle_ends", 3)):
        claims[name] = claim(None, why=why) if quick else fraction_claim(int(runs[at].reached.sum()), len(runs[at].kinds))
    return claims


def controlled(task: RopeTask, trials: Sequence[RopeTrial], values: dict[str, Any], control: RopeControl, name: str, console: Console) -> RopeRun:
    """MPC of all trials, those with as many grippers together."""
    parts = []
    for grippers in (2, 1):
        some = [(number, trial) for number, trial in enumerate(trials) if len(trial.grippers) == grippers]
        begin = time.perf_counter()
        if some:
            run = reach_shapes(task, [trial for _, trial in some], rod_model(task, grippers, values), control, name=name)
            parts.append(([number for number, _ in some], run))
            plan = 1e3 * run.plan_seconds.mean() / len(some)
            console.print(
                f"{name}, {grippers} gripper(s): {run.reached.sum()} of {len(some)}; {plan:.0f} ms a plan and rope; {time.perf_counter() - begin:.0f} s"
            )
    return join_runs(parts)


def one_plan(task: RopeTask, trials: Sequence[RopeTrial], values: dict[str, Any], control: RopeControl) -> np.ndarray:
    """Seconds of each plan but the first, for one rope."""
    run = reach_shapes(task, trials, rod_model(task, len(trials[0].grippers), values), replace(control, steps=8), progress=False)
    return run.plan_seconds[1:]


def show(runs: Sequence[RopeRun], task: RopeTask, console: Console) -> None:
    """What each reached, by kind of goal."""
    table = Table("controller", "goals", "reached", "median chamfer before [mm]", "after [mm]", "90 % [mm]", "greatest stretch", "time to 1 cm [s]")
    for run in runs:
        kinds = np.array(run.kinds)
        for kind in ("all", *KINDS):
            own = np.ones(len(kinds), bool) if kind == "all" else kinds == kind
            if not own.any():
                continue
            before, after = 1e3 * run.before[own], 1e3 * run.after[own]
            when = run.arrival(task.dt)[own & run.reached]
            table.add_row(
                run.name if kind == "all" else "",
                kind,
                f"{run.reached[own].sum()} of {own.sum()}",
                f"{np.median(before):.0f}",
                f"{np.median(after):.1f}",
                f"{np.quantile(after, 0.9):.1f}",
                f"{100 * run.stretch[own].max():.0f} %",
                f"{np.median(when):.1f}" if run.path.shape[1] and len(when) else "-",
            )
        table.add_section()
    console.print(table)
