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

    Faces of polytopes carry a grid, round shapes an even spiral; each splat is as wide as the distance to its neighbours, which is `spacing` or less where a
    surface is small, and ends about where its face does. Rounded edges of polytopes are left open.

    Args:
        geometries: planes are left out.
        spacing: between splats [m]; smaller draws sharper edges.
        opacity: of each.

    Raises:
        ValueError: if there is nothing to cover, or spacing or opacity cannot be.
    """
    if not 0 < spacing < np.inf or not 0 < opacity <= 1:
        raise ValueError(f"surface_splats needs a spacing [m] above zero and an opacity in (0, 1], got {spacing} and {opacity}.")
    means, frames, widths, colors = [], [], [], []
    for geometry in geometries:
        if isinstance(geometry.shape, PlaneShape):
            continue
        points, axes, wide = _round(geometry, spacing) if isinstance(geometry.shape, SphereShape | CapsuleShape) else _flat(geometry, spacing)
        turn = rotation_matrix(geometry.rotation)
        means.append(points @ turn.T + np.asarray(geometry.position))
        frames.append(turn @ axes)
        widths.append(wide)
        colors.append(np.tile(geometry.color, (len(points), 1)))
    if not means:
        raise ValueError("surface_splats needs a geometry with a surface that ends, got none.")
    wide = np.concatenate(widths)
    return Splats(
        means=torch.from_numpy(np.concatenate(means)).float(),
        rotations=matrix_to_quaternion(torch.from_numpy(np.concatenate(frames))).float(),
        scales=torch.from_numpy(np.c_[wide, FLAT * np.sqrt(wide[:, :1] * wide[:, 1:])]).float(),
        opacities=torch.full((len(wide),), opacity),
        colors=torch.from_numpy(np.concatenate(colors)).float(),
        batch_size=[],
    )


def _flat(geometry: Geometry, spacing: float) -> tuple[Array, Array, Array]:
    """Points (n, 3) on the faces of a polytope, frames (n, 3, 3) whose last column is the outward normal, and standard deviations (n, 2) along the others."""
    _, _, hull = core_of(geometry)
    found, frames, widths = [], [], []
    for normal, offset in zip(hull.normals, hull.offsets, strict=True):
        corners = hull.vertices[np.abs(hull.vertices @ normal - offset) < 1e-6 * max(abs(offset), 1e-3) + 1e-9]
        middle = corners.mean(0)
        edge = corners[np.linalg.norm(corners - middle, axis=1).argmax()] - corners[0]
        longest = max((corners[j] - corners[i] for i in range(len(corners)) for j in range(i)), key=lambda v: float(v @ v)) if len(corners) < 64 else edge
        candidates = [corners[j] - corners[i] for i in range(len(corners)) for j in range(i)] if len(corners) < 12 else [longest]
        u = min(candidates, key=lambda v: float(np.ptp(corners @ np.cross(normal, v / np.linalg.norm(v)))))  # along which the face is narrowest across
        u = u / np.linalg.norm(u)
        v = np.cross(normal, u)
        grids, cells = [], []
        for axis in (u, v):
            low, high = float((corners @ axis).min()), float((corners @ axis).max())
            count = max(int(np.ceil((high - low) / spacing)), 1)
            cells.append((high - low) / count)
            grids.append(low + (np.arange(count) + 0.5) * cells[-1])
        a, b = np.meshgrid(*grids)
        points = a.reshape(-1, 1) * u + b.reshape(-1, 1) * v + offset * normal
        inside = (points @ hull.normals.T <= hull.offsets + 1e-9).all(1)
        count = int(inside.sum())
        found.append(points[inside] + geometry.rounding * normal)
        frames.append(np.tile(np.stack((u, v, normal), -1), (count, 1, 1)))
        widths.append(np.tile(0.5 * np.array(cells), (count, 1)))
    return np.concatenate(found), np.concatenate(frames), np.concatenate(widths)


def _round(geometry: Geometry, spacing: float) -> tuple[Array, Array, Array]:
    """The same on a ball or capsule."""
    radius = geometry.radius
    half = geometry.shape.half_length if isinstance(geometry.shape, CapsuleShape) else 0.0
    count = max(int(np.ceil(4 * np.pi * radius**2 / spacing**2)), 32)
    k = np.arange(count) + 0.5
    z = 1 - 2 * k / count
    ring = np.sqrt(1 - z * z)
    normals = np.c_[ring * np.cos(np.pi * (1 + 5**0.5) * k), ring * np.sin(np.pi * (1 + 5**0.5) * k), z]
    points = radius * normals + np.c_[0 * z, 0 * z, np.sign(z) * half]
    widths = np.full((count, 2), 0.5 * radius * np.sqrt(4 * np.pi / count))
    if half:
        rows, around = max(int(np.ceil(2 * half / spacing)), 1), max(int(np.ceil(2 * np.pi * radius / spacing)), 8)
        angle, height = np.meshgrid(2 * np.pi * np.arange(around) / around, -half + (np.arange(rows) + 0.5) * 2 * half / rows)
        side = np.c_[np.cos(angle).ravel(), np.sin(angle).ravel(), np.zeros(angle.size)]
        points, normals = np.concatenate((points, radius * side + np.c_[np.zeros((angle.size, 2)), height.ravel()])), np.concatenate((normals, side))
        widths = np.concatenate((widths, np.tile([0.5 * 2 * half / rows, 0.5 * 2 * np.pi * radius / around], (angle.size, 1))))
    up = np.where(np.abs(normals[:, 2:]) < 0.99, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    along = up - (up * normals).sum(1, keepdims=True) * normals  # of the side, its axis
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return points, np.stack((along, np.cross(normals, along), normals), -1), widths
