"""Cost that planners reach in closed loop, at equal numbers of rollouts a plan: ours as they come, peers tuned to every task.

Twenty episodes of every task, from the same start states for all. A peer's settings for a task are those of a grid that cost least in episodes from other
starts; ours are the same for all tasks. The full run chooses them and keeps them in `artefacts/planning_peers.json`, which takes half an hour; as long as
grids and episodes stay as they were, later runs take them from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, settings_hash
from benchmarks.planning_peers import missing_mppi
from benchmarks.planning_tasks import Task, all_tasks
from benchmarks.planning_timing import fast_steps
from benchmarks.planning_torchrl import TorchrlProcess
from structwm.interfaces import Planner
from structwm.planning import CEM, ICEM, MPC, MPPI, GradientPlanner, Hybrid, PredictiveSampling, SplineMPPI

Settings = dict[str, Any]
Episodes = Callable[[Task, Tensor, Settings, int], np.ndarray]  # costs (N,) of episodes from starts (N, D) under a seed

BUDGET = 512  # rollouts a plan; one more verifies an average
SEEDS = {"test": (20, 0), "tune": (4, 1000)}  # how many episodes, and the seed of their starts
QUICK_TASKS, QUICK_EPISODES = ("double integrator", "pendulum swing-up"), 5
KEPT = Path(__file__).parent / "artefacts" / "planning_peers.json"
WIDE, COLD, ROUNDS = (
    (0.1, 0.25, 0.5, 1.0),
    (0.0001, 0.001, 0.01),
    (1, 4),
)  # std of the noise over half the range; temperature over the costs' spread; iterations
GRIDS: dict[str, list[Settings]] = {
    "pytorch_mppi MPPI": [{"std": s, "cold": c, "rounds": r} for s, c, r in product(WIDE, COLD, ROUNDS)],
    "pytorch_mppi SMPPI": [{"std": s, "cold": c, "rounds": r} for s, c, r in product((0.05, 0.1, 0.25, 0.5), COLD, ROUNDS)],
    "pytorch_mppi KMPPI": [{"std": s, "cold": c, "rounds": r, "points": p} for s, c, r, p in product((0.25, 0.5, 1.0), COLD, ROUNDS, (2, 5))],
    "TorchRL CEM": [{"scale": s, "top_k": k, "rounds": r} for s, k, r in product((0.25, 0.5, 1.0, 2.0), (8, 24), (4,))],
    "TorchRL MPPI": [{"scale": s, "cold": c, "top_k": k, "rounds": 4} for s, c, k in product((0.5, 1.0, 2.0), (0.001, 0.01, 0.1), (8, 64))],
}


def starts(task: Task, kind: str) -> Tensor:
    """Start states (N, D)."""
    count, seed = SEEDS[kind]
    return task.start(count, torch.Generator().manual_seed(seed))


def our_planners(horizon: int) -> dict[str, Planner]:
    """As they come; each with its share of the budget, a gradient counting as three rollouts. The first one is the default."""
    quarter: dict[str, Any] = {"horizon": horizon, "samples": BUDGET // 4, "iterations": 4}
    return {
        "SplineMPPI": SplineMPPI(**quarter),
        "MPPI": MPPI(anneal=0.7, **quarter),
        "CEM": CEM(**quarter),
        "iCEM": ICEM(**quarter),
        "PredictiveSampling": PredictiveSampling(horizon=horizon, samples=BUDGET),
        "Hybrid": Hybrid(search=SplineMPPI(**(quarter | {"samples": 102})), steps=8, finalists=4),
        "GradientPlanner": GradientPlanner(horizon=horizon, samples=8, steps=20),
    }


def own_episodes(task: Task, planner: Planner, x: Tensor, seed: int = 0) -> np.ndarray:
    """All episodes at once, which changes none of them."""
    steps, mpc = fast_steps(task), MPC(task.model, planner, task.objective, seed=seed)
    total = torch.zeros(len(x))
    for _ in range(task.steps):
        command = mpc.act(task.state(x))
        x = steps(x, command)
        total += task.cost(x, command)
    return total.double().numpy()


def cost_spread(task: Task) -> float:
    """Standard deviation of the costs of random action sequences, by which absolute temperatures are chosen."""
    x = starts(task, "tune").repeat_interleave(64, 0)
    generator, steps = torch.Generator().manual_seed(0), fast_steps(task)
    total = torch.zeros(len(x))
    for _ in range(task.horizon):
        command = task.low + (task.high - task.low) * torch.rand(len(x), len(task.low), generator=generator)
        x = steps(x, command)
        total += task.cost(x, command)
    return float(total.std())


def mppi_episodes(kind: str) -> Episodes:
    """pytorch_mppi: MPPI in its batched form, the others one episode after the other."""

    def run(task: Task, x: Tensor, settings: Settings, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        if kind == "MPPI":
            return _mppi_episode(task, x, settings, kind)
        return np.concatenate([_mppi_episode(task, row, settings, kind) for row in x.split(1)])

    return run


def _mppi_episode(task: Task, x: Tensor, settings: Settings, kind: str) -> np.ndarray:
    from pytorch_mppi import mppi as peer

    dynamics, middle = fast_steps(task), task.model.spec.action.centre
    sigma = torch.diag((settings["std"] * task.model.spec.action.half).square())
    rounds = settings["rounds"]
    size: Settings = {"num_samples": -(-(BUDGET + 1) // rounds), "horizon": task.horizon, "lambda_": settings["cold"] * cost_spread(task)}
    bounds = {"u_min": task.low - middle, "u_max": task.high - middle}  # around the middle, where its plans begin and end
    plain = (lambda s, u: dynamics(s, middle + u)), (lambda s, u: task.cost(s, middle + u)), x.shape[-1], sigma
    if kind == "MPPI":
        control = peer.MPPI_Batched(*plain, num_envs=len(x), **size, **bounds)
        control.U.zero_()
    elif kind == "SMPPI":
        control = peer.SMPPI(*plain, **size, action_min=bounds["u_min"], action_max=bounds["u_max"], w_action_seq_cost=0.0)
    else:
        points = max(2, task.horizon // settings["points"])
        kernel = peer.RBFKernel(sigma=settings["points"] / 2)
        control = peer.KMPPI(*plain, **size, **bounds, num_support_pts=points, kernel=kernel)
        control.U.zero_()
    total = torch.zeros(len(x))
    for _ in range(task.steps):
        for k in range(rounds):
            command = control.command(x if kind == "MPPI" else x[0], shift_nominal_trajectory=k == 0)
        command = (middle + command.reshape(len(x), -1)).clamp(task.low, task.high)
        x = dynamics(x, command)
        total += task.cost(x, command)
    return total.double().numpy()


def torchrl_episodes(server: TorchrlProcess, planner: str) -> Episodes:
    """TorchRL, all episodes at once."""

    def run(task: Task, x: Tensor, settings: Settings, seed: int) -> np.ndarray:
        size = {"planning_horizon": task.horizon, "optim_steps": settings["rounds"], "num_candidates": -(-(BUDGET + 1) // settings["rounds"])}
        extra = {"temperature": 1 / (settings["cold"] * cost_spread(task))} if planner == "mppi" else {}
        options = {"scale": settings["scale"], "top_k": settings["top_k"]}
        return np.array(server.episodes(planner, task.name, x.tolist(), size | options | extra, seed))

    return run


def chosen(peers: Mapping[str, Episodes], tasks: list[Task], quick: bool) -> dict[str, dict[str, Settings]]:
    """Settings by peer and task, those that were kept or else new ones, which a quick run does not look for."""
    key = settings_hash(GRIDS, BUDGET, SEEDS["tune"])
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    found: dict[str, dict[str, Settings]] = kept.get("chosen", {}) if kept.get("settings") == key else {}
    missing = [(task, peer) for task in tasks for peer in peers if task.name not in found.get(peer, {})]
    if quick and missing:
        raise RuntimeError(f"No settings were kept for {missing[0][1]} on {missing[0][0].name}; run benchmarks.planning without --quick once.")
    for task in tasks:
        x = starts(task, "tune")
        for name, episodes in peers.items():
            if (task, name) not in missing:
                continue
            tried = track(GRIDS[name], f"tuning {name} to {task.name}", transient=True)
            costs = [_finite(episodes(task, x, settings, SEEDS["tune"][1])).mean() for settings in tried]
            found.setdefault(name, {})[task.name] = GRIDS[name][int(np.argmin(costs))]
        KEPT.write_text(json.dumps({"settings": key, "chosen": found}, indent=1) + "\n")
    return found


def _finite(costs: np.ndarray) -> np.ndarray:
    return np.nan_to_num(costs, nan=np.inf)


def ratio_interval(peer: np.ndarray, ours: np.ndarray) -> tuple[float, float, float]:
    """Ratio of mean costs, with a 90 % interval by the bootstrap over episodes, which both share."""
    rows = np.random.default_rng(0).integers(0, len(ours), (4000, len(ours)))
    low, high = np.quantile(peer[rows].mean(1) / ours[rows].mean(1), (0.05, 0.95))
    return float(peer.mean() / ours.mean()), float(low), float(high)


def all_peers(server: TorchrlProcess | None) -> dict[str, Episodes]:
    """Those that are installed."""
    found = {} if missing_mppi() else {f"pytorch_mppi {kind}": mppi_episodes(kind) for kind in ("MPPI", "SMPPI", "KMPPI")}
    return found | ({} if server is None else {f"TorchRL {name.upper()}": torchrl_episodes(server, name) for name in ("cem", "mppi")})


@torch.no_grad()
def quality_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`quality_ratio`: the worst, over tasks and peers, of a peer's mean cost over that of the default planner."""
    server, why = None, missing_mppi()
    try:
        server = TorchrlProcess()
    except RuntimeError as error:
        why = why or str(error)
    try:
        peers = all_peers(server)
        return compared(peers, why, quick, console)
    finally:
        if server is not None:
            server.close()


