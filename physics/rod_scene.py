"""Ropes, cables and rods: what they are, their state, and the views of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from structwm.state import State

from .obstacles import check_obstacles
from .particle_scene import ParticleScene
from .rigid_world import Fixture

MOST_BENT = 4.0  # greatest natural curvature of a vertex [-]: edges at an angle of 127 degrees
ASIDE = 0.1  # sine of the least angle between a first edge and the director at which a recorded shape tells how the rod is curved


@dataclass(frozen=True)
class Rod:
    """A rope, cable or rod as a chain of V vertices joined by E = V - 1 edges.

    An end is free, pinned (its vertex is driven) or clamped (its last two vertices are driven, which holds its direction and, where the rod twists, the edge
    between them about itself). Any other vertex may be driven too, as by a gripper in the middle.

    Raises:
        ValueError: on an edge of no length, a driven vertex or rolled edge that is not there, or an obstacle of a shape that rods do not touch.
    """

    rest_lengths: tuple[float, ...]  # (E,) [m]
    driven: tuple[int, ...] = ()  # vertices that move as commanded; -1 is the last
    rolled: tuple[int, ...] = ()  # edges between driven vertices whose spin about themselves is commanded; -1 is the last
    twists: bool = False  # whether material directors are followed, so that twisting one end turns the other
    natural_curvature: tuple[tuple[float, float], ...] = ()  # (V - 2, 2) of each inner vertex along the director and across it [-]; () where straight at rest
    director: tuple[float, float, float] | None = None  # world frame: where that of the first edge points, as far as it can, in states made without directors
    radius: float = 0.005  # [m]
    obstacles: tuple[Fixture, ...] = ()  # planes, spheres, capsules and boxes that stand still and that the vertices, round with `radius`, touch
    stretch_limit: float = math.inf  # elongation of an edge over its rest length above which a prediction is no longer valid [-]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rest_lengths", tuple(float(length) for length in self.rest_lengths))
        edges = len(self.rest_lengths)
        if edges < 2:
            raise ValueError(f"Rod needs two edges at least, got {edges}.")
        for k, length in enumerate(self.rest_lengths):
            if not (length > 0 and math.isfinite(length)):
                raise ValueError(f"Rod.rest_lengths must be above zero, got {length} m for edge {k}.")
        for label, count in (("driven", edges + 1), ("rolled", edges)):
            given = tuple(getattr(self, label))
            for k in given:
                if not -count <= k < count:
                    raise ValueError(f"Rod.{label} names number {k}, but there are {count}.")
            if len({k % count for k in given}) < len(given):
                raise ValueError(f"Rod.{label} names one twice: {given}.")
            object.__setattr__(self, label, tuple(k % count for k in given))
        for k in self.rolled:
            if not self.twists or not {k, k + 1} <= set(self.driven):
                raise ValueError(f"Rod.rolled names edge {k}: only of a rod that twists, and between two driven vertices, the spin can be commanded.")
        self._check_material(edges)
        if not (self.radius > 0 and self.stretch_limit > 0):
            raise ValueError(f"Rod needs radius and stretch_limit above zero, got {self.radius} and {self.stretch_limit}.")
        check_obstacles(self.obstacles, "A rod")

    def _check_material(self, edges: int) -> None:
        """Natural curvature and director, as numbers."""
        natural = np.asarray(self.natural_curvature, dtype=np.float64) if _numbers(self.natural_curvature) else np.full((1, 1), np.nan)
        if natural.size and not self.twists:
            raise ValueError("Rod.natural_curvature belongs to the material, so only a rod that twists has one; make it with twists=True.")
        if natural.size and (natural.shape != (edges - 1, 2) or not bool((np.abs(natural) < MOST_BENT).all())):
            got = f"shape {np.shape(self.natural_curvature)}" if _numbers(self.natural_curvature) else repr(self.natural_curvature)
            raise ValueError(
                f"Rod.natural_curvature needs two numbers between -{MOST_BENT:g} and {MOST_BENT:g} for each of the {edges - 1} inner vertices, got {got}."
            )
        object.__setattr__(self, "natural_curvature", tuple((float(along), float(over)) for along, over in natural.reshape(-1, 2)))
        if self.director is not None:
            object.__setattr__(self, "director", as_direction(self.director, self.twists))

    @classmethod
    def even(cls, length: float, vertices: int, **options: Any) -> Self:
        """A rod of a length [m] with vertices evenly spaced; `options` of `Rod`."""
        if vertices < 3:
            raise ValueError(f"Rod needs three vertices at least, got {vertices}.")
        return cls((length / (vertices - 1),) * (vertices - 1), **options)

    @classmethod
    def from_tracks(cls, positions: Tensor, *, curved: bool = False, **options: Any) -> Self:
        """A rod whose edges are as long as recorded vertices are apart in the middle (median).

        Args:
            positions: (..., V, 3) [m]; NaN where a vertex was not seen.
            curved: whether its natural curvature across the director is what the tracks show in the middle. With a `director` that is level and across the line
                between the grips, the weight bends the rod along the director alone, so what is left across it is the rod's own, but for the grips, which hold
                it straighter: calibrate `curvature_scale`. Curvature along the director is not told from the weight's here; calibrate `RodTwin.curvatures`.
            options: of `Rod`; a rod that is curved twists and has a director.

        Raises:
            ValueError: if two neighbours, or of a curved rod three and all before them, were never seen together; or a curved one has no director.
        """
        if positions.ndim < 2 or positions.shape[-1] != 3:
            raise ValueError(f"Rod.from_tracks needs positions (..., V, 3), got {tuple(positions.shape)}.")
        lengths = (positions[..., 1:, :] - positions[..., :-1, :]).norm(dim=-1).reshape(-1, positions.shape[-2] - 1)
        for k in range(lengths.shape[-1]):
            if not bool(lengths[:, k].isfinite().any()):
                raise ValueError(f"Rod.from_tracks never saw vertices {k} and {k + 1} together.")
        rest_lengths = tuple(lengths.double().nanmedian(0).values.tolist())
        if not curved:
            return cls(rest_lengths, **options)
        if options.setdefault("twists", True) is False or options.get("director") is None or "natural_curvature" in options:
            raise ValueError("Rod.from_tracks needs a director, twists=True and no natural_curvature for a rod that is curved, which it reads from the tracks.")
        director = as_direction(options["director"], True)
        runs = positions.double().reshape(-1, *positions.shape[-2:])
        first = torch.nn.functional.normalize(runs[:, 1] - runs[:, 0], dim=-1)
        aside = torch.linalg.cross(first, first.new_tensor(director).expand_as(first)).norm(dim=-1) > ASIDE * math.hypot(*director)
        if not bool(aside.any()):
            raise ValueError(f"Rod.from_tracks never saw the first edge across the director {director}; give one across it.")
        runs = runs[aside]
        bent = material_curvature(runs, untwisted(runs, director))[..., 1]
        for k in range(bent.shape[-1]):
            if not bool(bent[:, k].isfinite().any()):
                raise ValueError(f"Rod.from_tracks never saw vertices 0 to {k + 2} together, which tell how far the rod is curved.")
        return cls(rest_lengths, natural_curvature=tuple((0.0, value) for value in bent.nanmedian(0).values.tolist()), **options)

    @property
    def vertices(self) -> int:
        """V."""
        return len(self.rest_lengths) + 1

    @property
    def edges(self) -> int:
        """E."""
        return len(self.rest_lengths)

    @property
    def length(self) -> float:
        """From end to end along the rod, at rest [m]."""
        return sum(self.rest_lengths)

    @property
    def stretchable(self) -> tuple[Tensor, Tensor]:
        """Edges as pairs of vertices, int64 (E, 2), and their rest lengths (E,) [m]."""
        first = torch.arange(self.edges)
        return torch.stack((first, first + 1), -1), torch.tensor(self.rest_lengths, dtype=torch.float64)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Velocities of the driven vertices [m/s], then spins of the rolled edges [rad/s]."""
        return tuple(f"v{k}.{axis}" for k in self.driven for axis in "xyz") + tuple(f"e{k}.spin" for k in self.rolled)


