"""Distance from obstacles: as a cost that grows below a margin, and as a constraint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.geometry.rotations import to_world
from structwm.geometry.signed_distance import Solid
from structwm.interfaces import Constraint
from structwm.transition import Trajectory

from .goals import GoalObjective, mean_where, of_bodies


@dataclass(frozen=True)
class Spheres:
    """Spheres that stand for a body.

    Raises:
        ValueError: on shapes that do not fit, or a radius below 0.
    """

    centres: Tensor  # (Q, 3) [m], in the body's frame
    radii: Tensor | float  # (Q,) or one [m]
    body: int | str = 0  # number or name in the poses view

    def __post_init__(self) -> None:
        radii = torch.as_tensor(self.radii, dtype=self.centres.dtype)
        if self.centres.ndim != 2 or self.centres.shape[-1] != 3 or not len(self.centres) or radii.shape not in ((), self.centres.shape[:1]):
            raise ValueError(f"Spheres need centres (Q, 3) [m] and radii (Q,) or one, got {tuple(self.centres.shape)} and {tuple(radii.shape)}.")
        if not bool((radii >= 0).all()) or not bool(self.centres.isfinite().all()):
            raise ValueError("Spheres need finite centres and radii of zero or more [m].")
        object.__setattr__(self, "radii", radii.expand(len(self.centres)))


class _Gap:
    """Distances from what is to keep clear to what it keeps clear of."""

    def __init__(self, what: str, obstacles: Solid | None, spheres: Sequence[Spheres], points: Sequence[int] | None, radius: float) -> None:
        if spheres and (points is not None or radius):
            raise ValueError(f"{what} reads either spheres or the points view, got spheres beside points or a radius.")
        self.obstacles, self.spheres, self.radius = obstacles, tuple(spheres), radius
        self.points = None if points is None else torch.as_tensor(points, dtype=torch.int64)
        self.needs = frozenset({"poses" if spheres else "points"} | ({"signed_distance"} if obstacles is None else set()))

    def __call__(self, trajectory: Trajectory) -> tuple[Tensor, Tensor | None]:
        """Gaps (*B, H+1, Q) [m], NaN where the prediction diverged, and which count."""
        places, radii, counted = self._of_spheres(trajectory) if self.spheres else self._of_points(trajectory)
        known = places.isfinite().all(-1)
        places = torch.where(known.unsqueeze(-1), places, 0.0)
        if self.obstacles is None:
            distances = trajectory.signed_distance(places)
        else:
            problems = places.shape[0] if trajectory.batch_shape else 1
            asked = places.reshape(problems, -1, 3)
            kind = _kind(self.obstacles)
            distances = self.obstacles.signed_distance(asked if kind is None else asked.to(kind)).to(places).reshape(places.shape[:-1])
        return torch.where(known, distances - radii, float("nan")), counted

    def _of_spheres(self, trajectory: Trajectory) -> tuple[Tensor, Tensor | float, None]:
        poses = of_bodies(trajectory.poses(), trajectory.scene, [part.body for part in self.spheres])
        places = [to_world(poses[..., place, :], part.centres.to(poses)) for place, part in enumerate(self.spheres)]
        return torch.cat(places, -2), torch.cat([torch.as_tensor(part.radii).to(poses) for part in self.spheres]), None

    def _of_points(self, trajectory: Trajectory) -> tuple[Tensor, Tensor | float, Tensor | None]:
        view = trajectory.points()
        places, counted = view.positions, view.mask
        if self.points is not None:
            chosen = self.points.to(places.device)
            places, counted = places[..., chosen, :], None if counted is None else counted[..., chosen]
        if counted is not None:
            places = torch.where(counted.unsqueeze(-1), places, 0.0)
        return places, self.radius, counted


def _kind(solid: Solid) -> Tensor | None:
    """A tensor of the type and on the device in which a solid measures."""
    parts = getattr(solid, "solids", ())
    return _kind(parts[0]) if parts else getattr(solid, "pose", None)


class Collision(GoalObjective):
    """A cost of being near: the mean over points of the squared depth to which each is below a margin, max(0, margin - gap)^2 [m^2].

    Args:
        obstacles: solids in the world, one set for all or with poses (B, 7); the scene's signed distance view if not given.
        spheres: what keeps clear, as spheres on bodies; the points view if not given.
        points: numbers of the points of the points view that keep clear; all if not given.
        radius: of these points [m].
        margin: distance below which it costs [m].
    """

    per_state = True

    def __init__(
        self,
        *,
        obstacles: Solid | None = None,
        spheres: Sequence[Spheres] = (),
        points: Sequence[int] | None = None,
        radius: float = 0.0,
        margin: float = 0.0,
        stage: float = 1.0,
        terminal: float = 1.0,
    ) -> None:
        super().__init__(stage=stage, terminal=terminal)
        self.gap, self.margin = _Gap("Collision", obstacles, spheres, points, radius), margin
        self.needs = self.gap.needs

    def error(self, trajectory: Trajectory) -> Tensor:
        gaps, counted = self.gap(trajectory)
        return mean_where((self.margin - gaps).clamp_min(0).square(), counted)


class Clearance(Constraint):
    """What keeps clear is at least `distance` from obstacles at every instant after the start; the value is by how much it falls short [m].

    Args:
        distance: [m].
        obstacles, spheres, points, radius: as of `Collision`.
    """

    per_step = True

    def __init__(
        self,
        distance: float,
        *,
        obstacles: Solid | None = None,
        spheres: Sequence[Spheres] = (),
        points: Sequence[int] | None = None,
        radius: float = 0.0,
    ) -> None:
        self.gap, self.distance = _Gap("Clearance", obstacles, spheres, points, radius), distance
        self.needs = self.gap.needs
        self.names = (f"{'spheres' if spheres else 'points'} stay {distance:g} m clear of {'what the scene holds' if obstacles is None else 'obstacles'}",)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        gaps, counted = self.gap(trajectory)
        if counted is not None:
            gaps = torch.where(counted, gaps, float("inf"))
        return self.distance - gaps[..., 1:, :].amin(dim=(-2, -1)).unsqueeze(-1)
