"""How a rigid body looks when nobody has photographed it: flat Gaussian splats that cover its surface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from structwm.geometry import matrix_to_quaternion
from structwm.state import Splats

from .rigid_program import core_of, rotation_matrix
from .rigid_world import CapsuleShape, Geometry, PlaneShape, SphereShape

Array = NDArray[Any]

FLAT = 0.02  # thickness of a splat over its width


def surface_splats(geometries: Sequence[Geometry], *, spacing: float = 0.005, opacity: float = 0.95) -> Splats:
    """Splats on the surfaces of geometries, in their body's frame, batch size ().

    Faces of polytopes carry a grid, round shapes an even spiral; each splat is as wide as the distance to its neighbours, and ends about where its face does.

    Args:
        geometries: planes are left out.
        spacing: between splats [m]; smaller draws sharper edges.
        opacity: of each.

    Raises:
        ValueError: if there is nothing to cover.
    """
    means, normals, widths, colors = [], [], [], []
    for geometry in geometries:
        if isinstance(geometry.shape, PlaneShape):
            continue
        points, outward, width = _round(geometry, spacing) if isinstance(geometry.shape, SphereShape | CapsuleShape) else _flat(geometry, spacing)
        turn = rotation_matrix(geometry.rotation)
        means.append(points @ turn.T + np.asarray(geometry.position))
        normals.append(outward @ turn.T)
        widths.append(np.full(len(points), width))
        colors.append(np.tile(geometry.color, (len(points), 1)))
    if not means:
        raise ValueError("surface_splats needs a geometry with a surface that ends, got none.")
    normal = np.concatenate(normals)
    helper = np.where(np.abs(normal[:, :1]) < 0.7, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    across = np.cross(normal, helper)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    frames = torch.from_numpy(np.stack((across, np.cross(normal, across), normal), -1))
    wide = torch.from_numpy(np.concatenate(widths))
    count = len(wide)
    return Splats(
        means=torch.from_numpy(np.concatenate(means)).float(),
        rotations=matrix_to_quaternion(frames).float(),
        scales=torch.stack((wide, wide, FLAT * wide), -1).float(),
        opacities=torch.full((count,), opacity),
        colors=torch.from_numpy(np.concatenate(colors)).float(),
        batch_size=[],
    )


def _flat(geometry: Geometry, spacing: float) -> tuple[Array, Array, float]:
    """Points and outward normals on the faces of a polytope, and the splats' standard deviation."""
    _, _, hull = core_of(geometry)
    found, outward = [], []
    for normal, offset in zip(hull.normals, hull.offsets, strict=True):
        corners = hull.vertices[np.abs(hull.vertices @ normal - offset) < 1e-6 * max(abs(offset), 1e-3) + 1e-9]
        middle = corners.mean(0)
        edge = corners[np.linalg.norm(corners - middle, axis=1).argmax()] - corners[0]
        longest = max((corners[j] - corners[i] for i in range(len(corners)) for j in range(i)), key=lambda v: float(v @ v)) if len(corners) < 64 else edge
        candidates = [corners[j] - corners[i] for i in range(len(corners)) for j in range(i)] if len(corners) < 12 else [longest]
        u = min(candidates, key=lambda v: float(np.ptp(corners @ np.cross(normal, v / np.linalg.norm(v)))))  # along which the face is narrowest across
        u = u / np.linalg.norm(u)
        v = np.cross(normal, u)
        grids = []
        for axis in (u, v):
            low, high = float((corners @ axis).min()), float((corners @ axis).max())
            cells = max(int(np.ceil((high - low) / spacing)), 1)
            grids.append(low + (np.arange(cells) + 0.5) * (high - low) / cells)
        a, b = np.meshgrid(*grids)
        points = a.reshape(-1, 1) * u + b.reshape(-1, 1) * v + offset * normal
        inside = (points @ hull.normals.T <= hull.offsets + 1e-9).all(1)
        found.append(points[inside] + geometry.rounding * normal)
        outward.append(np.tile(normal, (int(inside.sum()), 1)))
    return np.concatenate(found), np.concatenate(outward), 0.5 * spacing


def _round(geometry: Geometry, spacing: float) -> tuple[Array, Array, float]:
    """The same on a ball or capsule."""
    radius = geometry.radius
    half = geometry.shape.half_length if isinstance(geometry.shape, CapsuleShape) else 0.0
    count = max(int(4 * np.pi * radius**2 / spacing**2), 32)
    k = np.arange(count) + 0.5
    z = 1 - 2 * k / count
    ring = np.sqrt(1 - z * z)
    normals = np.c_[ring * np.cos(np.pi * (1 + 5**0.5) * k), ring * np.sin(np.pi * (1 + 5**0.5) * k), z]
    points = radius * normals + np.c_[0 * z, 0 * z, np.sign(z) * half]
    if half:
        rows, around = max(int(2 * half / spacing), 1), max(int(2 * np.pi * radius / spacing), 8)
        angle, height = np.meshgrid(2 * np.pi * np.arange(around) / around, -half + (np.arange(rows) + 0.5) * 2 * half / rows)
        side = np.c_[np.cos(angle).ravel(), np.sin(angle).ravel(), np.zeros(angle.size)]
        points, normals = np.concatenate((points, radius * side + np.c_[np.zeros((angle.size, 2)), height.ravel()])), np.concatenate((normals, side))
    return points, normals, 0.6 * spacing
