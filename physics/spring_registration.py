"""Where the particles of a network of springs are in a new observation of it: a coherent displacement first, then as the springs allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from structwm.perception.registration import ALIKE, register_points

from .measurements import chosen_points
from .spring_body import SpringBody
from .student_t import student_t_loss

KEPT = 0.8  # of the observed points, the nearest, that the residual is taken of
ROUNDS, STEPS = 6, 30  # of which observed point is beside which of the surface, and of L-BFGS in each


@dataclass(frozen=True, eq=False)
class BodySurface:
    """What of a body cameras may see: S points, each a weighted mean of K particles."""

    corners: Tensor  # int64 (S, K)
    weights: Tensor  # (S, K)
    features: Tensor | None = None  # (S, F) what each looks like, such as its colour in [0, 1]

    @classmethod
    def of(cls, body: SpringBody, surface: Sequence[int] | Tensor | None, weights: Tensor | None, features: Tensor | None) -> BodySurface:
        """From particles (S,), all of the body if not given, or corners (S, K) with weights (S, K).

        Raises:
            ValueError: on particles that are not of the body, or shapes that do not fit.
        """
        corners = torch.arange(body.points) if surface is None else torch.as_tensor(surface).long()
        if weights is None and corners.ndim == 1:
            corners = corners.unsqueeze(-1)
            weights = torch.ones(corners.shape, dtype=torch.float64)
        if weights is None or corners.ndim != 2 or weights.shape != corners.shape:
            raise ValueError("The surface of a body is given as particles (S,), or as corners (S, K) with weights (S, K).")
        if int(corners.min()) < 0 or int(corners.max()) >= body.points:
            raise ValueError(f"The surface of the body names particle {int(corners.max())}, but it has {body.points}.")
        if features is not None and (features.ndim != 2 or len(features) != len(corners)):
            raise ValueError(f"The surface of the body needs features ({len(corners)}, F), got {tuple(features.shape)}.")
        return cls(corners, weights.double(), features)

    def at(self, positions: Tensor) -> Tensor:
        """Points (S, 3) of the surface for particles at positions (P, 3) [m]."""
        return chosen_points(positions, None, self.corners, self.weights)


@dataclass(frozen=True, eq=False)
class BodyRegistration:
    """Where a body is, and how well that fits."""

    positions: Tensor  # (P, 3) of its particles [m]
    residual: float  # root mean square distance of the observed points to the surface, but for the fifth that is worst [m]
    strain: float  # root mean square change of the springs' lengths, over those at rest before [-]
    span: float = 1.0  # root mean square size of what was observed over that of the surface [-]


def register_body(
    body: SpringBody, points: Tensor, surface: BodySurface, *, features: Tensor | None = None, strain: float = 0.07, turns: bool = True, seed: int = 0
) -> BodyRegistration:
    """Move the particles of a body, without its controllers, to a new observation of it.

    `register_points` finds the rigid motion and a smooth displacement, which stretches what it bends. So each particle then moves on to where the observed
    points are near the surface and the springs as long as they were, alternating with which point is beside which: least is

        mean of log(1 + (d / near)^2 / 4) (4 + 1) / 2  over distances d of observed points,  plus the mean of (stretch / strain)^2 over springs,

    where near is a fifth of the middle spring's length, but 4 mm at most.

    Args:
        body: what it was.
        points: observed points (M, 3) [m]; parts may be missing.
        surface: what cameras may see of it.
        features: (M, F) of the observed points, where the surface has some.
        strain: by which springs may have changed their lengths [-]; larger follows the points more.
        turns: try large rotations; False where the body lies about as it did.
        seed: of the points that stand for many.

    Raises:
        ValueError: as `register_points`.
    """
    own = body.positions[: body.points]
    points = points.detach().double()
    found = register_points(
        surface.at(own), points, turns=turns, seed=seed, source_features=surface.features, target_features=None if surface.features is None else features
    )
    springs = body.springs[~body.attached]
    lengths = body.lengths[~body.attached]
    near = min(0.2 * float(lengths.median()), 0.004)
    placed = found.move(own)
    looks = None
    if surface.features is not None and features is not None:
        unit = ALIKE * float(_size(placed)) / 0.1
        looks = unit * surface.features, unit * features
    for _ in range(ROUNDS):
        beside = _beside(surface.at(placed), points, looks)
        placed = _settled(placed, springs, lengths, points, surface.corners[beside], surface.weights[beside], near, strain)
    outside = surface.at(placed)
    away, order = torch.cdist(points, outside).amin(-1).sort()
    kept = max(1, int(KEPT * len(points)))
    stretch = _lengths(placed, springs) / lengths - 1
    span = float(_size(points[order[:kept]]) / _size(outside))
    return BodyRegistration(placed, float(away[:kept].square().mean().sqrt()), float(stretch.square().mean().sqrt()), span)


def _size(points: Tensor) -> Tensor:
    """Root mean square distance from the middle [m]."""
    return (points - points.mean(0)).norm(dim=-1).square().mean().sqrt()


def _beside(surface: Tensor, points: Tensor, looks: tuple[Tensor, Tensor] | None) -> Tensor:
    """Of each observed point (M,) the point of the surface nearest to it, also in what it looks like."""
    if looks is not None:
        surface, points = torch.cat((surface, looks[0].to(surface)), -1), torch.cat((points, looks[1].to(points)), -1)
    return torch.cdist(points, surface).argmin(-1)


def _lengths(positions: Tensor, springs: Tensor) -> Tensor:
    return (positions[springs[:, 0]] - positions[springs[:, 1]]).norm(dim=-1)


def _settled(start: Tensor, springs: Tensor, lengths: Tensor, points: Tensor, corners: Tensor, weights: Tensor, near: float, strain: float) -> Tensor:
    """Particles (P, 3) at the least of the sum in `register_body`, each observed point with its place (M, K) on the surface."""

    def value(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(numbers).reshape(start.shape).requires_grad_()
        away = (chosen_points(x, None, corners, weights) - points).square().sum(-1)
        stretch = _lengths(x, springs) / lengths - 1
        total = student_t_loss(away / near**2) / len(away) + (stretch / strain).square().mean()
        (gradient,) = torch.autograd.grad(total, x)
        return float(total.detach()), gradient.numpy().ravel()

    found = minimize(value, start.numpy().ravel(), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    return torch.from_numpy(found.x).reshape(start.shape)
