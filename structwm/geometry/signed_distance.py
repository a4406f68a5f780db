"""Signed distance from points to solids: primitives, meshes and unions of them [m], negative inside.

Distances are exact and Euclidean, and carry gradients by points, poses and sizes. The gradient by a point is the unit normal of the nearest surface; where
several places are as near (the center of a sphere, the middle of a box), it is one of them, a mean of them or 0, and always finite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from structwm.geometry.mesh import Mesh
from structwm.geometry.rotations import to_body
from structwm.kernels.mesh_queries import MeshQuery

ELLIPSOID_ITERATIONS = 16


class Solid(ABC):
    """Something with an inside and an outside, or a batch `*B` of such."""

    @abstractmethod
    def signed_distance(self, points: Tensor) -> Tensor:
        """Distances (*B, N) [m] of world points (*B, N, 3) [m]; leading axes broadcast.

        Raises:
            ValueError: in one sentence, if the points are not three finite numbers each.
        """


@dataclass(frozen=True)
class _Posed(Solid):
    """A solid in its own frame, placed by a pose."""

    pose: Tensor  # (*B, 7) world_from_body: position [m], quaternion wxyz of any length but zero

    def __post_init__(self) -> None:
        pose, name = self.pose.detach(), type(self).__name__
        if pose.shape[-1:] != (7,) or not pose.is_floating_point():
            raise ValueError(f"{name} pose: expected floats (*B, 7), got {pose.dtype} {tuple(pose.shape)}.")
        if not bool(pose.isfinite().all()) or not bool(pose[..., 3:].any(-1).all()):
            raise ValueError(f"{name} pose: expected finite numbers and quaternions that are not zero.")

    def signed_distance(self, points: Tensor) -> Tensor:
        _check(points)
        return self._local(to_body(self.pose, points))

    @abstractmethod
    def _local(self, points: Tensor) -> Tensor:
        """Distances of points in the solid's frame."""


@dataclass(frozen=True)
class _Sized(_Posed):
    """A solid whose other fields are lengths, of one or of three axes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in fields(self)[1:]:
            size = torch.as_tensor(getattr(self, part.name), dtype=self.pose.dtype, device=self.pose.device)
            if part.name in ("half_sizes", "semi_axes") and size.shape[-1:] != (3,):
                raise ValueError(f"{type(self).__name__} {part.name}: expected three lengths (*B, 3) [m], got {tuple(size.shape)}.")
            if not bool(((size > 0) & size.isfinite()).all()):
                raise ValueError(
                    f"{type(self).__name__} {part.name}: expected finite lengths above 0 [m], got {size.min().item():.4g} to {size.max().item():.4g}."
                )
            object.__setattr__(self, part.name, size)


@dataclass(frozen=True)
class Sphere(_Sized):
    """A ball around its frame's origin."""

    radius: Tensor | float  # (*B) [m]

    def _local(self, points: Tensor) -> Tensor:
        return _norm(points) - _each(self.radius)


@dataclass(frozen=True)
class Box(_Sized):
    """A box along the axes of its frame."""

    half_sizes: Tensor | Sequence[float]  # (*B, 3) [m], from the middle to the faces

    def _local(self, points: Tensor) -> Tensor:
        return _beyond(points.abs() - _each(self.half_sizes, 2))


@dataclass(frozen=True)
class Capsule(_Sized):
    """All points within `radius` of a segment of 2 `half_length` along z."""

    radius: Tensor | float  # (*B) [m]
    half_length: Tensor | float  # (*B) [m], without the round ends

    def _local(self, points: Tensor) -> Tensor:
        reach = _each(self.half_length)
        x, y, z = points.unbind(-1)
        return _norm(torch.stack((x, y, z - torch.maximum(torch.minimum(z, reach), -reach)), -1)) - _each(self.radius)


@dataclass(frozen=True)
class Cylinder(_Sized):
    """A cylinder with flat ends, along z."""

    radius: Tensor | float  # (*B) [m]
    half_length: Tensor | float  # (*B) [m]

    def _local(self, points: Tensor) -> Tensor:
        across, along = _norm(points[..., :2]) - _each(self.radius), points[..., 2].abs() - _each(self.half_length)
        return _beyond(torch.stack((across, along), -1))


@dataclass(frozen=True)
class HalfSpace(_Posed):
    """Everything below the x-y plane of its frame, as a floor."""

    def _local(self, points: Tensor) -> Tensor:
        return points[..., 2]


