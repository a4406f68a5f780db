"""How long the rope of gs_dynamics_rope is, by its photos alone: the middle of its mask in each of the four, triangulated. No splat is used.

In each mask the shortest way between the two ends is sought that keeps to the middle (a step costs the more the nearer it is to the outline; Cohen and Kimmel,
IJCV 1997), and lengthened to the outline. A spline in space is then fitted so that its images lie on the four middles and its ends on their ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import distance_transform_edt, label
from scipy.optimize import least_squares
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from structwm.geometry.camera import Camera

Array = NDArray[np.float64]
KNOTS, SAMPLES = 16, 80


@dataclass(frozen=True)
class TracedRope:
    """A curve in space traced in photos."""

    curve: Array  # (SAMPLES, 3) [m]
    length: float  # [m]
    residual: float  # root mean square distance of its images to the middles of the masks [px]


def mask_middle(mask: Array) -> Array:
    """Pixels (P, 2) x, y along the middle of an elongated mask (height, width), from end to end."""
    parts, _ = label(mask)
    mask = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    depth = distance_transform_edt(mask)
    index = np.full(mask.shape, -1)
    rows, columns = np.nonzero(mask)
    index[rows, columns] = np.arange(len(rows))
    first, second, cost, plain = [], [], [], []
    for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1)):
        r, c = rows + dr, columns + dc
        fine = (r < mask.shape[0]) & (c >= 0) & (c < mask.shape[1])
        fine[fine] &= mask[r[fine], c[fine]]
        first.append(index[rows[fine], columns[fine]])
        second.append(index[r[fine], c[fine]])
        plain.append(np.full(fine.sum(), np.hypot(dr, dc)))
        cost.append(plain[-1] / np.minimum(depth[rows[fine], columns[fine]], depth[r[fine], c[fine]]) ** 3)
    pairs, count = (np.concatenate(first), np.concatenate(second)), len(rows)

    def ways(lengths: list[Array], start: int) -> tuple[Array, NDArray[np.int32]]:
        graph = coo_matrix((np.concatenate(lengths), pairs), shape=(count, count)).tocsr()
        return dijkstra(graph, directed=False, indices=start, return_predecessors=True)

    one = int(ways(plain, 0)[0].argmax())
    other = int(ways(plain, one)[0].argmax())
    before = ways(cost, one)[1]
    path = [other]
    while path[-1] != one:
        path.append(int(before[path[-1]]))
    middle = np.stack((columns[path] + 0.5, rows[path] + 0.5), -1)[::-1].astype(float)
    width = int(np.median(depth[rows[path], columns[path]]))
    # the last steps lead into the corners of the ends: straight on from the middle instead, to the outline
    inner = middle[2 * width : -2 * width]
    ends = [_to_outline(mask, inner[0], inner[0] - inner[2 * width]), _to_outline(mask, inner[-1], inner[-1] - inner[-1 - 2 * width])]
    whole = _resampled(np.concatenate((ends[0][None], inner, ends[1][None])), 400)
    window = np.hanning(2 * (len(whole) // 40) + 3)[1:-1]
    around = [np.pad(whole[:, k], len(window) // 2, mode="reflect", reflect_type="odd") for k in (0, 1)]
    return np.stack([np.convolve(one, window / window.sum(), "valid") for one in around], -1)


def _to_outline(mask: Array, start: Array, direction: Array) -> Array:
    step = direction / np.linalg.norm(direction)
    place = start
    while 0 <= place[0] < mask.shape[1] and 0 <= place[1] < mask.shape[0] and mask[int(place[1]), int(place[0])]:
        place = place + 0.25 * step
    return place


def _resampled(line: Array, count: int) -> Array:
    place = np.concatenate(([0.0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()))
    even = np.linspace(0, place[-1], count)
    return np.stack([np.interp(even, place, line[:, k]) for k in range(line.shape[1])], -1)


def triangulated(matrices: Array, pixels: Array) -> Array:
    """Points (N, 3) nearest to the rays through pixels (V, N, 2) of cameras (V, 3, 4), by linear least squares."""
    rows = pixels[..., None] * matrices[:, None, None, 2] - matrices[:, None, :2]  # (V, N, 2, 4)
    rows = rows.transpose(1, 0, 2, 3).reshape(pixels.shape[1], -1, 4)
    return np.stack([np.linalg.lstsq(one[:, :3], -one[:, 3], rcond=None)[0] for one in rows])


def _project(matrices: Array, points: Array) -> Array:
    flat = np.einsum("vij,nj->vni", matrices[:, :, :3], points) + matrices[:, None, :, 3]
    return np.asarray(flat[..., :2] / flat[..., 2:])


def _mismatch(matrices: Array, pixels: Array) -> float:
    return float(np.linalg.norm(_project(matrices, triangulated(matrices, pixels)) - pixels, axis=-1).sum())


def _beside(pixels: Array, middle: Array) -> Array:
    """Distance of pixels (N, 2) to a polyline, with the sign of the side."""
    step = np.diff(middle, axis=0)
    apart = pixels[:, None] - middle[:-1]
    share = np.clip((apart * step).sum(-1) / (step**2).sum(-1), 0, 1)
    off = apart - share[..., None] * step
    nearest = (off**2).sum(-1).argmin(1)
    chosen, along = off[np.arange(len(pixels)), nearest], step[nearest]
    return np.asarray(np.linalg.norm(chosen, axis=1) * np.sign(along[:, 0] * chosen[:, 1] - along[:, 1] * chosen[:, 0]))


def trace_rope(camera: Camera, masks: torch.Tensor) -> TracedRope:
    """The middle of a rope in space from masks (V, height, width) of V cameras."""
    middles = [mask_middle(mask.numpy()) for mask in masks]
    k, pose = camera.intrinsics.double().numpy(), camera.camera_from_world.double().numpy()
    matrices = k @ pose[:, :3]

    for view in range(1, len(middles)):  # which end is which: the pairing with the first view whose ends meet better in space
        both = [_mismatch(matrices[[0, view]], np.stack((middles[0][[0, -1]], ends))) for ends in (middles[view][[0, -1]], middles[view][[-1, 0]])]
        if both[1] < both[0]:
            middles[view] = middles[view][::-1]
    share = np.linspace(0, len(middles[0]) - 1, KNOTS).round().astype(int)
    start = triangulated(matrices, np.stack([middle[share] for middle in middles]))
    along, fine = np.linspace(0, 1, KNOTS), np.linspace(0, 1, SAMPLES)

    def residuals(numbers: Array) -> Array:
        curve = CubicSpline(along, numbers.reshape(KNOTS, 3))(fine)
        pixels = _project(matrices, curve)
        parts = [_beside(pixels[v], middles[v]) for v in range(len(middles))]
        ends = [2.0 * (pixels[v][[0, -1]] - middles[v][[0, -1]]).ravel() for v in range(len(middles))]
        knots = np.linalg.norm(np.diff(numbers.reshape(KNOTS, 3), axis=0), axis=1)
        return np.concatenate((*parts, *ends, 20 * (knots / knots.mean() - 1)))

    found = least_squares(residuals, start.ravel(), loss="soft_l1", xtol=1e-5, ftol=1e-5, max_nfev=40)
    curve = CubicSpline(along, found.x.reshape(KNOTS, 3))(np.linspace(0, 1, 4 * SAMPLES))
    off = np.concatenate([_beside(_project(matrices, curve)[v], middles[v]) for v in range(len(middles))])
    return TracedRope(curve, float(np.linalg.norm(np.diff(curve, axis=0), axis=1).sum()), float(np.sqrt(np.mean(off**2))))
