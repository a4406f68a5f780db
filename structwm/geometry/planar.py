"""The plane on tensors: angles and rotations; the nearest boundary point, outward normal and signed distance of a polygon or an ellipse.

The latter are the plain torch references of the functions inlined in `structwm.kernels.pushing`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def wrap_angle(angle: Tensor) -> Tensor:
    """Angles [rad] of any shape, within [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def rotate(vector: Tensor, angle: Tensor) -> Tensor:
    """Vectors (*B, 2) turned by angles (*B) [rad]."""
    c, s = angle.cos(), angle.sin()
    x, y = vector.unbind(-1)
    return torch.stack((c * x - s * y, s * x + c * y), -1)


def to_body(pose: Tensor, point: Tensor) -> Tensor:
    """Points (*B, 2) [m] of the world in the frame of poses (*B, 3) [m, m, rad]."""
    return rotate(point - pose[..., :2], -pose[..., 2])


@dataclass(frozen=True)
class Nearest:
    """What is nearest to query points (*B, 2)."""

    distance: Tensor  # (*B) [m], negative inside
    normal: Tensor  # (*B, 2), unit, outward
    point: Tensor  # (*B, 2) on the boundary [m]


class Shape(ABC):
    """A closed shape in its body frame [m]."""

    @abstractmethod
    def nearest(self, points: Tensor) -> Nearest:
        """The nearest boundary point of each query point (*B, 2)."""

    @abstractmethod
    def boundary(self, count: int) -> np.ndarray:
        """Points (count, 2) spread evenly along the boundary, counter-clockwise [m]."""

    @property
    @abstractmethod
    def moments(self) -> tuple[np.ndarray, float]:
        """Centroid (2,) [m] and radius of gyration [m] of the area."""


@dataclass(frozen=True)
class Polygon(Shape):
    """A simple polygon, convex or not; vertices ((x, y), ...) counter-clockwise [m].

    Raises:
        ValueError: on fewer than three vertices, values that are not finite, or clockwise order.
    """

    vertices: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        corners = np.asarray(self.vertices, dtype=np.float64)
        if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
            raise ValueError(f"A Polygon needs at least three finite vertices (x, y) [m], got an array of shape {corners.shape}.")
        object.__setattr__(self, "vertices", tuple((float(x), float(y)) for x, y in corners))
        if self._twice_areas().sum() <= 0:
            raise ValueError("A Polygon needs its vertices counter-clockwise and an area above zero; reverse their order.")

    @classmethod
    def of(cls, vertices: Sequence[Sequence[float]] | np.ndarray) -> Polygon:
        """From an array (V, 2) in either order."""
        corners = np.asarray(vertices, dtype=np.float64)
        following = np.roll(corners, -1, axis=0)
        clockwise = (corners[:, 0] * following[:, 1] - corners[:, 1] * following[:, 0]).sum() < 0
        return cls(tuple(map(tuple, corners[::-1] if clockwise else corners)))

    def _twice_areas(self) -> np.ndarray:
        start = np.asarray(self.vertices)
        end = np.roll(start, -1, axis=0)
        return start[:, 0] * end[:, 1] - start[:, 1] * end[:, 0]

    def nearest(self, points: Tensor) -> Nearest:
        """The distance is to the nearest edge segment; its sign comes from the crossing parity over all edges, so acute and reflex corners are right."""
        start = torch.tensor(self.vertices, dtype=points.dtype, device=points.device)  # (V, 2)
        edge = start.roll(-1, 0) - start
        offset = points.unsqueeze(-2) - start  # (*B, V, 2)
        along = ((offset * edge).sum(-1) / edge.square().sum(-1)).clamp(0.0, 1.0)
        foot = start + along.unsqueeze(-1) * edge
        winner = (points.unsqueeze(-2) - foot).square().sum(-1).argmin(-1, keepdim=True)  # (*B, 1)
        point = foot.gather(-2, winner.unsqueeze(-1).expand(*winner.shape, 2)).squeeze(-2)
        away = points - point
        length = away.square().sum(-1)
        on_edge = length < 1e-18
        length = torch.where(on_edge, 1.0, length).sqrt()
        above = start[:, 1] > points[..., 1:]
        slope = torch.where(edge[:, 1] == 0, 1.0, edge[:, 1])
        left = points[..., :1] < start[:, 0] + (points[..., 1:] - start[:, 1]) / slope * edge[:, 0]
        inside = (((above != above.roll(-1, -1)) & left).sum(-1) % 2).bool()
        sign = torch.where(inside, -1.0, 1.0).to(points)
        outward = torch.stack((edge[:, 1], -edge[:, 0]), -1) / edge.norm(dim=-1, keepdim=True)
        normal = torch.where(on_edge.unsqueeze(-1), outward[winner.squeeze(-1)], (sign / length).unsqueeze(-1) * away)
        return Nearest(torch.where(on_edge, 0.0, sign * length), normal, point)

    def boundary(self, count: int) -> np.ndarray:
        start = np.asarray(self.vertices)
        edge = np.roll(start, -1, axis=0) - start
        reach = np.concatenate(([0.0], np.cumsum(np.linalg.norm(edge, axis=1))))
        at = np.arange(count) / count * reach[-1]
        k = np.clip(np.searchsorted(reach, at, side="right") - 1, 0, len(start) - 1)
        return start[k] + ((at - reach[k]) / (reach[k + 1] - reach[k]))[:, None] * edge[k]

    @property
    def moments(self) -> tuple[np.ndarray, float]:
        start = np.asarray(self.vertices)
        end, twice = np.roll(start, -1, axis=0), self._twice_areas()
        centroid = ((start + end) * twice[:, None]).sum(0) / (3 * twice.sum())
        second = ((start**2 + start * end + end**2).sum(1) * twice).sum() / (6 * twice.sum())
        return centroid, float(np.sqrt(second - centroid @ centroid))


@dataclass(frozen=True)
class Ellipse(Shape):
    """An ellipse around the origin with semi-axes `a` along x and `b` along y [m]."""

    a: float
    b: float

    def __post_init__(self) -> None:
        if not (0 < self.a < np.inf and 0 < self.b < np.inf):
            raise ValueError(f"An Ellipse needs positive semi-axes [m], got {self.a} and {self.b}.")

    def nearest(self, points: Tensor) -> Nearest:
        """By iterating with the centre of curvature, which converges for points in and outside (A. Stephens, "Simple method for distance to ellipse", 2017)."""
        a, b, q = self.a, self.b, points.abs()
        with torch.no_grad():
            tx = ty = torch.full_like(q[..., 0], 0.5**0.5)
            for _ in range(ELLIPSE_ITERATIONS):
                ex, ey = (a * a - b * b) / a * tx**3, (b * b - a * a) / b * ty**3
                r = torch.hypot(a * tx - ex, b * ty - ey)
                scale = r / torch.hypot(q[..., 0] - ex, q[..., 1] - ey).clamp_min(1e-12)
                tx = (((q[..., 0] - ex) * scale + ex) / a).clamp(0.0, 1.0)
                ty = (((q[..., 1] - ey) * scale + ey) / b).clamp(0.0, 1.0)
                norm = torch.hypot(tx, ty).clamp_min(1e-12)
                tx, ty = tx / norm, ty / norm
        # one Newton step on the optimality condition of the angle makes the result differentiable (implicit function theorem)
        qx, qy = q.unbind(-1)
        slope = -a * a * tx * ty + a * qx * ty + b * b * tx * ty - b * qy * tx
        curve = a * a * (ty * ty - tx * tx) + a * qx * tx + b * b * (tx * tx - ty * ty) + b * qy * ty
        turn = -(slope / torch.where(curve.abs() < 1e-12, 1e-12, curve))
        tx, ty = tx - ty * turn, ty + tx * turn
        norm = (tx * tx + ty * ty).sqrt()
        signs = torch.where(points < 0, -1.0, 1.0).to(points)
        point = torch.stack((a * tx / norm, b * ty / norm), -1) * signs
        normal = torch.stack((b * tx, a * ty), -1) * signs
        normal = normal / normal.norm(dim=-1, keepdim=True)
        return Nearest(((points - point) * normal).sum(-1), normal, point)

    def boundary(self, count: int) -> np.ndarray:
        fine = np.linspace(0.0, 2 * np.pi, 4001)
        curve = np.stack((self.a * np.cos(fine), self.b * np.sin(fine)), -1)
        reach = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))))
        angle = np.interp(np.arange(count) / count * reach[-1], reach, fine)
        return np.stack((self.a * np.cos(angle), self.b * np.sin(angle)), -1)

    @property
    def moments(self) -> tuple[np.ndarray, float]:
        return np.zeros(2), float(np.sqrt((self.a**2 + self.b**2) / 4))


ELLIPSE_ITERATIONS = 6
