"""Costs of whole trajectories: predicted return, what comes after the horizon, time, uncertainty, and broken constraints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from structwm.interfaces import Constraint, Objective
from structwm.transition import Trajectory

from .goals import GoalObjective


class PredictedReturn(Objective):
    """The negative of the return that the model predicts: discounted rewards, weighted by the probability to get that far, plus the last value where given.

    Args:
        discount: per step, in (0, 1].
    """

    def __init__(self, discount: float = 1.0) -> None:
        if not 0.0 < discount <= 1.0:
            raise ValueError(f"discount lies in (0, 1], got {discount}.")
        self.discount = discount

    def __call__(self, trajectory: Trajectory) -> Tensor:
        reward = trajectory.reward
        if reward is None:
            raise ValueError("PredictedReturn needs a model that predicts a reward; spec.traits.predicts of this one does not name it.")
        odds = torch.ones_like(reward) if trajectory.continue_probability is None else trajectory.continue_probability
        reach = torch.cat((torch.ones_like(odds[..., :1]), odds.cumprod(-1)), -1)  # (*B, H+1)
        weight = reach * self.discount ** torch.arange(reach.shape[-1], device=reach.device, dtype=reach.dtype)
        total = (reward * weight[..., :-1]).sum(-1)
        if trajectory.value is not None:
            total = total + trajectory.value[..., -1] * weight[..., -1]
        return -total


class TerminalValue(Objective):
    """The cost to go from the last state, by any function, such as a learned one. Of a function that gives a return, take `-1.0 * TerminalValue(fn)`.

    Args:
        fn: from states of batch_size *B to costs (*B).
        needs: views that it reads, so that a planner can refuse a model without them.
    """

    def __init__(self, fn: Callable[[Any], Tensor], *, needs: Iterable[str] = ()) -> None:
        self.fn, self.needs = fn, frozenset(needs)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        cost = self.fn(trajectory.states[..., -1])
        if cost.shape != trajectory.batch_shape:
            raise ValueError(f"TerminalValue needs a function that gives one cost a state, {tuple(trajectory.batch_shape)}, got {tuple(cost.shape)}.")
        return cost


class Duration(Objective):
    """How long it takes, [s]: the time of the last state."""

    def __call__(self, trajectory: Trajectory) -> Tensor:
        return trajectory.times[..., -1].expand(trajectory.batch_shape)


class Uncertainty(GoalObjective):
    """What a function says of every instant, such as a predicted variance or how novel a state is; a negative weight explores.

    Args:
        fn: from a trajectory to (*B, H+1).
        needs: views that it reads, so that a planner can refuse a model without them.
    """

    def __init__(self, fn: Callable[[Trajectory], Tensor], *, needs: Iterable[str] = (), stage: float = 1.0, terminal: float = 1.0) -> None:
        super().__init__(stage=stage, terminal=terminal)
        self.fn, self.needs = fn, frozenset(needs)

    def error(self, trajectory: Trajectory) -> Tensor:
        value, expected = self.fn(trajectory), (*trajectory.batch_shape, trajectory.horizon + 1)
        if tuple(value.shape) != expected:
            raise ValueError(f"Uncertainty needs a function that gives one number an instant, {expected}, got {tuple(value.shape)}.")
        return value


class Penalty(Objective):
    """A constraint as a cost: the sum over its conditions of how much each is broken, to a power.

    Args:
        constraint: what should hold.
        power: 1, proportional to the violation; 2, to its square.
    """

    def __init__(self, constraint: Constraint, *, power: float = 1.0) -> None:
        if not power >= 1:
            raise ValueError(f"Penalty needs a power of 1 or more, got {power}.")
        self.constraint, self.power, self.needs = constraint, power, constraint.needs

    def __call__(self, trajectory: Trajectory) -> Tensor:
        return self.constraint(trajectory).clamp_min(0).pow(self.power).sum(-1)
