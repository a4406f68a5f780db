"""Conditions on trajectories, satisfied where the value is at most 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from structwm.interfaces import Constraint
from structwm.transition import Trajectory


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

    def __init__(self, name: str, *, low: float | None = None, high: float | None = None) -> None:
        if (low is None and high is None) or (low is not None and high is not None and low > high):
            raise ValueError(f"CoordinateLimit on {name!r} needs low, high or both with low <= high, got {low} and {high}.")
        self.name, self.low, self.high = name, low, high

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


class KeepAway(Constraint):
    """Every point of the points view stays out of spheres, for example posts on a table.

    Args:
        centres: (Q, 3) [m], world frame.
        radii: one [m], or one per sphere.
    """

    needs = frozenset({"points"})

    def __init__(self, centres: Tensor, radii: float | Sequence[float]) -> None:
        if centres.ndim != 2 or centres.shape[-1] != 3:
            raise ValueError(f"KeepAway needs centres (Q, 3) [m], got shape {tuple(centres.shape)}.")
        self.centres, self.radii = centres, torch.as_tensor(radii, dtype=torch.float32).expand(centres.shape[0])

    def __call__(self, trajectory: Trajectory) -> Tensor:
        points = trajectory.points()
        gap = (points.positions[..., 1:, :, None, :] - self.centres.to(points.positions)).norm(dim=-1) - self.radii.to(points.positions)
        if points.mask is not None:
            gap = gap.masked_fill(~points.mask[..., 1:, :, None], float("inf"))
        return -gap.amin(dim=(-3, -2))


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

    def __init__(self, pairs: Tensor, lengths: Tensor, limit: float) -> None:
        if pairs.ndim != 2 or pairs.shape[-1] != 2 or pairs.is_floating_point() or lengths.shape != pairs.shape[:1] or not len(pairs):
            raise ValueError(f"StretchLimit needs pairs as whole numbers (L, 2) and lengths (L,) [m], got {tuple(pairs.shape)} and {tuple(lengths.shape)}.")
        if not bool((lengths > 0).all()) or not limit >= 0:
            raise ValueError(f"StretchLimit needs lengths above zero and a limit of zero or more, got {float(lengths.min()):g} m and {limit}.")
        self.pairs, self.lengths, self.limit = pairs, lengths, limit

    @classmethod
    def of(cls, body: Stretchable, limit: float) -> StretchLimit:
        """For a body that names its pairs."""
        pairs, lengths = body.stretchable
        return cls(pairs, lengths, limit)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        points = trajectory.points()
        a, b = self.pairs.to(points.positions.device).unbind(-1)
        positions = points.positions[..., 1:, :, :]
        strain = (positions[..., a, :] - positions[..., b, :]).norm(dim=-1) / self.lengths.to(positions) - 1
        if points.mask is not None:
            seen = points.mask[..., 1:, :]
            strain = strain.masked_fill(~(seen[..., a] & seen[..., b]), -1.0)
        return strain.amax(dim=(-2, -1)).unsqueeze(-1) - self.limit


class Valid(Constraint):
    """Every action is applicable (see `Trajectory.valid`)."""

    def __call__(self, trajectory: Trajectory) -> Tensor:
        return (~trajectory.valid[..., -1:]).to(torch.float32)
