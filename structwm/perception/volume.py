"""A solid on a grid from posed depth images and masks: what is in front of a measured surface or beside a silhouette is empty, the rest is filled.

Truncated signed distances are averaged over the views (Curless and Levoy, SIGGRAPH 1996). Where no view sees a place, it is solid if it lies within all
silhouettes (Laurentini, PAMI 1994) and behind the measured surfaces, so that the surface is closed also where nobody looked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from structwm.data.posed_images import PosedImages
from structwm.geometry.camera import Camera
from structwm.geometry.mesh import Mesh

from .depth_cleaning import depth_step, measured

CHUNK = 1 << 17  # places that are looked at together
BLUR = 1.0  # of the distances to outlines [px]
TOLERANCE = 1.5  # what lies this far beside a silhouette is empty, also where depth says otherwise [px]


@dataclass(frozen=True, eq=False)
class Volume:
    """Signed distances on a grid, negative inside, no farther than the truncation."""

    values: Tensor  # (X, Y, Z) [m]
    origin: Tensor  # (3,) of the first place [m]
    voxel: float  # between neighbouring places [m]
    seen: Tensor  # (X, Y, Z) bool, where a view measured a surface near by

    def at(self, points: Tensor) -> Tensor:
        """Values (N,) at points (N, 3) [m], linear between the places; those of the border beyond it."""
        return _sample(self.values, (points - self.origin) / self.voxel)

    def seen_at(self, points: Tensor) -> Tensor:
        """Whether the surface was measured near points (N, 3), bool (N,)."""
        return _sample(self.seen.to(self.values), (points - self.origin) / self.voxel) >= 0.5


def _sample(values: Tensor, place: Tensor) -> Tensor:
    size = place.new_tensor(values.shape)
    unit = (2 * place / (size - 1) - 1).flip(-1)
    return torch.nn.functional.grid_sample(values[None, None], unit[None, None, None], align_corners=True, padding_mode="border")[0, 0, 0, 0]


def silhouette_distances(masks: Tensor) -> Tensor:
    """Distance of every pixel's centre of masks (V, height, width) to the outline [px], negative inside; an empty mask says nothing: -inf.

    The stairs of the pixels are evened out by a narrow Gaussian.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    found = []
    for mask in masks.cpu().numpy():
        if not mask.any():
            found.append(torch.full(mask.shape, -math.inf))
            continue
        outside = distance_transform_edt(~mask)
        inside = distance_transform_edt(mask) if not mask.all() else math.inf
        signed = np.where(mask, 0.5 - inside, outside - 0.5)
        found.append(torch.from_numpy(gaussian_filter(signed, BLUR, mode="nearest") if np.isfinite(signed).all() else signed).float())
    return torch.stack(found).to(masks.device)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Posed images made ready to be asked about places."""

    camera: Camera  # (V,)
    surface: Tensor | None  # (V, height, width) cleaned depth of the object [m], 0 where there is none
    step: Tensor | None  # (V, height, width) largest difference between neighbouring pixels of one surface [m]
    behind: Tensor | None  # (V, height, width) raw depth where it is not the object's [m], 0 where there is none
    outline: Tensor | None  # (V, height, width) distance to the silhouette [px]

    @classmethod
    def of(cls, views: PosedImages, surface: Tensor | None, noise: float) -> Evidence:
        """Evidence of views whose cleaned depth is `surface`."""
        behind = None
        if views.depth is not None and views.masks is not None:
            behind = torch.where(measured(views.depth) & ~views.masks, views.depth, 0.0)
        outline = None if views.masks is None else silhouette_distances(views.masks)
        return cls(views.camera.to(torch.float32), surface, None if surface is None else depth_step(surface, views.camera, noise), behind, outline)

    def outside_silhouettes(self, points: Tensor, truncation: float, tolerance: float = 0.0) -> Tensor:
        """How far points (N, 3) lie outside the hull of the silhouettes, (N,) [m], negative inside.

        The distance in the image is carried to the depth of the point. Views that do not have the point in their picture, or where something stands before it,
        say nothing; a point that fewer than half of the views have in their picture is outside. Outlines are wider by `tolerance` [px].
        """
        assert self.outline is not None
        pixels, depth = self.camera.project(points)
        inside = (depth > 0) & (pixels > 0).all(-1) & (pixels < pixels.new_tensor([self.camera.width, self.camera.height])).all(-1)
        across = (_bilinear(self.outline, pixels) - tolerance) * depth / self.camera.pinholes[..., :2].amin(-1, keepdim=True)
        if self.behind is not None:
            before = _nearest(self.behind, pixels)
            inside = inside & ~((before > 0) & (depth > before + truncation))
        farthest = torch.where(inside, across, -math.inf).amax(0)
        known = inside.sum(0) * 2 >= len(self.camera)
        return torch.where(known, farthest, farthest.clamp_min(truncation)) if self.behind is None else farthest

    def surface_distance(self, points: Tensor, truncation: float) -> tuple[Tensor, Tensor, Tensor]:
        """What depth says of points (N, 3): mean signed distance (N,) [m], the weight it rests on (N,), and whether it may be solid where that is 0 (N,).

        It may where more views have it behind the object's surface than have it behind something else. A pixel without a measurement counts as the object's
        within masks, and as something else where there are no masks.
        """
        assert self.surface is not None and self.step is not None
        pixels, depth = self.camera.project(points)
        inside = (depth > 0) & (pixels > 0).all(-1) & (pixels < pixels.new_tensor([self.camera.width, self.camera.height])).all(-1)
        found = _depth_at(self.surface, self.step, pixels)
        along = found - depth
        fine = inside & (found > 0) & (along > -truncation)
        # behind a surface the weight falls, so that the far side of a thin thing keeps its own surface
        weight = torch.where(fine, ((along + truncation) / truncation).clamp(0, 1), 0.0)
        mean = (weight * along.clamp(-truncation, truncation)).sum(0) / weight.sum(0).clamp_min(1e-9)
        if self.outline is None:
            other = found <= 0
        else:
            before = torch.zeros_like(found) if self.behind is None else _nearest(self.behind, pixels)
            other = (before > 0) & (depth > before)
        solid = (inside & ~other).sum(0) > (inside & other).sum(0)
        return mean, weight.sum(0), solid


def _bilinear(images: Tensor, pixels: Tensor) -> Tensor:
    """Images (V, height, width) at pixels (V, N, 2), those of the border beyond it: (V, N)."""
    height, width = images.shape[-2:]
    unit = 2 * pixels / pixels.new_tensor([width, height]) - 1
    return torch.nn.functional.grid_sample(images.unsqueeze(1), unit.unsqueeze(1), align_corners=False, padding_mode="border").flatten(1)


def pixel_values(images: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Images (V, height, width) at whole pixels (V, N), those of the border beyond it: (V, N)."""
    height, width = images.shape[-2:]
    return images.flatten(1).gather(1, row.clamp(0, height - 1) * width + column.clamp(0, width - 1))