def _numbers(values: Any) -> bool:
    """Whether these are numbers, in rows of one length."""
    try:
        np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return values is not None


def as_direction(director: Any, twists: bool) -> tuple[float, float, float]:
    """A director as three numbers.

    Raises:
        ValueError: if it is none.
    """
    found = np.asarray(director, dtype=np.float64) if _numbers(director) else np.zeros(0)
    if not twists or found.shape != (3,) or not bool(np.isfinite(found).all()) or not bool(found.any()):
        raise ValueError(f"Rod.director is a direction in the world, three numbers, for a rod with twists=True, got {director!r}.")
    return float(found[0]), float(found[1]), float(found[2])


class RodState(State):
    """A rod at rest or in motion, world frame. Directors and spins have no entries where the rod does not twist."""

    positions: Tensor  # (*B, V, 3) [m]
    velocities: Tensor  # (*B, V, 3) [m/s]
    directors: Tensor  # (*B, E, 3) a unit vector of each edge's material, across the edge
    spins: Tensor  # (*B, E) of each edge about itself [rad/s]


class RodScene(ParticleScene):
    """Reads the state of a rod: its vertices are points, tracks and coordinates `v3.x` [m] with velocities `v3.vx` [m/s]."""

    def __init__(self, rod: Rod) -> None:
        edges = range(rod.edges if rod.twists else 0)
        across = [(f"e{k}.d{axis}", "") for k in edges for axis in "xyz"]
        super().__init__(rod.vertices, letter="v", extra=(*across, *((f"e{k}.spin", "rad/s") for k in edges)))
        self.rod = rod

    def config(self) -> dict[str, Any]:
        return {"rod": self.rod}

    def strain(self, state: RodState, length: Tensor | float = 1.0) -> Tensor:
        """Elongation of each edge over its rest length, (*B, E) [-]; `length`: the parameter of that name."""
        edges = (state.positions[..., 1:, :] - state.positions[..., :-1, :]).norm(dim=-1)
        rest = edges.new_tensor(self.rod.rest_lengths) * torch.as_tensor(length, dtype=edges.dtype, device=edges.device).unsqueeze(-1)
        return edges / rest - 1

    def average(self, states: RodState, dim: int) -> RodState:
        """Mean numbers; directors made unit vectors across the mean edges."""
        axis = dim % states.batch_dims
        positions, velocities, directors, spins = (part.mean(axis) for part in (states.positions, states.velocities, states.directors, states.spins))
        if self.rod.twists:
            directors = across(positions, directors)
        return RodState(positions=positions, velocities=velocities, directors=directors, spins=spins, batch_size=positions.shape[:-2])


