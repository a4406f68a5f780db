"""Iterated closest points for many starts at once, one-sided: what is seen must lie on the object, what is not seen is no error.

Every observed point is drawn to the surface element nearest to it, mostly along its normal (point-to-plane; Chen and Medioni, IVC 1992; the little that acts
along the surface as the covariances of Segal, Haehnel and Thrun, RSS 2009), by Gauss-Newton steps with Geman-McClure weights whose width shrinks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from structwm.geometry.neighbors import knn
from structwm.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion

from .depth_clouds import cloud_normals

ACROSS = 0.05  # weight of a residual along the surface beside one along the normal, once close
FACED = 0.1  # weight of an observed point whose normal is against that of the surface next to it


@dataclass(frozen=True, eq=False)
class Surface:
    """Points of an object as elements of its surface, around the middle of the object."""

    points: Tensor  # (N, 3) [m], from the middle
    normals: Tensor  # (N, 3) unit
    middle: Tensor  # (3,) [m] in the object's frame
    size: float  # largest distance from the middle [m]
    reach: float  # radius of an element [m], so that they cover the surface
    oriented: bool  # whether normals are known to point outwards

    @classmethod
    def of(cls, points: Tensor, normals: Tensor | None) -> Surface:
        """Of points (N, 3) and outward normals (N, 3); estimated where not given, and then towards the outside only as seen from the middle."""
        points, first = _distinct(points.detach())
        middle = (points.amin(0) + points.amax(0)) / 2
        centred = points - middle
        if normals is None:
            count = min(12, max(4, len(points) // 8))
            estimated = cloud_normals(centred, count=count)
            found = torch.where((estimated * centred).sum(-1, keepdim=True) < 0, -estimated, estimated)
        else:
            found = torch.nn.functional.normalize(normals.detach()[first].to(points), dim=-1)
        near = knn(centred.contiguous(), centred.contiguous(), min(4, len(points) - 1), exclude_self=True).distances[:, -1]
        return cls(centred, found, middle, float(centred.norm(dim=-1).max()), 0.85 * float(near.mean()), normals is not None)

    def halves(self, seed: int) -> tuple[Surface, Surface]:
        """Two halves of the elements, drawn at random, each element twice as large in area, around the same middle."""
        order = torch.randperm(len(self.points), generator=torch.Generator().manual_seed(seed))
        one, two = order.chunk(2)
        reach = math.sqrt(2) * self.reach
        return replace(self, points=self.points[one], normals=self.normals[one], reach=reach), replace(
            self, points=self.points[two], normals=self.normals[two], reach=reach
        )


def _distinct(points: Tensor) -> tuple[Tensor, Tensor]:
    """Points without copies, and the index of the first of each."""
    _, group = points.unique(dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(points), dtype=torch.int64).scatter_reduce(0, group, torch.arange(len(points)), "amin").sort().values
    return points[first], first


@dataclass(frozen=True, eq=False)
class Residuals:
    """Of Q observed points from the surface at S poses."""

    seen: Tensor  # (S, Q, 3) the observed points in the frame of the surface [m]
    away: Tensor  # (S, Q, 3) from the surface element next to them [m]
    normals: Tensor  # (S, Q, 3) of it
    distance: Tensor  # (S, Q) from the surface [m]; beside an element counts only what is beyond its radius
    facing: Tensor  # (S, Q) bool, the normals do not contradict


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Products (*B) of vectors (*B, 3); a sum over so short an axis takes ten times as long."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def residuals(surface: Surface, turns: Tensor, shifts: Tensor, cloud: Tensor, cloud_normals: Tensor | None, *, candidates: int = 1) -> Residuals:
    """Residuals of a cloud (Q, 3) at poses, rotations (S, 3, 3) and translations (S, 3) [m] that place the surface.

    Of the `candidates` elements whose middles are next to a point, the one that the point is nearest to as a disk counts, and one that faces as the point does
    before one that does not: beside an edge the next middle is often that of an element round the corner.
    """
    seen = (cloud - shifts.unsqueeze(1)) @ turns
    index = knn(seen.reshape(-1, 3).contiguous(), surface.points, min(candidates, len(surface.points))).indices.view(*seen.shape[:2], -1)
    normals = surface.normals[index]
    away = seen.unsqueeze(2) - surface.points[index]
    along = _dot(away, normals)
    across = (_dot(away, away) - along.square()).clamp_min(0).sqrt()
    distance = (along.square() + (across - surface.reach).clamp_min(0).square()).sqrt()
    facing = torch.ones_like(distance, dtype=torch.bool)
    if cloud_normals is not None and surface.oriented:
        facing = _dot((cloud_normals @ turns).unsqueeze(2), normals) > 0
    if index.shape[2] == 1:
        return Residuals(seen, away[:, :, 0], normals[:, :, 0], distance[:, :, 0], facing[:, :, 0])
    best = torch.where(facing, distance, distance + 2 * surface.size).argmin(-1, keepdim=True)
    wide = best.unsqueeze(-1).expand(*best.shape, 3)
    return Residuals(seen, away.gather(2, wide)[:, :, 0], normals.gather(2, wide)[:, :, 0], distance.gather(2, best)[..., 0], facing.gather(2, best)[..., 0])


def normal_equations(at: Tensor, away: Tensor, normals: Tensor, weights: Tensor, across: float) -> tuple[Tensor, Tensor]:
    """Matrix (S, 6, 6) and vector (S, 6) of the motion (rotation vector, translation) of points (S, Q, 3) that takes `away` (S, Q, 3) from them.

    Squares count along normals (S, Q, 3), and with `across` in every direction; weights (S, Q).
    """
    rows = torch.cat((torch.linalg.cross(at, normals), normals), -1)
    weighted = weights.unsqueeze(-1) * rows
    matrix, vector = rows.mT @ weighted, -(weighted.mT @ _dot(away, normals).unsqueeze(-1)).squeeze(-1)
    if across == 0:
        return matrix, vector
    weights = across * weights.unsqueeze(-1)
    total, first, second = weights.sum(1), (weights.mT @ at).squeeze(1), at.mT @ (weights * at)
    eye = torch.eye(3).to(at)
    turning = second.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * eye - second
    x, y, z = first.unbind(-1)
    zero = torch.zeros_like(x)
    both = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))
    whole = torch.cat((torch.cat((turning, both), -1), torch.cat((both.mT, total.unsqueeze(-1) * eye), -1)), -2)
    pull = torch.cat((torch.linalg.cross(at, away), away), -1)
    return matrix + whole, vector - (weights.mT @ pull).squeeze(1)


def solve_motion(matrix: Tensor, vector: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations (S, 3, 3) and translations (S, 3) that solve the normal equations in the directions `free` (6, D), a little damped."""
    reduced = free.mT @ matrix @ free
    damping = 1e-6 * reduced.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(1e-12)
    reduced = reduced + damping[..., None, None] * torch.eye(free.shape[1]).to(matrix)
    motion = torch.linalg.solve(reduced, (vector @ free).unsqueeze(-1)).squeeze(-1) @ free.mT
    return quaternion_to_matrix(rotation_vector_to_quaternion(motion[..., :3])), motion[..., 3:]


