"""Points of ropes whose length is known: tubes along random curves, whole and spoilt as sensors spoil them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

KINDS = ("on a table", "in space", "U", "S", "U, near", "S, near")  # U and S: strands 6 radii apart from middle to middle, near: 4
SPOILT = ("whole", "noise", "strangers", "hidden parts", "upper side", "filled")


def rope_curve(kind: str, length: float, radius: float, seed: int) -> Array:
    """A polyline (L, 3) of exactly this length [m]."""
    rng = np.random.default_rng(seed)
    s = np.linspace(0, 1, 2000)

    def waves(size: float) -> Array:
        return np.asarray(sum(rng.normal() * size / k * np.sin(np.pi * k * s + rng.uniform(0, 6)) for k in (1, 2, 3)))

    if kind == "on a table":
        line = np.stack([s, waves(0.15), np.zeros_like(s)], -1)
    elif kind == "in space":
        line = np.stack([s, waves(0.15), waves(0.15)], -1)
    else:
        line = _strands(2 if kind[0] == "U" else 3, (4 if "near" in kind else 6) * radius, length)
        line[:, 2] += 0.3 * radius * np.sin(rng.uniform(3, 9) * np.linspace(0, 1, len(line)))
    line = line[np.r_[True, np.linalg.norm(np.diff(line, axis=0), axis=1) > 1e-12]]
    return np.asarray(line * length / np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def _strands(count: int, gap: float, length: float) -> Array:
    """Straight strands side by side, joined by half circles."""
    straight = (length - (count - 1) * np.pi * gap / 2) / count
    parts, x, y, way = [], 0.0, 0.0, 1.0
    for strand in range(count):
        along = np.linspace(0, straight, 600)
        parts.append(np.stack([x + way * along, np.full_like(along, y), np.zeros_like(along)], -1))
        x += way * straight
        if strand < count - 1:
            angle = np.linspace(-np.pi / 2, np.pi / 2, 300)
            parts.append(np.stack([x + way * gap / 2 * np.cos(angle), y + gap / 2 * (1 + np.sin(angle)), np.zeros_like(angle)], -1))
            y, way = y + gap, -way
    return np.concatenate(parts)


def tube_points(kind: str, spoilt: str, *, length: float, radius: float, seed: int, count: int = 4000) -> Tensor:
    """Points (N, 3) of a rope; all but `whole` and `filled` with 2 mm of noise.

    `strangers`: 3 % of points anywhere around; `hidden parts`: two gaps of 4 cm; `upper side`: only what is seen from above.
    """
    rng = np.random.default_rng(1000 + seed)
    line = rope_curve(kind, length, radius, seed)
    step = np.diff(line, axis=0)
    edge = np.linalg.norm(step, axis=1)
    place = np.r_[0, edge.cumsum()]
    along = rng.uniform(0, place[-1], count)
    k = np.clip(np.searchsorted(place, along) - 1, 0, len(step) - 1)
    middle, tangent = line[k] + ((along - place[k]) / edge[k])[:, None] * step[k], step[k] / edge[k][:, None]
    across = np.cross(tangent, np.where(np.abs(tangent[:, 2:]) < 0.9, [[0, 0, 1.0]], [[1.0, 0, 0]]))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    other = np.cross(tangent, across)
    angle = rng.uniform(0, 2 * np.pi, count)
    reach = radius * (np.sqrt(rng.uniform(0, 1, count)) if spoilt == "filled" else np.ones(count))
    points = middle + (reach * np.cos(angle))[:, None] * across + (reach * np.sin(angle))[:, None] * other
    kept = np.ones(count, bool)
    if spoilt == "upper side":
        kept = (points - middle)[:, 2] > -0.3 * radius
    if spoilt == "hidden parts":
        for low, high in ((0.1, 0.3), (0.5, 0.8)):
            start = rng.uniform(low, high) * length
            kept &= (along < start) | (along > start + 0.04)
    points = points[kept]
    if spoilt not in ("whole", "filled"):
        points = points + 0.002 * rng.normal(size=points.shape)
    if spoilt == "strangers":
        points = np.concatenate((points, rng.uniform(points.min(0) - 0.05, points.max(0) + 0.05, (len(points) // 33, 3))))
    return torch.from_numpy(points).float()
