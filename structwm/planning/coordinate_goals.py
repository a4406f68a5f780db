"""Goals in named coordinates: fixed targets, and references that change with time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import torch
from torch import Tensor

from structwm.transition import Trajectory

from .goals import GoalObjective, align_goal, at_instants, by_blocks, root_of, square_sum
from .named_coordinates import NamedCoordinates


class CoordinateGoal(GoalObjective):
    """Weighted squared distance of named coordinates from their targets.

    Args:
        targets: by coordinate name, a number or (B,), in the coordinate's unit.
        weights: by coordinate name; 1 where left out.
        periodic: names of angles [rad] that wrap at 2 pi, beside those that the scene knows to.
        root: take the square root, an error whose pull does not fade near the goal.

    Raises:
        ValueError: on no target, a target that is not finite or of another shape, targets of different numbers of problems, or weights without a target.
    """

    needs = frozenset({"coordinates"})
    per_state = True

    def __init__(
        self,
        targets: Mapping[str, float | Tensor],
        *,
        weights: Mapping[str, float] | None = None,
        periodic: Sequence[str] = (),
        root: bool = False,
        stage: float = 1.0,
        terminal: float = 1.0,
    ) -> None:
        super().__init__(stage=stage, terminal=terminal)
        name = type(self).__name__
        given = {key: self._as_target(value) for key, value in targets.items()}
        unknown = sorted((set(weights or {}) | set(periodic)) - set(given))
        if not given or unknown:
            raise ValueError(f"{name} needs targets, and weights only for them; without a target: {', '.join(unknown) or 'all'}.")
        self._check(name, given)
        self.names, self.root = tuple(given), root
        self.coordinates = NamedCoordinates(given, periodic)
        self.target = torch.stack(torch.broadcast_tensors(*(value.double() for value in given.values())), -1)  # ([B,] D)
        self.weights = torch.tensor([(weights or {}).get(key, 1.0) for key in given], dtype=torch.float64)  # (D,)
        if not bool(((self.weights >= 0) & self.weights.isfinite()).all()):
            raise ValueError(f"{name} needs finite weights that are not negative, got {self.weights.tolist()}.")
        self._spread: tuple[object, Tensor] | None = None

    def _as_target(self, value: float | Tensor) -> Tensor:
        return torch.as_tensor(value)

    def _check(self, name: str, targets: Mapping[str, Tensor]) -> None:
        for key, value in targets.items():
            if value.ndim > 1 or not bool(value.isfinite().all()):
                raise ValueError(f"{name} needs finite targets () or (B,), got {tuple(value.shape)} for {key!r}.")
        problems = {len(value) for value in targets.values() if value.ndim} - {1}
        if len(problems) > 1:
            raise ValueError(f"{name} needs targets of one number of problems, got {', '.join(map(str, sorted(problems)))}.")

    def _target(self, trajectory: Trajectory, like: Tensor) -> Tensor:
        """What the coordinates (*B, T, D) are compared with, ([B, ...] T, D); repeated over time, since broadcasting over so short an axis as D is slow."""
        target = align_goal(type(self).__name__, self.target.to(like), 1, trajectory.batch_shape)
        return target.expand(*target.shape[:-2], *like.shape[-2:]).contiguous()

    def away(self, trajectory: Trajectory) -> Tensor:
        """The coordinates minus their targets, (*B, H+1, D)."""
        values = self.coordinates.read(trajectory)
        return self.coordinates.difference(values, self._target(trajectory, values), trajectory)

    def error(self, trajectory: Trajectory) -> Tensor:
        away = self.away(trajectory)
        total = square_sum(away * self.weights.sqrt().to(away))
        return root_of(total) if self.root else total

    def __call__(self, trajectory: Trajectory) -> Tensor:
        if self.root or (not self.stage and not self.per_state):
            return super().__call__(trajectory)
        if not self.stage:
            trajectory = trajectory.final()
        values, first = self.coordinates.read(trajectory), min(trajectory.horizon, 1)
        target, values = self._target(trajectory, values)[..., first:, :], values[..., first:, :]
        weights = self._weights(values)
        return by_blocks(lambda part: self._sum(part, target, weights, trajectory), values, 1)

    def _sum(self, values: Tensor, target: Tensor, weights: Tensor, trajectory: Trajectory) -> Tensor:
        """The cost (*B); over instants and coordinates at once, since reductions over so few coordinates are slow."""
        away = self.coordinates.difference(values, target, trajectory)
        squared = away * away * weights if torch.is_grad_enabled() else away.square_().mul_(weights)
        return squared.sum((-2, -1))

    def _weights(self, like: Tensor) -> Tensor:
        """Weights (T, D) of the last T instants and of coordinates, kept from call to call."""
        key = (like.shape[-2], like.dtype, like.device)
        kept = self._spread
        if kept is None or kept[0] != key:
            instants = torch.full((key[0], 1), self.stage / max(key[0] - 1, 1), dtype=torch.float64)
            instants[-1] = self.terminal + (self.stage if key[0] == 1 else 0.0)
            self._spread = kept = key, (instants * self.weights).to(like)
        return kept[1]


class CoordinateReference(CoordinateGoal):
    """Weighted squared distance of named coordinates from targets that change with time.

    Entry t of a reference is the target after t steps of the prediction, entry 0 at its start; the last entry holds on where the reference is shorter than
    the horizon. When planning again k steps later, use `later(k)`.

    Args:
        targets: by coordinate name, (T,) or (B, T), or a number, in the coordinate's unit.
        weights, periodic, root, stage, terminal: as of `CoordinateGoal`.

    Raises:
        ValueError: on references that are not finite or of another shape, or of different lengths or numbers of problems.
    """

    per_state = False

    def _as_target(self, value: float | Tensor) -> Tensor:
        return torch.atleast_1d(torch.as_tensor(value))

    def _check(self, name: str, targets: Mapping[str, Tensor]) -> None:
        for key, value in targets.items():
            if value.ndim > 2 or value.numel() == 0 or not bool(value.isfinite().all()):
                raise ValueError(f"{name} needs finite references (T,) or (B, T), got {tuple(value.shape)} for {key!r}.")
        lengths = {value.shape[-1] for value in targets.values()} - {1}
        problems = {len(value) for value in targets.values() if value.ndim == 2} - {1}
        if len(lengths) > 1 or len(problems) > 1:
            raise ValueError(f"{name} needs references of one length and one number of problems, got {[tuple(value.shape) for value in targets.values()]}.")

    def _target(self, trajectory: Trajectory, like: Tensor) -> Tensor:
        reference = at_instants(self.target.to(like), trajectory.horizon + 1, -2)
        return align_goal(type(self).__name__, reference, 2, trajectory.batch_shape, timed=True)

    def later(self, steps: int) -> CoordinateReference:
        """The same reference as seen `steps` steps later."""
        found = copy(self)
        found.target = self.target[..., min(steps, self.target.shape[-2] - 1) :, :]
        return found
