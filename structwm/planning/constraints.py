"""Conditions on trajectories, satisfied where the value is at most 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from structwm.interfaces import Constraint
from structwm.transition import Trajectory

from .coordinate_goals import CoordinateReference
from .goals import GoalObjective, align_goal


class Stretchable(Protocol):
    """A body that says which of its points may not be pulled apart."""

    @property
    def stretchable(self) -> tuple[Tensor, Tensor]:
        """Pairs int64 (L, 2), numbers of points of the points view, and their rest lengths (L,) [m]."""


class CoordinateLimit(Constraint):
    """A named coordinate stays within limits at every instant after the start.

    Args:
        name: of the coordinate.
        low: lower limit in the coordinate's unit, or None.
        high: upper limit, or None.
    """

    needs = frozenset({"coordinates"})
    per_step = True

    def __init__(self, name: str, *, low: float | None = None, high: float | None = None) -> None:
        if (low is None and high is None) or (low is not None and high is not None and low > high):
            raise ValueError(f"CoordinateLimit on {name!r} needs low, high or both with low <= high, got {low} and {high}.")
        self.name, self.low, self.high = name, low, high
        self.names = tuple(f"{name} is at {word} {limit:g}" for word, limit in (("least", low), ("most", high)) if limit is not None)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        names = trajectory.scene.coordinate_names(trajectory.states)
        if self.name not in names:
            raise ValueError(f"There is no coordinate {self.name!r}; this scene has {', '.join(names)}.")
        value = trajectory.coordinates()[..., 1:, names.index(self.name)]
        excess = []
        if self.low is not None:
            excess.append(self.low - value.amin(-1))
        if self.high is not None:
            excess.append(value.amax(-1) - self.high)
        return torch.stack(excess, -1)


class CoordinateTube(Constraint):
    """Named coordinates stay close to references that change with time, at every instant after the start.

    Args:
        references: by name, a number, (T,) or (B, T), as of `CoordinateReference`.
        width: how far away each may be, in the coordinate's unit: one, or by name.
        periodic: names of angles [rad] that wrap at 2 pi, beside those that the scene knows to.
    """

    needs = frozenset({"coordinates"})

    def __init__(self, references: Mapping[str, float | Tensor], width: float | Mapping[str, float], *, periodic: Sequence[str] = ()) -> None:
        self.reference = CoordinateReference(references, periodic=periodic)
        widths = width if isinstance(width, Mapping) else dict.fromkeys(references, width)
        if set(widths) != set(references) or not all(value >= 0 for value in widths.values()):
            raise ValueError(f"CoordinateTube needs a width of zero or more for every reference, got {dict(widths)}.")
        self.width = torch.tensor([widths[name] for name in references], dtype=torch.float64)
        self.names = tuple(f"{name} is within {widths[name]:g} of its reference" for name in references)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        away = self.reference.away(trajectory)
        return away[..., 1:, :].abs().amax(-2) - self.width.to(away)


class KeepAway(Constraint):
    """Every point of the points view stays out of spheres, for example posts on a table.

    Args:
        centres: (Q, 3) or (B, Q, 3) [m], world frame.
        radii: one [m], or one per sphere.
    """

    needs = frozenset({"points"})
    per_step = True

    def __init__(self, centres: Tensor, radii: float | Sequence[float]) -> None:
        if centres.ndim not in (2, 3) or centres.shape[-1] != 3:
            raise ValueError(f"KeepAway needs centres (Q, 3) or (B, Q, 3) [m], got shape {tuple(centres.shape)}.")
        count = centres.shape[-2]
        if not isinstance(radii, float | int) and len(radii) not in (1, count):
            raise ValueError(f"KeepAway needs one radius or one for each of {count} spheres, got {len(radii)}.")
        self.centres, self.radii = centres, torch.as_tensor(radii, dtype=torch.float32).expand(count)
        self.names = tuple(f"points stay out of sphere {place}" for place in range(count))

    def __call__(self, trajectory: Trajectory) -> Tensor:
        points = trajectory.points()
        positions, seen = points.positions[..., 1:, :, :], None if points.mask is None else points.mask[..., 1:, :]
        if seen is not None:
            positions = torch.where(seen.unsqueeze(-1), positions, 0.0)
        centres = align_goal("KeepAway", self.centres.to(positions), 2, trajectory.batch_shape).unsqueeze(-3)
        gap = (positions.unsqueeze(-2) - centres).norm(dim=-1) - self.radii.to(positions)
        if seen is not None:
            gap = gap.masked_fill(~seen.unsqueeze(-1), float("inf"))
        return -gap.amin(dim=(-3, -2))


class WorkspaceBox(Constraint):
    """Every point of the points view stays in a box along the world's axes, at every instant after the start; the value is how far the farthest is outside [m].

    Args:
        low: (3,) lower corner [m]; minus infinity where there is no wall.
        high: (3,) upper corner [m].
    """

    needs = frozenset({"points"})
    per_step = True

    def __init__(self, low: Sequence[float] | Tensor, high: Sequence[float] | Tensor) -> None:
        self.low, self.high = (torch.as_tensor(value, dtype=torch.float64) for value in (low, high))
        if self.low.shape != (3,) or self.high.shape != (3,) or not bool((self.low <= self.high).all()):
            raise ValueError(f"WorkspaceBox needs corners of three numbers, low <= high, got {self.low.tolist()} and {self.high.tolist()}.")
        corners = (", ".join(f"{value:g}" for value in corner.tolist()) for corner in (self.low, self.high))
        self.names = (f"points stay in the box from ({next(corners)}) to ({next(corners)}) m",)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        points = trajectory.points()
        positions = points.positions[..., 1:, :, :]
        outside = torch.maximum(self.low.to(positions) - positions, positions - self.high.to(positions)).amax(-1)
        if points.mask is not None:
            outside = torch.where(points.mask[..., 1:, :], outside, -float("inf"))
        return outside.amax(dim=(-2, -1)).unsqueeze(-1)


class StretchLimit(Constraint):
    """No pair of points is farther apart than its rest length by more than a share of it, at any instant after the start.

    A body says which pairs: `StretchLimit.of(twin.body, 0.1)` takes the springs of a network but for those by which controllers hold it,
    `StretchLimit.of(twin.rod, 0.1)` the edges of a rod.

    Args:
        pairs: int64 (L, 2), numbers of points of the points view.
        lengths: (L,) at rest [m].
        limit: elongation over rest length that is allowed [-].

    Raises:
        ValueError: on shapes that do not fit, lengths that are not above zero, or a negative limit.
    """

    needs = frozenset({"points"})
    per_step = True

    def __init__(self, pairs: Tensor, lengths: Tensor, limit: float) -> None:
        if pairs.ndim != 2 or pairs.shape[-1] != 2 or pairs.is_floating_point() or lengths.shape != pairs.shape[:1] or not len(pairs):
            raise ValueError(f"StretchLimit needs pairs as whole numbers (L, 2) and lengths (L,) [m], got {tuple(pairs.shape)} and {tuple(lengths.shape)}.")
        if not bool((lengths > 0).all()) or not limit >= 0:
            raise ValueError(f"StretchLimit needs lengths above zero and a limit of zero or more, got {float(lengths.min()):g} m and {limit}.")
        self.pairs, self.lengths, self.limit = pairs, lengths, limit
        self.names = (f"no pair of points is stretched by more than {100 * limit:g} %",)

    @classmethod
    def of(cls, body: Stretchable, limit: float) -> StretchLimit:
        """For a body that names its pairs."""
        pairs, lengths = body.stretchable
        return cls(pairs, lengths, limit)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        points = trajectory.points()
        a, b = self.pairs.to(points.positions.device).unbind(-1)
        positions = points.positions[..., 1:, :, :]
        if points.mask is not None:
            positions = torch.where(points.mask[..., 1:, :, None], positions, 0.0)
        strain = (positions[..., a, :] - positions[..., b, :]).norm(dim=-1) / self.lengths.to(positions) - 1
        if points.mask is not None:
            seen = points.mask[..., 1:, :]
            strain = strain.masked_fill(~(seen[..., a] & seen[..., b]), -1.0)
        return strain.amax(dim=(-2, -1)).unsqueeze(-1) - self.limit


class ErrorLimit(Constraint):
    """The error of a goal stays small: at the end, or at every instant after the start.

    Args:
        goal: whose error, without its weights.
        limit: in the unit of that error.
        always: at every instant after the start, rather than at the last alone.
    """

    def __init__(self, goal: GoalObjective, limit: float, *, always: bool = False) -> None:
        if goal.reads_members:
            raise ValueError(f"ErrorLimit takes goals that read members one by one, which {type(goal).__name__} does not.")
        self.goal, self.limit, self.always, self.needs, self.per_step = goal, limit, always, goal.needs, always and goal.per_state
        self.names = (f"the error of {type(goal).__name__} is at most {limit:g} {'always' if always else 'at the end'}",)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        last = trajectory.final() if self.goal.per_state and not self.always else trajectory
        error = self.goal.error(last)
        return (error[..., 1:].amax(-1, keepdim=True) if self.always else error[..., -1:]) - self.limit


class Valid(Constraint):
    """Every action is applicable (see `Trajectory.valid`); the value is the share of the steps from the first that is not on, so that later is better."""

    names = ("every action is applicable",)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        return (~trajectory.valid[..., 1:]).to(torch.float32).mean(-1, keepdim=True)
