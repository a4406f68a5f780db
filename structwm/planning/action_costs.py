"""Costs of actions: effort around a nominal, and roughness."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structwm.interfaces import Objective
from structwm.spec import HybridAction
from structwm.transition import Trajectory

from .goals import align_goal


class _ActionObjective(Objective):
    """Reads continuous actions, or the parameters of hybrid ones that the choice uses.

    Args:
        weights: (A,) of the squares, not negative; all 1 if not given.
    """

    def __init__(self, weights: Tensor | Sequence[float] | None) -> None:
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if self.weights is not None and (self.weights.ndim != 1 or not bool((self.weights >= 0).all())):
            raise ValueError(f"{type(self).__name__} needs weights (A,) that are not negative, got {weights}.")

    def _mean(self, actions: Tensor) -> Tensor:
        """The weighted square of (*B, T, A), averaged over T."""
        if self.weights is not None:
            if len(self.weights) != actions.shape[-1]:
                raise ValueError(f"{type(self).__name__} has {len(self.weights)} weights, got actions of {actions.shape[-1]} numbers.")
            actions = actions * self.weights.sqrt().to(actions)
        return actions.square().sum((-2, -1)) / actions.shape[-2]


class ActionCost(_ActionObjective):
    """Mean squared action over the horizon, or its distance from a nominal; keeps effort small.

    Args:
        nominal: what costs nothing: (A,), (H, A) or (B, H, A); 0 if not given.
        weights: (A,) of the squares; all 1 if not given.
    """

    def __init__(self, nominal: Tensor | None = None, *, weights: Tensor | Sequence[float] | None = None) -> None:
        super().__init__(weights)
        if nominal is not None and (nominal.ndim not in (1, 2, 3) or not bool(nominal.isfinite().all())):
            raise ValueError(f"ActionCost needs a finite nominal (A,), (H, A) or (B, H, A), got shape {tuple(nominal.shape)}.")
        self.nominal = nominal

    def __call__(self, trajectory: Trajectory) -> Tensor:
        actions, used = continuous(trajectory, "ActionCost")
        if self.nominal is not None:
            nominal = self.nominal.to(actions)
            own = nominal.shape[-2:]
            if own != actions.shape[-len(own) :]:
                raise ValueError(f"ActionCost has a nominal {tuple(own)}, got actions {tuple(actions.shape[-2:])} of horizon and size.")
            actions = actions - align_goal("ActionCost", nominal, len(own), trajectory.batch_shape, timed=True)
        return self._mean(actions if used is None else torch.where(used, actions, 0.0))


class ActionSmoothness(_ActionObjective):
    """Mean squared change between consecutive actions, or of these changes; 0 where the horizon has too few.

    Args:
        order: 1, the first differences; 2, the second.
        previous: the action (A,) or (B, A) that was taken before the plan, whose difference to the first action then counts too.
        weights: (A,) of the squares; all 1 if not given.
    """

    def __init__(self, *, order: int = 1, previous: Tensor | None = None, weights: Tensor | Sequence[float] | None = None) -> None:
        super().__init__(weights)
        if order not in (1, 2) or (previous is not None and previous.ndim not in (1, 2)):
            raise ValueError(f"ActionSmoothness needs order 1 or 2 and a previous action (A,) or (B, A), got {order} and {previous}.")
        self.order, self.previous = order, previous

    def __call__(self, trajectory: Trajectory) -> Tensor:
        actions, used = continuous(trajectory, "ActionSmoothness")
        if used is not None:
            actions = torch.where(used, actions, 0.0)
        actions = after(self.previous, actions, trajectory, "ActionSmoothness")
        if actions.shape[-2] <= self.order:
            return actions.new_zeros(actions.shape[:-2])
        return self._mean(actions.diff(n=self.order, dim=-2))


def continuous(trajectory: Trajectory, what: str) -> tuple[Tensor, Tensor | None]:
    """The continuous actions (*B, H, A), and which of their numbers a hybrid choice uses.

    Raises:
        ValueError: if actions are discrete.
    """
    actions = trajectory.actions
    if isinstance(actions, HybridAction):
        return actions.parameters, actions.mask
    if not actions.is_floating_point():
        raise ValueError(f"{what} reads continuous actions, got discrete ones.")
    return actions, None


def after(previous: Tensor | None, actions: Tensor, trajectory: Trajectory, what: str) -> Tensor:
    """Actions (*B, H, A) with the one before them, (A,) or (B, A), in front: (*B, H + 1, A)."""
    if previous is None:
        return actions
    if previous.shape[-1] != actions.shape[-1]:
        raise ValueError(f"{what} has a previous action of {previous.shape[-1]} numbers, got actions of {actions.shape[-1]}.")
    first = align_goal(what, previous.to(actions), 1, trajectory.batch_shape)
    return torch.cat((first.expand(*actions.shape[:-2], 1, actions.shape[-1]), actions), -2)
