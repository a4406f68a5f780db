"""Fewer points that stand for many: by voxels, farthest first, without strangers, without the table."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.data.cloud_files import PointCloud, load_open3d

from .bounds import some
from .depth_clouds import select_points

MOST = 20_000  # points that a plane is looked for in


def thin_by_voxels(cloud: PointCloud, size: float) -> PointCloud:
    """The mean of the points in every cube of side `size` [m]; colours are averaged, normals too and made unit again.

    Raises:
        ValueError: if the size is not above 0, or a position is not finite.
    """
    if not size > 0:
        raise ValueError(f"thin_by_voxels: expected a size above 0 m, got {size}.")
    if not bool(cloud.positions.isfinite().all()):
        raise ValueError("thin_by_voxels: expected finite positions, got NaN or infinity; remove those points.")
    if not len(cloud):
        return cloud
    cell = (cloud.positions / size).floor().long()
    _, group, counts = cell.unique(dim=0, return_inverse=True, return_counts=True)

    def mean(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.new_zeros(len(counts), 3).index_add_(0, group, values) / counts.unsqueeze(-1)

    positions, normals = mean(cloud.positions), mean(cloud.normals)
    assert positions is not None
    return PointCloud(positions, mean(cloud.colors), None if normals is None else torch.nn.functional.normalize(normals, dim=-1))


def farthest_points(points: Tensor, count: int, *, mask: Tensor | None = None) -> Tensor:
    """Indices int64 (*B, count) of points spread over a cloud: each is the one farthest from those before (Eldar et al., IEEE TIP 1997).

    The first is the one farthest from the mean. No index comes twice; where there are fewer points than asked for, -1 follows.

    Args:
        points: (*B, N, 3) [m].
        count: how many.
        mask: (*B, N) bool, False for padding, which may hold any numbers.

    Raises:
        ValueError: in one sentence, if shapes do not fit or a coordinate that is not masked is not finite.
    """
    if points.ndim < 2 or points.shape[-1] != 3 or count < 1 or (mask is not None and mask.shape != points.shape[:-1]):
        got = f"{tuple(points.shape)}, {count} and {None if mask is None else tuple(mask.shape)}"
        raise ValueError(f"farthest_points: expected points (*B, N, 3), a count above 0 and a mask (*B, N), got {got}.")
    batch, total = points.shape[:-2], points.shape[-2]
    flat = points.detach().reshape(batch.numel(), total, 3)
    free = torch.ones(flat.shape[:2], dtype=torch.bool, device=points.device) if mask is None else mask.reshape(batch.numel(), total).clone()
    flat = torch.where(free.unsqueeze(-1), flat, 0.0)
    if not bool(flat.isfinite().all()):
        raise ValueError("farthest_points: expected finite points, got NaN or infinity; mask or remove those points.")
    found = torch.full((len(flat), count), -1, dtype=torch.int64, device=points.device)
    if not total:
        return found.view(*batch, count)
    middle = flat.sum(1) / free.sum(1).clamp_min(1).unsqueeze(-1)
    rows = torch.arange(len(flat), device=points.device)
    far = (flat - middle.unsqueeze(1)).square().sum(-1)
    for step in range(min(count, total)):
        best = torch.where(free, far, -1.0).argmax(1)
        good = free[rows, best]
        found[good, step] = best[good]
        free[rows, best] = False
        away = (flat - flat[rows, best].unsqueeze(1)).square().sum(-1)
        far = away if step == 0 else torch.minimum(far, away)
    return found.view(*batch, count)


def without_outliers(cloud: PointCloud, *, neighbours: int = 20, ratio: float = 2.0) -> PointCloud:
    """The cloud without points whose mean distance to their neighbours is above the mean by `ratio` standard deviations (Rusu et al., RAS 2008), by Open3D.

    `perception.depth_cleaning.far_from_others` is the same with robust statistics and without Open3D.

    Raises:
        ImportError: if Open3D is missing; it says what to install.
    """
    open3d = load_open3d()
    if len(cloud) <= 1:
        return cloud
    made = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(cloud.positions.detach().cpu().double().numpy()))
    _, kept = made.remove_statistical_outlier(nb_neighbors=neighbours, std_ratio=ratio)
    return select_points(cloud, torch.tensor(list(kept), dtype=torch.int64, device=cloud.positions.device))


def table_plane(points: Tensor, near: float, *, above: Tensor | None = None, share: float = 0.2, seed: int = 0) -> Tensor | None:
    """The plane that holds most points, (4,) n and d with n . x + d = 0; None where none holds `share` of them.

    RANSAC (Fischler and Bolles, CACM 1981), then least squares over the points that it holds.

    Args:
        points: (N, 3) of a scene [m].
        near: how far from it a point of the plane may lie [m]; three standard deviations of the noise.
        above: (3,) a place on the side to which n points, such as a camera [m]; without, n points to the side of more points.
        share: of the points, at least, that it must hold.
        seed: of the draws.
    """
    points = some(points.detach(), MOST, seed)
    if len(points) < 3:
        return None
    generator = torch.Generator().manual_seed(seed)
    three = points[torch.randint(len(points), (512, 3), generator=generator)]
    cross = torch.linalg.cross(three[:, 1] - three[:, 0], three[:, 2] - three[:, 0])
    wide = cross.norm(dim=-1) > near**2  # three points far from one line
    if not bool(wide.any()):
        return None
    normals, first = torch.nn.functional.normalize(cross[wide], dim=-1), three[wide, 0]
    few = some(points, 4000, seed)
    best = int(((few @ normals.mT - (normals * first).sum(-1)).abs() < near).sum(0).argmax())
    held = points[((points - first[best]) @ normals[best]).abs() < near]
    if len(held) < max(3, share * len(points)):
        return None
    centre = held.mean(0)
    normal = torch.linalg.svd(held - centre, full_matrices=False).Vh[-1]
    heights = (points - centre) @ normal
    side = (above.to(points) - centre) @ normal if above is not None else (heights > near).sum() - (heights < -near).sum()
    normal = torch.where(side < 0, -normal, normal)
    return torch.cat((normal, -(normal * centre).sum().unsqueeze(0)))


def above_plane(cloud: PointCloud, plane: Tensor, margin: float) -> PointCloud:
    """The points of a cloud that lie higher than `margin` [m] over a plane (4,) n and d with n . x + d = 0."""
    if tuple(plane.shape) != (4,):
        raise ValueError(f"above_plane: expected a plane (4,), n and d, got {tuple(plane.shape)}.")
    plane = plane.to(cloud.positions)
    return select_points(cloud, cloud.positions @ plane[:3] + plane[3] > margin * plane[:3].norm())
