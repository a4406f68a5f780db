"""What the timings of planners share: sizes, a small network to plan with, steps of `PushTwin` on plain tensors, and rounds in which the sides take turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.planning_tasks import Dynamics, Task, VectorModel, double_integrator, pushing
from structwm.kernels import pushing as kernel
from structwm.physics import PushTwin

PROBLEMS = (1, 16, 64)
SAMPLES = (256, 1024)
HORIZONS = (15, 50)
STD = 0.5  # of the noise, as a fraction of half the action range
Timed = Callable[[], float]  # does its work once and gives the seconds it took
Sizes = list[tuple[int, int, int]]


def sizes(quick: bool) -> Sizes:
    """Problems B, candidates S and horizons H; when it is quick, those without the most work."""
    every = [(b, s, h) for b in PROBLEMS for s in SAMPLES for h in HORIZONS]
    return [(b, s, h) for b, s, h in every if (s, h) == (256, 15)] if quick else every


class Network(nn.Module):
    """A step of a state of 4 numbers under 2 actions, by two hidden layers of 64."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).requires_grad_(False)

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        moved: Tensor = x + 0.1 * self.layers(torch.cat((x, u), -1))
        return moved


def network() -> Task:
    """Comes to rest at the origin of a small network's state."""
    plain = double_integrator()
    dynamics = Network()
    model = VectorModel(dynamics, ("x", "y", "vx", "vy"), [-1.0] * 2, [1.0] * 2, 0.1)
    return Task("small network", model, dynamics, plain.cost, plain.start, 20, 60)


def push_table(twin: PushTwin) -> Tensor:
    """(1, P) the fused kernel's parameters of a twin of one draw."""
    values = dict(twin.values)
    contact = torch.stack([values[name].float() for name in kernel.PARAMETERS], -1)
    return torch.cat((contact, twin.support.coefficients(values).float()), -1).reshape(1, -1)


def fused_push(twin: PushTwin) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """From states (N, 5) and velocities (N, H, 2) to poses (N, H+1, 3) and pushers (N, H+1, 2), by the kernel alone."""
    table, centroid = push_table(twin), (float(twin.support.centroid[0]), float(twin.support.centroid[1]))
    gyration, dt = twin.support.gyration, twin.spec.dt
    assert dt is not None

    def roll(x: Tensor, velocities: Tensor) -> tuple[Tensor, Tensor]:
        row = torch.zeros(len(x), dtype=torch.int32)
        pose, pusher = x[:, :3], x[:, 3:]
        return kernel.rollout(pose, pusher, velocities, table, row, twin.shape, centroid=centroid, gyration=gyration, dt=dt, substeps=twin.substeps)

    return roll


def fast_steps(task: Task) -> Dynamics:
    """One step on plain tensors (N, D), (N, A) as fast as it can be done: `PushTwin` steps in its kernel, not in torch."""
    if not isinstance(task.model, PushTwin):
        return task.dynamics
    roll = fused_push(task.model)

    def step(x: Tensor, u: Tensor) -> Tensor:
        poses, pushers = roll(x.reshape(-1, 5), u.reshape(-1, 1, 2))
        return torch.cat((poses[:, 1], pushers[:, 1]), -1).reshape(*x.shape)

    return step


def timed_tasks() -> list[Task]:
    """What is planned with."""
    return [double_integrator(), network(), pushing()]


def starts(task: Task, problems: int) -> Tensor:
    """Start states (B, D)."""
    return task.start(problems, torch.Generator().manual_seed(0))


def steady_starts(task: Task, problems: int) -> Tensor:
    """The same, but the finger of a pushing task is a metre away: a step then costs the same whatever a planner has in mind. Touching costs more."""
    x = starts(task, problems)
    if isinstance(task.model, PushTwin):
        x[:, 3] -= 1.0
    return x


def seconds_of(work: Callable[[], object]) -> Timed:
    """Wall time of a call."""

    def run() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return run


def interleaved(sides: Mapping[str, Timed], *, seconds: float, rounds: tuple[int, int]) -> dict[str, list[float]]:
    """Seconds of every side, round by round, after two rounds that do not count; as many `rounds` as fit into so many seconds, within limits."""
    warm = sum(run() for run in sides.values())
    warm = min(warm, sum(run() for run in sides.values()))
    fewest, most = rounds
    found: dict[str, list[float]] = {name: [] for name in sides}
    for k in range(max(fewest, min(most, math.ceil(seconds / warm)))):
        for name in list(sides) if k % 2 == 0 else list(sides)[::-1]:  # neither side always runs in the other's wake
            found[name].append(sides[name]())
    return found


def sized(task: Task, horizon: int) -> Task:
    """The task with another horizon."""
    return replace(task, horizon=horizon)
