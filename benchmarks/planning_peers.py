"""Time of a plan beside pytorch_mppi (extra `peers`) and TorchRL (an environment of its own, see `planning_torchrl`).

All take the same dynamics and costs; for peers, which step, those of `PushTwin` come from its kernel too. For B > 1 pytorch_mppi is asked in its batched
form, which draws one set of noise for all problems, and so does ours where all problems have one seed; TorchRL plans over a batch by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim
from benchmarks.planning_tasks import Task, VectorModel
from benchmarks.planning_timing import PROBLEMS, STD, Timed, fast_steps, interleaved, seconds_of, sizes, steady_starts, timed_tasks
from benchmarks.planning_torchrl import TorchrlProcess
from structwm.planning import CEM, MPPI
from structwm.planning.sampling import SamplingPlanner

TEMPERATURE = 1.0  # in units of the cost, as pytorch_mppi has it
ITERATIONS, ELITES = 4, 24  # beside TorchRL
LONGEST = 2.0  # seconds of a plan from which on a size is measured five times instead of seven and more
Found = dict[int, list[tuple[float, list[float]]]]  # by problems: median ratio and the ratio of every round


def missing_mppi() -> str | None:
    """Why there is no pytorch_mppi; None where there is."""
    try:
        import pytorch_mppi  # noqa: F401
    except ImportError as error:
        return f"pytorch_mppi cannot be imported ({error}); make peers installs it"
    return None


def mppi_controller(task: Task, problems: int, samples: int, horizon: int) -> tuple[Any, Callable[[Tensor], Any]]:
    """pytorch_mppi's controller and the call that plans for states (B, D)."""
    import pytorch_mppi

    sigma = torch.diag((STD * task.model.spec.action.half).square())
    size: dict[str, Any] = {"num_samples": samples, "horizon": horizon, "lambda_": TEMPERATURE, "u_min": task.low, "u_max": task.high}
    dynamics, states = fast_steps(task), steady_starts(task, 1).shape[-1]
    if problems > 1:
        controller = pytorch_mppi.MPPI_Batched(dynamics, task.cost, states, sigma, num_envs=problems, **size)
        return controller, controller.command
    controller = pytorch_mppi.MPPI(dynamics, task.cost, states, sigma, **size)
    return controller, lambda x: controller.command(x[0])


def mppi_timed(task: Task, problems: int, samples: int, horizon: int, *, compiled: bool = False) -> Timed:
    """pytorch_mppi, plan after plan from the same state."""
    controller, command = mppi_controller(task, problems, samples, horizon)
    if compiled:
        controller.compile()
    x = steady_starts(task, problems)
    return seconds_of(torch.no_grad()(lambda: command(x)))


def own_timed(task: Task, planner: SamplingPlanner, problems: int, *, alike: bool = False) -> Timed:
    """Ours, each plan going on from the one before; `alike`: with one set of noise for all problems."""
    state = task.state(steady_starts(task, problems))
    seed: int | Tensor = torch.zeros(problems, dtype=torch.int64) if alike else 0
    last = [planner.plan(task.model, state, task.objective, seed=seed)]

    def work() -> None:
        last[0] = planner.plan(task.model, state, task.objective, previous=last[0], seed=seed)

    return seconds_of(work)


def own_mppi(samples: int, horizon: int, **changes: Any) -> MPPI:
    """As pytorch_mppi is set: one iteration, its average unseen."""
    return MPPI(samples=samples, horizon=horizon, std=STD, temperature=TEMPERATURE, absolute=True, **{"verify": False, **changes})


def measured(table: Table, label: tuple[str, ...], sides: Mapping[str, Timed], found: Mapping[str, Found], problems: int, *, quick: bool = False) -> None:
    """Time the sides of one size in turns, print them, and keep the ratios of every peer to "ours"."""
    begin = max(run() for run in sides.values())
    seconds = interleaved(sides, seconds=0.3 if quick else 1.5, rounds=(5, 40) if quick else (7, 100) if begin < LONGEST else (5, 5))
    ours = seconds["ours"]
    row = [f"{1e3 * median(ours):.2f}"]
    for name in sides:
        if name == "ours":
            continue
        ratios = [a / b for a, b in zip(seconds[name], ours, strict=True)]
        row += [f"{1e3 * median(seconds[name]):.2f}", f"{median(ratios):.2f}"]
        if name in found:
            found[name].setdefault(problems, []).append((median(ratios), ratios))
    table.add_row(*label, *row)


