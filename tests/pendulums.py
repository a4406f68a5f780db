"""A pendulum's recorded swings, small enough to be trained on in a test."""

from __future__ import annotations

import torch

from structwm.demos.toys import Pendulum, PendulumState
from structwm.training.delta_model import DeltaModel
from structwm.training.windows import Batch


def swings(count: int, horizon: int, *, seed: int, reach: float = 3.0, length: float = 1.0) -> Batch:
    """Windows of a true pendulum under random torques."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, horizon + 2, 1, generator=generator) * 2 - 1
    model = Pendulum(length=length)
    start = PendulumState(angle=reach * uniform[:, 0], rate=reach * uniform[:, 1], batch_size=[count])
    actions = 5.0 * uniform[:, 2:]
    return Batch(model.rollout(start, actions).states, actions, torch.ones(count, horizon + 1, dtype=torch.bool))


def network(windows: Batch, *, seed: int = 0, hidden: tuple[int, ...] = (24, 24), **options: object) -> DeltaModel:
    """A fresh network for pendulums."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DeltaModel.like(Pendulum(), windows, hidden=hidden, angles=("angle",), **options)
