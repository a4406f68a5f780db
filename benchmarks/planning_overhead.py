"""What a plan costs beyond what it must do: the same noise, bounds, dynamics and costs in a bare loop on plain tensors, timed in turns with the planners.

The bare loop is the fastest of four: actions laid out by candidate or by time, costs summed as it goes or taken of all states at once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim
from benchmarks.planning_tasks import Task
from benchmarks.planning_timing import HORIZONS, SAMPLES, STD, Timed, fused_push, interleaved, seconds_of, sizes, starts, timed_tasks
from structwm.noise import Noise
from structwm.physics import PushTwin
from structwm.planning import CEM, ICEM, MPPI, SplineMPPI
from structwm.planning.sampling import SamplingPlanner

CLAIMED = ("small network", "pushing")  # the double integrator's step takes less time than any call
Raw = Callable[[], Tensor]


def candidates(task: Task, mean: Tensor, samples: int, *, timewise: bool) -> Tensor:
    """Action sequences inside the bounds around means (B, H, A): (B, S, H, A), or `timewise` (B, H, S, A)."""
    problems, horizon, size = mean.shape
    noise = Noise.from_seed(0, problems).normal((problems, horizon, samples, size) if timewise else (problems, samples, horizon, size))
    low, high = float(task.low[0]), float(task.high[0])  # the bounds of these tasks are alike on all axes
    return noise.mul_(STD * (high - low) / 2).add_(mean.unsqueeze(2 if timewise else 1)).clamp_(low, high)


def raw_steps(task: Task, start: Tensor, samples: int, horizon: int, *, timewise: bool, late: bool) -> Raw:
    """The bare loop; costs are summed as it goes, or `late`, of all states at once."""
    problems = len(start)
    mean = torch.zeros(problems, horizon, len(task.low))

    @torch.no_grad()
    def run() -> Tensor:
        drawn = candidates(task, mean, samples, timewise=timewise)
        actions = drawn.movedim(1, 0) if timewise else drawn.movedim(2, 0)  # (H, B, S, A)
        x = start.unsqueeze(1).expand(problems, samples, -1)
        if late:
            states = torch.empty(horizon, *x.shape)
            for t in range(horizon):
                states[t] = x = task.dynamics(x, actions[t])
            return task.cost(states, actions).sum(0)
        total = torch.zeros(problems, samples)
        for t in range(horizon):
            x = task.dynamics(x, actions[t])
            total += task.cost(x, actions[t])
        return total

    return run


def raw_push(task: Task, start: Tensor, samples: int, horizon: int, *, late: bool) -> Raw:
    """The same with the kernel that rolls whole pushes out."""
    assert isinstance(task.model, PushTwin)
    roll, problems = fused_push(task.model), len(start)
    mean = torch.zeros(problems, horizon, 2)

    @torch.no_grad()
    def run() -> Tensor:
        actions = candidates(task, mean, samples, timewise=False).flatten(0, 1)
        poses, pushers = roll(start.repeat_interleave(samples, 0), actions)
        if late:
            return task.cost(torch.cat((poses[:, 1:], pushers[:, 1:]), -1), actions).sum(-1).view(problems, samples)
        total = torch.zeros(len(actions))
        for t in range(horizon):
            total += task.cost(torch.cat((poses[:, t + 1], pushers[:, t + 1]), -1), actions[:, t])
        return total.view(problems, samples)

    return run


def fastest(task: Task, start: Tensor, samples: int, horizon: int) -> Raw:
    """The fastest bare loop."""
    if isinstance(task.model, PushTwin):
        loops = [raw_push(task, start, samples, horizon, late=late) for late in (False, True)]
    else:
        kinds = product((False, True), repeat=2)
        loops = [raw_steps(task, start, samples, horizon, timewise=timewise, late=late) for timewise, late in kinds]
    found = interleaved({str(k): seconds_of(loop) for k, loop in enumerate(loops)}, seconds=0.1, rounds=(5, 60))
    return loops[min(range(len(loops)), key=lambda k: median(found[str(k)]))]


def planned(task: Task, planner: SamplingPlanner, start: Tensor) -> Timed:
    """A plan from nothing."""
    state = task.state(start)
    return seconds_of(lambda: planner.plan(task.model, state, task.objective))


def planners(samples: int, horizon: int) -> dict[str, SamplingPlanner]:
    """Planners that draw as many candidates in an iteration as the bare loop; the first one is claimed."""
    size: dict[str, Any] = {"samples": samples, "horizon": horizon, "std": STD}
    return {
        "MPPI": MPPI(verify=False, **size),
        "verified": MPPI(**size),
        "SplineMPPI": SplineMPPI(iterations=4, **size),
        "CEM": CEM(iterations=4, **size),
        "iCEM": ICEM(iterations=4, **size),
    }


def overheads(task: Task, problems: int, samples: int, horizon: int, *, quick: bool) -> tuple[float, dict[str, list[float]]]:
    """Seconds of the bare loop, and by planner the ratios to it per iteration, round by round; all planners where that does not take minutes."""
    start = starts(task, problems)
    each = planners(samples, horizon)
    raw, claimed = seconds_of(fastest(task, start, samples, horizon)), next(iter(each))
    sides: dict[str, Timed] = {name: planned(task, planner, start) for name, planner in each.items()}
    pair = interleaved({"raw": raw, claimed: sides.pop(claimed)}, seconds=0.4 if quick else 3.0, rounds=(5, 100) if quick else (11, 500))
    ratios = {claimed: [a / b for a, b in zip(pair[claimed], pair["raw"], strict=True)]}
    if not quick and (samples, horizon) == (SAMPLES[0], HORIZONS[0]):
        found = interleaved({"raw": raw, **sides}, seconds=2.0, rounds=(5, 60))
        ratios |= {name: [a / (each[name].iterations * b) for a, b in zip(found[name], found["raw"], strict=True)] for name in sides}
    return median(pair["raw"]), ratios


def overhead_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`overhead_b1`, `overhead_b16`, `overhead_b64`."""
    names = list(planners(256, 15))
    title = "time of a plan over that of a bare loop per iteration, median; once in touch, what later iterations try with `pushing` costs its kernel more"
    table = Table("dynamics", "B", "S", "H", "bare loop, ms", *names, title=title)
    worst: dict[int, list[tuple[float, list[float]]]] = {}
    for task in timed_tasks():
        for problems, samples, horizon in sizes(quick):
            bare, ratios = overheads(task, problems, samples, horizon, quick=quick)
            middle = {name: median(values) for name, values in ratios.items()}
            cells = [f"{middle[name]:.3f}" if name in middle else "" for name in names]
            table.add_row(task.name, str(problems), str(samples), str(horizon), f"{1e3 * bare:.2f}", *cells)
            if task.name in CLAIMED:
                worst.setdefault(problems, []).append((middle[names[0]], ratios[names[0]]))
    console.print(table)
    claims = {}
    for problems, found in worst.items():
        value, rounds = max(found, key=lambda entry: entry[0])
        low, high = torch.tensor(rounds).quantile(torch.tensor([0.05, 0.95])).tolist()
        claims[f"overhead_b{problems}"] = claim(value, n=len(rounds), low=low, high=high)
    return claims


if __name__ == "__main__":
    import sys

    from structwm.demos.pushing import one_thread

    with one_thread():
        print(overhead_claims("--quick" in sys.argv, Console(width=150)))