def compared(peers: Mapping[str, Episodes], why: str | None, quick: bool, console: Console) -> dict[str, Any]:
    """Run all episodes, print what they cost, and claim."""
    tasks = [task for task in all_tasks() if not quick or task.name in QUICK_TASKS]
    settings, episodes = chosen(peers, tasks, quick), QUICK_EPISODES if quick else SEEDS["test"][0]
    costs: dict[str, dict[str, np.ndarray]] = {}
    for task in tasks:
        x = starts(task, "test")[:episodes]
        for name, planner in our_planners(task.horizon).items():
            if not quick or name == "SplineMPPI":
                costs.setdefault(name, {})[task.name] = own_episodes(task, planner, x)
        for name, run in peers.items():
            costs.setdefault(name, {})[task.name] = _finite(run(task, x, settings[name][task.name], SEEDS["test"][1]))
    names = [task.name for task in tasks]
    table = Table("planner", *names, title=f"mean cost of {episodes} episodes, {BUDGET} rollouts a plan (90 % interval of the mean)")
    for name, found in costs.items():
        table.add_row(name, *(f"{v.mean():.4g} ± {1.645 * v.std(ddof=1) / len(v) ** 0.5:.2g}" for v in (found[task] for task in names)))
    console.print(table)
    ratios = Table("peer over SplineMPPI", *names, title="ratio of mean costs, paired (90 % interval)")
    every: list[tuple[float, float, float]] = []
    for name in peers:
        row = [ratio_interval(costs[name][task], costs["SplineMPPI"][task]) for task in names]
        every += row
        ratios.add_row(name, *(f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in row))
    if every:
        console.print(ratios)
    if why:
        return {"quality_ratio": claim(None, why=why)}
    value, low, high = min(every)
    return {"quality_ratio": claim(value, n=episodes, low=low, high=high)}


if __name__ == "__main__":
    import sys

    from structwm.demos.pushing import one_thread

    with one_thread():
        print(quality_claims("--quick" in sys.argv, Console(width=150)))