def worst(name: str, found: Found) -> dict[str, Any]:
    """The smallest ratio over sizes and dynamics, by number of problems."""
    claims = {}
    for problems, entries in found.items():
        value, rounds = min(entries, key=lambda entry: entry[0])
        low, high = torch.tensor(rounds).quantile(torch.tensor([0.05, 0.95])).tolist()
        claims[f"{name}_b{problems}"] = claim(value, n=len(rounds), low=low, high=high)
    return claims


def mppi_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`mppi_ratio_b1`, `mppi_ratio_b16`, `mppi_ratio_b64`."""
    why = missing_mppi()
    if why:
        return {f"mppi_ratio_b{problems}": claim(None, why=why) for problems in PROBLEMS}
    columns = ("MPPI", "pytorch_mppi", "ratio", "MPPI, noise of its own for each problem", "to MPPI", "MPPI, verified", "to MPPI")
    table = Table("dynamics", "B", "S", "H", *columns, title="pytorch_mppi: milliseconds of a plan, median")
    found: Found = {}
    for task in timed_tasks():
        for problems, samples, horizon in sizes(quick):
            sides = {
                "ours": own_timed(task, own_mppi(samples, horizon), problems, alike=True),
                "pytorch_mppi": mppi_timed(task, problems, samples, horizon),
                "own noise": own_timed(task, own_mppi(samples, horizon), problems),
                "verified": own_timed(task, own_mppi(samples, horizon, verify=True), problems, alike=True),
            }
            measured(table, (task.name, str(problems), str(samples), str(horizon)), sides, {"pytorch_mppi": found}, problems, quick=quick)
    console.print(table)
    if not quick:
        compiled(console)
    return worst("mppi_ratio", found)


def compiled(console: Console) -> None:
    """Both with dynamics and cost by `torch.compile`, which is not claimed."""
    if shutil.which("c++") is None and shutil.which("g++") is None:
        console.print("pytorch_mppi's compile() was left out: there is no C++ compiler")
        return
    table = Table("dynamics", "B", "S", "H", "MPPI", "pytorch_mppi", "ratio", title="dynamics and cost compiled: milliseconds of a plan, median")
    for task in timed_tasks()[:2]:  # the kernel of `PushTwin` is compiled already
        for problems in (1, 16):
            try:
                peer = mppi_timed(task, problems, 256, 15, compiled=True)
                peer()
            except Exception as error:
                console.print(f"pytorch_mppi's compile() fails here: {type(error).__name__}")
                return
            model = VectorModel(
                torch.compile(task.dynamics),
                task.model.scene.coordinate_names(task.state(steady_starts(task, 1))),
                task.low.tolist(),
                task.high.tolist(),
                float(task.model.spec.dt or 0.0),
            )
            fast = replace(task, model=model, cost=torch.compile(task.cost))
            sides = {"ours": own_timed(fast, own_mppi(256, 15), problems, alike=True), "pytorch_mppi": peer}
            measured(table, (task.name, str(problems), "256", "15"), sides, {}, problems)
    console.print(table)


def torchrl_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`torchrl_ratio_b1`, `torchrl_ratio_b16`, `torchrl_ratio_b64`: the worst also over its two planners."""
    try:
        server = TorchrlProcess()
    except RuntimeError as error:
        return {f"torchrl_ratio_b{problems}": claim(None, why=str(error)) for problems in PROBLEMS}
    names = ("dynamics", "B", "S", "H", "planner", "ours", "TorchRL", "ratio")
    table = Table(*names, title=f"TorchRL {server.version}: time of a plan of {ITERATIONS} iterations in milliseconds, median")
    found: Found = {}
    with server:
        for task in timed_tasks():
            for problems, samples, horizon in sizes(quick):
                size: dict[str, Any] = {"samples": samples, "horizon": horizon, "iterations": ITERATIONS, "std": STD}
                ours = {"cem": CEM(elites=ELITES, **size), "mppi": MPPI(verify=False, **size)}
                for name, planner in ours.items():
                    settings = {"planning_horizon": horizon, "optim_steps": ITERATIONS, "num_candidates": samples, "top_k": ELITES, "scale": STD}
                    server.prepare(name, task.name, problems, settings | ({"temperature": 1 / TEMPERATURE} if name == "mppi" else {}))
                    sides = {"ours": own_timed(task, planner, problems), "torchrl": server.time}
                    measured(table, (task.name, str(problems), str(samples), str(horizon), name.upper()), sides, {"torchrl": found}, problems, quick=quick)
    console.print(table)
    return worst("torchrl_ratio", found)


def peer_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Both."""
    return mppi_claims(quick, console) | torchrl_claims(quick, console)


if __name__ == "__main__":
    import sys

    from structwm.demos.pushing import one_thread

    with one_thread():
        print(peer_claims("--quick" in sys.argv, Console(width=150)))