@dataclass(frozen=True)
class Ellipsoid(_Sized):
    """An ellipsoid along the axes of its frame.

    The nearest point is a (a y) / (s + a^2 - c^2) axis by axis, for a point y, semi-axes a, the shortest of them c, and the root s of one equation (Eberly,
    "Distance from a point to an ellipse, an ellipsoid, or a hyperellipsoid", 2013). Newton's method on the inverse of its norm, which is concave,
    comes to the root from one side.
    """

    semi_axes: Tensor | Sequence[float]  # (*B, 3) [m]

    def _local(self, points: Tensor) -> Tensor:
        axes = _each(self.semi_axes, 2)
        with torch.no_grad():
            rounding = torch.finfo(points.dtype).eps ** 1.5
            shortest = axes.amin(-1, keepdim=True)
            products = axes * points.abs().clamp_min(rounding * shortest)  # on a plane of symmetry, a little beside it
            excess = (axes - shortest) * (axes + shortest)
            root = (products - excess).amax(-1, keepdim=True)
            for _ in range(ELLIPSOID_ITERATIONS):
                terms = products / (root + excess)
                square = terms.square()
                norm = square.sum(-1, keepdim=True).sqrt()
                root = root + (norm - 1).clamp_min(0) * norm.square() / (square / (root + excess)).sum(-1, keepdim=True)
            terms = torch.where(points < 0, -1.0, 1.0) * products / (root + excess)
            unit = terms / _norm(terms).unsqueeze(-1)
            normal = unit / axes
            normal = normal / _norm(normal).unsqueeze(-1)
        # the nearest point moves along the surface, so only the surface's own motion counts for the gradient
        return ((points - axes * unit) * normal).sum(-1)


@dataclass(frozen=True)
class MeshSolid(_Posed):
    """A mesh in its own frame, placed by a pose."""

    query: MeshQuery

    def _local(self, points: Tensor) -> Tensor:
        return self.query.signed_distance(points)


@dataclass(frozen=True)
class Union(Solid):
    """Several solids as one: the least distance, exact outside; inside, where solids overlap, the surface may be farther than it says."""

    solids: Sequence[Solid]

    def __post_init__(self) -> None:
        if not self.solids:
            raise ValueError("Union: expected at least one solid, got none.")

    def signed_distance(self, points: Tensor) -> Tensor:
        distances = torch.broadcast_tensors(*(solid.signed_distance(points) for solid in self.solids))
        return torch.stack(distances, -1).amin(-1)


def mesh_signed_distance(mesh: Mesh | MeshQuery, points: Tensor, *, sign: Literal["normal", "winding"] = "normal") -> Tensor:
    """Distances (*B, N) [m] of points (*B, N, 3) to a mesh, with gradients by points and vertices.

    Args:
        mesh: to ask one mesh more than once, make a `MeshQuery` of it, which costs more than to ask it.
        points: in the mesh's frame [m].
        sign: how inside is told from outside where `mesh` is a `Mesh`, see `MeshQuery`.

    Raises:
        ValueError: in one sentence, if points are not finite or the mesh has no face with an area.
    """
    query = mesh if isinstance(mesh, MeshQuery) else MeshQuery(mesh, sign=sign)
    return query.signed_distance(points)


def _check(points: Tensor) -> None:
    if points.ndim < 2 or points.shape[-1] != 3 or not points.is_floating_point():
        raise ValueError(f"signed distance points: expected floats (*B, N, 3), got {points.dtype} {tuple(points.shape)}.")
    if not torch.compiler.is_compiling() and not bool(points.detach().isfinite().all()):
        raise ValueError("signed distance points: expected finite numbers, got NaN or infinity.")


def _each(size: Tensor | float | Sequence[float], own: int = 1) -> Tensor:
    """A size (*B) or (*B, 3) beside points: (*B, 1) or (*B, 1, 3)."""
    assert isinstance(size, Tensor)
    return size.unsqueeze(-own)


def _norm(vectors: Tensor) -> Tensor:
    """Lengths, whose gradient at 0 is 0."""
    return torch.linalg.vector_norm(vectors, dim=-1)


def _beyond(over: Tensor) -> Tensor:
    """Distance to a product of intervals from how far (*, n) a point is beyond each."""
    return _norm(over.clamp_min(0)) + over.amax(-1).clamp_max(0)