def robust_weights(distance: Tensor, width: float) -> Tensor:
    """Geman-McClure: (1 + (d / width)^2)^-2."""
    return (1 + (distance / width).square()).pow(-2)


def fit_rigid(
    surface: Surface,
    turns: Tensor,
    shifts: Tensor,
    cloud: Tensor,
    *,
    widths: tuple[float, float],
    iterations: int,
    cloud_normals: Tensor | None = None,
    upright: bool = False,
    candidates: int = 1,
) -> tuple[Tensor, Tensor]:
    """Better poses, rotations (S, 3, 3) and translations (S, 3) [m], from poses that are about right.

    Args:
        surface: of the object.
        turns: (S, 3, 3) to start from.
        shifts: (S, 3) likewise [m].
        cloud: observed points (Q, 3) [m].
        widths: of the weights in the first and the last iteration [m].
        iterations: Gauss-Newton steps.
        cloud_normals: (Q, 3) towards the cameras.
        upright: turn only about the object's z axis.
        candidates: as for `residuals`.
    """
    free = torch.eye(6).to(cloud)[:, 2:] if upright else torch.eye(6).to(cloud)
    for step in range(iterations):
        done = step / max(1, iterations - 1)
        width = math.exp((1 - done) * math.log(widths[0]) + done * math.log(widths[1]))
        found = residuals(surface, turns, shifts, cloud, cloud_normals, candidates=candidates)
        weights = robust_weights(found.distance, width) * torch.where(found.facing, 1.0, FACED)
        across = ACROSS ** min(1.0, 2 * done)
        turn, shift = solve_motion(*normal_equations(found.seen, found.away, found.normals, weights, across), free)
        turns, shifts = turns @ turn.mT, shifts - (turns @ turn.mT @ shift.unsqueeze(-1)).squeeze(-1)
    return turns, shifts
