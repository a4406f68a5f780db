"""Convex outlines in the plane: presets, moments, signed distance and sampling.

An outline is a convex polygon without holes, float64 (V, 2), vertices counter-clockwise [m], the last joined to the first. An ellipse is a polygon of many
vertices. Every preset has its centroid at the origin of the body frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def rectangle(length: float, width: float) -> Array:
    """A rectangle of `length` along x and `width` along y [m], (4, 2)."""
    x, y = length / 2, width / 2
    return convex_outline([(-x, -y), (x, -y), (x, y), (-x, y)])


def ellipse(a: float, b: float, *, vertices: int = 48) -> Array:
    """A polygon inscribed in the ellipse of semi-axes `a` along x and `b` along y [m], (vertices, 2)."""
    angle = 2 * np.pi * np.arange(vertices) / vertices
    return convex_outline(np.stack([a * np.cos(angle), b * np.sin(angle)], axis=-1))


def triangle(a: float, b: float, *, angle: float = np.pi / 2) -> Array:
    """A triangle with side `a` along x, side `b` and the `angle` [rad] between them (a right angle unless said), sides in [m], (3, 2)."""
    corner = np.array([(0.0, 0.0), (a, 0.0), (b * np.cos(angle), b * np.sin(angle))])
    return convex_outline(corner - corner.mean(axis=0))


def regular_polygon(sides: int, *, radius: float) -> Array:
    """A regular polygon inscribed in a circle of `radius` [m], first vertex on the x axis, (sides, 2)."""
    return ellipse(radius, radius, vertices=sides)


def convex_outline(outline: ArrayLike) -> Array:
    """The outline as a checked float64 array (V, 2).

    Raises:
        ValueError: if it is not a finite, strictly convex, counter-clockwise polygon.
    """
    vertices = np.array(outline, dtype=np.float64)
    if vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < 3:
        raise ValueError(f"an outline has shape (V, 2) with V >= 3 vertices [m], got shape {vertices.shape}.")
    if not np.isfinite(vertices).all():
        raise ValueError(f"an outline has finite vertices, got vertex {int(np.argmin(np.isfinite(vertices).all(axis=1)))} not finite.")
    edge = np.roll(vertices, -1, axis=0) - vertices
    turn = np.arctan2(_cross(edge, np.roll(edge, -1, axis=0)), (edge * np.roll(edge, -1, axis=0)).sum(axis=-1))
    if not (turn > 0).all() or not np.isclose(turn.sum(), 2 * np.pi):
        raise ValueError("an outline is strictly convex with its vertices counter-clockwise, and this one is not; reverse the order or take its convex hull.")
    return vertices


def moments(outline: ArrayLike) -> tuple[float, Array, Array]:
    """Area [m^2], centroid (2,) [m] and covariance (2, 2) [m^2] of a point drawn uniformly from the inside."""
    start = np.asarray(outline, dtype=np.float64)
    end = np.roll(start, -1, axis=0)
    twice = _cross(start, end)
    area = twice.sum() / 2
    centroid = ((start + end) * twice[:, None]).sum(axis=0) / (6 * area)
    a, b = start - centroid, end - centroid
    outer = np.einsum("vi,vj->vij", a + b, a + b) + np.einsum("vi,vj->vij", a, a) + np.einsum("vi,vj->vij", b, b)
    return float(area), centroid, np.einsum("v,vij->ij", _cross(a, b), outer) / (24 * area)


def signed_distance(outline: ArrayLike, points: ArrayLike) -> Array:
    """Distance of points (..., 2) to the outline [m], negative inside, shape (...).

    The size is the distance to the nearest edge *segment*, the sign comes from all half-planes together; one edge alone calls points outside an acute corner
    inside.
    """
    start = np.asarray(outline, dtype=np.float64)
    edge = np.roll(start, -1, axis=0) - start
    offset = np.asarray(points, dtype=np.float64)[..., None, :] - start
    along = np.clip((offset * edge).sum(axis=-1) / (edge**2).sum(axis=-1), 0.0, 1.0)
    distance = np.linalg.norm(offset - along[..., None] * edge, axis=-1).min(axis=-1)
    inside = (_cross(edge, offset) >= 0).all(axis=-1)
    signed: Array = np.where(inside, -distance, distance)
    return signed


def boundary_point(outline: ArrayLike, fraction: float) -> tuple[Array, Array]:
    """The point at a fraction in [0, 1) of the perimeter from vertex 0, (2,) [m], and the outward unit normal there, (2,)."""
    start = np.asarray(outline, dtype=np.float64)
    edge = np.roll(start, -1, axis=0) - start
    length = np.linalg.norm(edge, axis=-1)
    reach = np.cumsum(length)
    target = (fraction % 1.0) * reach[-1]
    k = min(int(np.searchsorted(reach, target, side="right")), len(start) - 1)
    along = (target - (reach[k] - length[k])) / length[k]
    return start[k] + along * edge[k], np.array([edge[k, 1], -edge[k, 0]]) / length[k]


def inset(outline: ArrayLike, distance: float) -> Array:
    """The outline with every edge moved inwards by a small distance [m], (V, 2).

    Raises:
        ValueError: if an edge would vanish.
    """
    start = convex_outline(outline)
    edge = np.roll(start, -1, axis=0) - start
    normal = np.stack([-edge[:, 1], edge[:, 0]], axis=-1) / np.linalg.norm(edge, axis=-1, keepdims=True)
    before = np.roll(normal, 1, axis=0)
    moved = start + distance * (before + normal) / (1 + (before * normal).sum(axis=-1, keepdims=True))
    if not ((np.roll(moved, -1, axis=0) - moved) * edge > 0).any(axis=-1).all():
        raise ValueError(f"moving the edges of this outline inwards by {distance} m makes one vanish; take a smaller distance or fewer vertices.")
    return convex_outline(moved)


def support_points(outline: ArrayLike, *, sectors: int | None = None, shells: int = 2) -> Array:
    """Points that stand for uniform pressure over the inside, (sectors * shells, 2) [m].

    Equal-area cells around the centroid (sectors cut by shells), one point in each, then the affine map that gives the points exactly the centroid and the
    covariance of the inside: equal springs at these points share a load as the whole base does, and friction on them resists turning nearly as it does there
    (2 % more for common shapes).

    Args:
        sectors: when omitted the largest multiple of the number of vertices up to 8, which keeps the symmetries of the shape, or 8 for more vertices.
    """
    vertices = convex_outline(outline)
    if sectors is None:
        sectors = 8 // len(vertices) * len(vertices) or 8
    _, centroid, covariance = moments(vertices)
    rim = _rim_by_area(vertices - centroid, (np.arange(sectors) + 0.5) / sectors)
    bounds = np.sqrt(np.arange(shells + 1) / shells)
    radius = 2 / 3 * (bounds[1:] ** 3 - bounds[:-1] ** 3) / (bounds[1:] ** 2 - bounds[:-1] ** 2)
    points = (radius[:, None, None] * rim).reshape(-1, 2)
    points = points - points.mean(axis=0)
    own = np.linalg.cholesky(points.T @ points / len(points))
    mapped: Array = centroid + points @ np.linalg.inv(own).T @ np.linalg.cholesky(covariance).T
    return mapped


def _rim_by_area(vertices: Array, fractions: Array) -> Array:
    """Boundary points (K, 2) at which the area swept from vertex 0 around the origin has reached the fractions (K,) of the whole."""
    swept = _cross(vertices, np.roll(vertices, -1, axis=0))
    reach = np.concatenate([[0.0], np.cumsum(swept)])
    k = np.clip(np.searchsorted(reach, fractions * reach[-1], side="right") - 1, 0, len(vertices) - 1)
    along = (fractions * reach[-1] - reach[k]) / swept[k]
    rim: Array = vertices[k] + along[:, None] * (np.roll(vertices, -1, axis=0)[k] - vertices[k])
    return rim


def _cross(a: Array, b: Array) -> Array:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
