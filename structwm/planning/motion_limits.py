"""Limits of motion: how fast bodies move, and how fast actions change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structwm.interfaces import Constraint
from structwm.transition import Trajectory

from .action_costs import after, continuous
from .goals import of_bodies


class SpeedLimit(Constraint):
    """Bodies stay below speeds at every instant after the start.

    Args:
        linear: of their origins [m/s], or None.
        angular: [rad/s], or None.
        bodies: numbers or names in the twists view; all if not given.
    """

    needs = frozenset({"twists"})
    per_step = True

    def __init__(self, *, linear: float | None = None, angular: float | None = None, bodies: Sequence[int | str] | None = None) -> None:
        limits = [value for value in (linear, angular) if value is not None]
        if not limits or not all(value >= 0 for value in limits):
            raise ValueError(f"SpeedLimit needs a limit of zero or more, linear, angular or both, got {linear} and {angular}.")
        self.linear, self.angular, self.bodies = linear, angular, bodies
        words = (("speed", linear, "m/s"), ("turning rate", angular, "rad/s"))
        self.names = tuple(f"{what} is at most {limit:g} {unit}" for what, limit, unit in words if limit is not None)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        twists = trajectory.twists()[..., 1:, :, :]
        if self.bodies is not None:
            twists = of_bodies(twists, trajectory.scene, self.bodies)
        parts = ((self.linear, twists[..., :3]), (self.angular, twists[..., 3:]))
        return torch.stack([part.norm(dim=-1).amax(dim=(-2, -1)) - limit for limit, part in parts if limit is not None], -1)


class ActionRateLimit(Constraint):
    """Consecutive actions differ by no more than a limit.

    Args:
        limit: of the change in a step, in the action's unit: one for all axes, or (A,), each of which is then a condition of its own.
        previous: the action (A,) or (B, A) that was taken before the plan; the first change is free if not given.
    """

    def __init__(self, limit: float | Sequence[float] | Tensor, *, previous: Tensor | None = None) -> None:
        self.limit, self.previous = torch.as_tensor(limit, dtype=torch.float64), previous
        if self.limit.ndim > 1 or not bool((self.limit >= 0).all()) or (previous is not None and previous.ndim not in (1, 2)):
            raise ValueError(f"ActionRateLimit needs limits () or (A,) of zero or more and a previous action (A,) or (B, A), got {limit} and {previous}.")
        each = {"an action": self.limit.item()} if not self.limit.ndim else {f"action {axis}": value for axis, value in enumerate(self.limit.tolist())}
        self.names = tuple(f"{name} changes by at most {value:g} a step" for name, value in each.items())

    def __call__(self, trajectory: Trajectory) -> Tensor:
        actions, used = continuous(trajectory, "ActionRateLimit")
        if used is not None:
            actions = torch.where(used, actions, 0.0)
        if self.limit.ndim and len(self.limit) != actions.shape[-1]:
            raise ValueError(f"ActionRateLimit has {len(self.limit)} limits, got actions of {actions.shape[-1]} numbers.")
        change = after(self.previous, actions, trajectory, "ActionRateLimit").diff(dim=-2).abs()
        if not change.shape[-2]:
            change = torch.zeros_like(actions[..., :1, :])
        largest = change.amax(-2)
        return (largest if self.limit.ndim else largest.amax(-1, keepdim=True)) - self.limit.to(actions)