def _nearest(images: Tensor, pixels: Tensor) -> Tensor:
    whole = pixels.nan_to_num().clamp(-1, 1e6).floor().long()
    return pixel_values(images, whole[..., 0], whole[..., 1])


def _depth_at(depth: Tensor, step: Tensor, pixels: Tensor) -> Tensor:
    """Depth at pixels (V, N, 2): linear between four pixels of one surface, the nearest pixel's at edges."""
    nearest = _nearest(depth, pixels)
    corner = pixels.nan_to_num().clamp(-1, 1e6) - 0.5
    whole = corner.floor()
    u, v = (corner - whole).unbind(-1)
    column, row = whole.long().unbind(-1)
    four = torch.stack([pixel_values(depth, column + a, row + b) for b in (0, 1) for a in (0, 1)])
    low, high = four.amin(0), four.amax(0)
    blend = (1 - v) * ((1 - u) * four[0] + u * four[1]) + v * ((1 - u) * four[2] + u * four[3])
    return torch.where((low > 0) & (high - low <= 2 * _nearest(step, pixels)), blend, nearest)


def fuse(evidence: Evidence, low: Tensor, high: Tensor, *, voxel: float, truncation: float, smooth: float = 0.0, support: Tensor | None = None) -> Volume:
    """Fill a box with what the views say.

    Args:
        evidence: of the views.
        low: the box's lowest corner (3,) [m].
        high: its highest.
        voxel: [m].
        truncation: greatest distance that is kept [m]; several voxels, and several standard deviations of the noise.
        smooth: standard deviation of the Gaussian that evens the distances out [voxels]; for noisy depth.
        support: plane (4,) n and d with n . x + d = 0 on what the object stands on [m], n up; there is nothing of the object below.
    """
    low = low.float() - 2 * voxel
    counts = [int(size) + 3 for size in ((high.float() - low) / voxel).ceil()]
    axes = [torch.arange(n, dtype=torch.float32) * voxel + start for n, start in zip(counts, low, strict=True)]
    values, seen = torch.empty(counts), torch.zeros(counts, dtype=torch.bool)
    plane = math.prod(counts[1:])
    for first in range(0, counts[0], thick := max(1, CHUNK // plane)):
        part = slice(first, first + thick)
        points = torch.stack(torch.meshgrid(axes[0][part], axes[1], axes[2], indexing="ij"), -1).reshape(-1, 3)
        distance, near = _solid(evidence, points, truncation)
        if support is not None:
            distance = torch.maximum(distance, -(points @ support[:3].float() + float(support[3])))
        values[part], seen[part] = distance.clamp(-truncation, truncation).view(-1, *counts[1:]), near.view(-1, *counts[1:])
    if smooth > 0:
        from scipy.ndimage import gaussian_filter

        values = torch.from_numpy(gaussian_filter(values.numpy(), smooth, truncate=3.0))
    return Volume(values, low, voxel, seen)


def _solid(evidence: Evidence, points: Tensor, truncation: float) -> tuple[Tensor, Tensor]:
    """Signed distances (N,) of points, and whether a surface was measured near by (N,)."""
    distance, near = torch.full_like(points[:, 0], -truncation), torch.zeros_like(points[:, 0], dtype=torch.bool)
    if evidence.surface is not None:
        mean, weight, solid = evidence.surface_distance(points, truncation)
        near = (weight > 0) & (mean < truncation)
        distance = torch.where(weight > 0, mean, torch.where(solid, -truncation, truncation))
    if evidence.outline is not None:  # where a surface was measured, it is sharper than the outlines
        beside = evidence.outside_silhouettes(points, truncation)
        if evidence.surface is not None:
            beside = torch.where(near, evidence.outside_silhouettes(points, truncation, TOLERANCE), beside)
        distance = torch.maximum(distance, beside)
    return distance, near


def surface_mesh(volume: Volume) -> Mesh:
    """The surface where the distance is 0, closed also at the border of the grid (marching cubes; Lorensen and Cline, SIGGRAPH 1987).

    Raises:
        ValueError: if there is nothing inside.
    """
    import warp as wp
    from warp.geometry import IsoSurfaceMarchingCubes

    values = torch.nn.functional.pad(volume.values, (1, 1, 1, 1, 1, 1), value=volume.voxel).contiguous()
    if not bool((values < 0).any()):
        raise ValueError("The views leave no place for the object: expected masks and depth that agree on one, are the cameras' poses and axes right?")
    low = (volume.origin - volume.voxel).tolist()
    high = [start + (n - 1) * volume.voxel for start, n in zip(low, values.shape, strict=True)]
    values = torch.where(values == 0, 1e-6 * volume.voxel, values)  # a corner on the surface itself would give faces without area
    vertices, faces = IsoSurfaceMarchingCubes.extract_surface_marching_cubes(wp.from_torch(values), 0.0, wp.vec3(*low), wp.vec3(*high))
    corners = wp.to_torch(faces).clone().view(-1, 3).long()
    return Mesh(wp.to_torch(vertices).clone().float(), corners)