def across(positions: Tensor, directors: Tensor) -> Tensor:
    """Directors (*B, E, 3) made unit vectors across the edges of vertices (*B, V, 3)."""
    edges = positions[..., 1:, :] - positions[..., :-1, :]
    along = edges / edges.norm(dim=-1, keepdim=True)
    directors = directors - (directors * along).sum(-1, keepdim=True) * along
    return directors / directors.norm(dim=-1, keepdim=True)


def untwisted(positions: Tensor, director: Sequence[float] | None = None) -> Tensor:
    """Directors (*B, E, 3) of a rod without twist: one across the first edge, carried along the others (parallel transport).

    Args:
        positions: (*B, V, 3) [m].
        director: where the first points, as far as it stands across its edge; if not given, to the axis of the world that stands most across.

    Raises:
        ValueError: if that is along the first edge.
    """
    edges = positions[..., 1:, :] - positions[..., :-1, :]
    along = edges / edges.norm(dim=-1, keepdim=True)
    if director is None:
        least = along[..., 0, :].abs().argmin(-1, keepdim=True)
        towards = torch.zeros_like(positions[..., :1, :]).scatter(-1, least.unsqueeze(-2), 1.0)
    else:
        towards = torch.nn.functional.normalize(positions.new_tensor(director), dim=0).expand_as(positions[..., :1, :])
        if bool((torch.linalg.cross(along[..., :1, :], towards).norm(dim=-1) < 1e-3).any()):
            raise ValueError(f"Rod.director {tuple(director)} is along the first edge of a state; give one across it, or the state's directors.")
    found = [across(positions[..., :2, :], towards)[..., 0, :]]
    for k in range(1, along.shape[-2]):
        a, b, x = along[..., k - 1, :], along[..., k, :], found[-1]
        turn = torch.linalg.cross(a, b)
        once = torch.linalg.cross(turn, x)
        found.append(x + once + torch.linalg.cross(turn, once) / (1 + (a * b).sum(-1, keepdim=True)))
    return torch.stack(found, -2)


def material_curvature(positions: Tensor, directors: Tensor) -> Tensor:
    """Curvature of a rod in its material: of each inner vertex the components of the curvature binormal (Bergou et al., 2008, section 4.2) along the director
    and across it, in the mean of both edges.

    Args:
        positions: (*B, V, 3) [m]; NaN where a vertex was not seen.
        directors: (*B, V - 1, 3) unit vectors across the edges.

    Raises:
        ValueError: on other shapes.

    Returns:
        (*B, V - 2, 2) [-], twice the tangent of half the angle between the edges.
    """
    if positions.shape[-1:] != (3,) or positions.shape[-2] < 3 or directors.shape != (*positions.shape[:-2], positions.shape[-2] - 1, 3):
        got = f"{tuple(positions.shape)} and {tuple(directors.shape)}"
        raise ValueError(f"material_curvature needs positions (*B, V, 3) of three vertices at least and directors (*B, V - 1, 3), got {got}.")
    edges = positions[..., 1:, :] - positions[..., :-1, :]
    along = edges / edges.norm(dim=-1, keepdim=True)
    first, second = along[..., :-1, :], along[..., 1:, :]
    curvature = 2 * torch.linalg.cross(first, second) / (1 + (first * second).sum(-1, keepdim=True))
    frames = torch.stack((directors, torch.linalg.cross(along, directors)), -2)
    return ((frames[..., :-1, :, :] + frames[..., 1:, :, :]) / 2 * curvature.unsqueeze(-2)).sum(-1)


def clamped(rod: Rod) -> Sequence[int]:
    """Edges between two driven vertices."""
    return [k for k in range(rod.edges) if {k, k + 1} <= set(rod.driven)]
