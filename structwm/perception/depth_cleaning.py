"""Depth images as cameras give them: what is noise, what is a mixed pixel at an edge, and the points that are left."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.geometry.neighbors import knn

SLOPE = 4.0  # steepest surface that is believed: depth by a step of one pixel's width, about 76 degrees
NOISES = 4.0  # standard deviations of the noise that neighbours may differ by
SUPPORT = 3  # of the 8 neighbours that must lie on the same surface: on a straight edge five do, on the tip of a corner three


def measured(depth: Tensor) -> Tensor:
    """Where a depth image (*V, height, width) holds a measurement: finite and above 0, bool."""
    return depth.isfinite() & (depth > 0)


def depth_noise(depth: Tensor, where: Tensor | None = None) -> float:
    """Standard deviation of the noise of depth images (V, height, width) [m], from second differences along rows and columns.

    Smooth surfaces have small ones, and of steps there are few: the median absolute value of d[i-1] - 2 d[i] + d[i+1] is 0.6745 sqrt(6) standard deviations
    of independent noise. Curved surfaces add a little; 0 where there are no three measurements in a row.

    Args:
        depth: [m].
        where: bool (V, height, width), the pixels that count.
    """
    fine = measured(depth) if where is None else measured(depth) & where
    values = torch.where(fine, depth, 0.0)
    found = []
    for axis in (-1, -2):
        size = depth.shape[axis]
        parts = [values.narrow(axis, k, size - 2) for k in range(3)] if size > 2 else []
        if parts:
            good = fine.narrow(axis, 0, size - 2) & fine.narrow(axis, 1, size - 2) & fine.narrow(axis, 2, size - 2)
            found.append((parts[0] - 2 * parts[1] + parts[2])[good].abs())
    every = torch.cat(found) if found else depth.new_zeros(0)
    return float(every.median()) / (0.6745 * math.sqrt(6)) if len(every) else 0.0


def depth_step(depth: Tensor, camera: Camera, noise: float) -> Tensor:
    """The largest difference of depth between neighbouring pixels of one surface, (V, height, width) [m]."""
    focal = camera.pinholes[..., :2].amin(-1)[..., None, None].to(depth)
    return SLOPE * depth / focal + NOISES * math.sqrt(2) * noise


def clean_depth(depth: Tensor, camera: Camera, *, masks: Tensor | None = None, noise: float | None = None) -> Tensor:
    """Depth images without what hangs in the air: 0 where nothing was measured, outside the masks, and at mixed ("flying") pixels.

    At an edge, one pixel's light comes from two surfaces, and its depth is of neither. Such pixels have few neighbours at about their own depth; a pixel is
    kept if at least three of its eight neighbours differ from it by no more than a steep surface and the noise explain.

    Args:
        depth: (V, height, width) [m].
        camera: of V views.
        masks: bool (V, height, width), True on the object.
        noise: standard deviation [m]; measured in the images if not given.
    """
    fine = measured(depth) if masks is None else measured(depth) & masks
    if noise is None:
        noise = depth_noise(depth, fine)
    values = torch.where(fine, depth, 0.0)
    step = depth_step(values, camera, noise)
    height, width = depth.shape[-2:]
    around = torch.nn.functional.pad(values, (1, 1, 1, 1))
    support = torch.zeros_like(values, dtype=torch.int64)
    for row in range(3):
        for column in range(3):
            if (row, column) != (1, 1):
                other = around[..., row : row + height, column : column + width]
                reach = math.sqrt(2) if row != 1 and column != 1 else 1.0
                support += (other > 0) & ((other - values).abs() <= reach * step)
    return torch.where(fine & (support >= SUPPORT), depth, 0.0)


def depth_points(depth: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """World points (N, 3) [m] of all measurements in depth images (V, height, width), and their places (N, 3) view, row, column."""
    place = measured(depth).nonzero()
    view, row, column = place.unbind(-1)
    k, pose = camera.pinholes.to(depth)[view], camera.world_from_camera.to(depth).expand(len(depth), 4, 4)[view]
    z = depth[view, row, column]
    across, down = (column + 0.5 - k[:, 2]) / k[:, 0] * z, (row + 0.5 - k[:, 3]) / k[:, 1] * z
    inside = torch.stack((across, down, z), -1)
    return (pose[:, :3, :3] @ inside.unsqueeze(-1)).squeeze(-1) + pose[:, :3, 3], place


def far_from_others(points: Tensor, *, count: int = 16, spread: float = 3.0) -> Tensor:
    """Which points (N, 3) lie apart from the others, bool (N,): their mean distance to `count` neighbours is above the mean by `spread` standard deviations.

    Rusu et al., Towards 3D point cloud based object maps for household environments, RAS 2008, section 4.1; with the median and the median absolute
    deviation, which the outliers themselves do not move.
    """
    if len(points) <= count:
        return torch.zeros(len(points), dtype=torch.bool, device=points.device)
    distance = knn(points, points, count, exclude_self=True).distances.mean(-1)
    middle = distance.median()
    deviation = 1.4826 * (distance - middle).abs().median()
    return distance > middle + spread * deviation.clamp_min(0.3 * middle)
