"""Convex hulls of few vertices: what stands for a detailed mesh where each vertex costs, as in contact. Arrays, no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

VERTICES = 64
KEPT = 0.98  # of the volume
_FLAT = 1e-6  # of the size: a vertex that stands out less is left out anyway


def few_vertices(points: ArrayLike, limit: int = VERTICES, *, kept: float = KEPT) -> Array:
    """At most `limit` vertices (n, 3) of a hull that stands for the hull of points (m, 3).

    They are vertices of that hull, first the extreme ones along the axes, then, one after another, the one that stands out farthest from the hull so far: what
    is left out stands out less than any of them did. If volume is missing that should be kept (round bodies of few vertices lose some), they are moved away
    from the centroid until it is there, and stand out of the body by as much.

    Args:
        points: of a mesh.
        limit: at least 4.
        kept: share of the volume, 0 to 1; 0 never moves a vertex.

    Raises:
        ValueError: on another shape, a limit or share that cannot be, or points that do not span a volume.
    """
    from scipy.spatial import ConvexHull, QhullError

    every = np.asarray(points, dtype=np.float64)
    if every.ndim != 2 or every.shape[1] != 3 or not np.isfinite(every).all():
        raise ValueError(f"expected finite points (m, 3), got shape {every.shape}.")
    if limit < 4 or not 0 <= kept <= 1:
        raise ValueError(f"expected a limit of 4 or more and a share of 0 to 1, got {limit} and {kept:g}.")
    try:
        whole = ConvexHull(every)
    except (QhullError, ValueError) as error:
        raise ValueError("expected points that span a volume, got fewer, or points in one plane.") from error
    corners = every[whole.vertices]
    chosen = _start(corners, limit)
    size = float(np.ptp(corners, axis=0).max())
    while True:
        hull = ConvexHull(corners[chosen])
        out = (corners @ hull.equations[:, :3].T + hull.equations[:, 3]).max(axis=1)
        farthest = int(out.argmax())
        if len(chosen) == limit or out[farthest] <= _FLAT * size:
            break
        chosen.append(farthest)
    few = corners[chosen][hull.vertices]
    if hull.volume < kept * whole.volume:
        centre = _centroid(every, whole.simplices, corners.mean(axis=0))
        few = centre + (kept * whole.volume / hull.volume) ** (1 / 3) * (few - centre)
    return few


def _start(corners: Array, limit: int) -> list[int]:
    """Indices of a tetrahedron of corners, and of the extreme ones along the axes, as many as may be."""
    first = int(np.linalg.norm(corners - corners.mean(axis=0), axis=1).argmax())
    second = int(np.linalg.norm(corners - corners[first], axis=1).argmax())
    along = corners[second] - corners[first]
    aside = np.cross(corners - corners[first], along)
    third = int(np.linalg.norm(aside, axis=1).argmax())
    fourth = int(np.abs((corners - corners[first]) @ aside[third]).argmax())
    extreme = [int(k) for axis in corners.T for k in (axis.argmin(), axis.argmax())]
    return list(dict.fromkeys([first, second, third, fourth, *extreme]))[:limit]


def _centroid(points: Array, faces: NDArray[np.int32], inside: Array) -> Array:
    """Centre of volume of a convex body, from its triangles and a point in it."""
    triangles = points[faces] - inside
    volumes = np.abs(np.linalg.det(triangles))
    centre: Array = inside + (volumes[:, None] * triangles.sum(axis=1)).sum(axis=0) / (4 * volumes.sum())
    return centre
