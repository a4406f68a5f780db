"""Colours of a surface from posed images: of the views that see a point, those that look at it straight count most."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.geometry.neighbors import knn

CELL = 2  # [px] of the depth buffer: points hide each other where they are spread thinner than pixels


def visible(points: Tensor, normals: Tensor, camera: Camera, *, near: float) -> Tensor:
    """Which points (N, 3) of a surface with normals (N, 3) each of V views sees, bool (V, N).

    A point is seen if it faces the camera and no other point of the surface stands before it by more than `near` [m] in the same cell of the image.
    """
    found = []
    for view in range(len(camera)):
        pixels, depth = camera[view].project(points)
        eye = camera[view].positions
        facing = ((eye - points) * normals).sum(-1) > 0
        inside = (depth > 0) & (pixels >= 0).all(-1) & (pixels < pixels.new_tensor([camera.width, camera.height])).all(-1)
        width = camera.width // CELL + 1
        cell = (pixels / CELL).nan_to_num().clamp(-1, 1e6).long()
        index = torch.where(inside, cell[:, 1] * width + cell[:, 0], 0)
        first = torch.full((width * (camera.height // CELL + 1),), torch.inf).to(depth)
        first.scatter_reduce_(0, index[inside], depth[inside], "amin")
        found.append(facing & inside & (depth <= first[index] + near))
    return torch.stack(found)


def surface_colors(points: Tensor, normals: Tensor, camera: Camera, images: Tensor, *, near: float, masks: Tensor | None = None) -> Tensor:
    """Colours (N, 3) of points of a surface, the mean over the views that see them, weighted by the squared cosine of the angle.

    A point that no view sees has the colour of the nearest that is seen; all are grey if there is none.

    Args:
        points: (N, 3) [m], so dense that they hide one another.
        normals: (N, 3), unit.
        camera: of V views.
        images: (V, height, width, 3) in [0, 1].
        near: what stands before a point by less does not hide it [m].
        masks: bool (V, height, width); pixels outside give no colour.
    """
    seen = visible(points, normals, camera, near=near)
    pixels, _ = camera.project(points)
    toward = torch.nn.functional.normalize(camera.positions.unsqueeze(1) - points, dim=-1)
    weight = torch.where(seen, (toward * normals).sum(-1).clamp_min(0) ** 2, 0.0)
    unit = (2 * pixels / pixels.new_tensor([camera.width, camera.height]) - 1).nan_to_num().clamp(-2, 2).unsqueeze(1)

    def sample(values: Tensor) -> Tensor:
        return torch.nn.functional.grid_sample(values, unit, align_corners=False, padding_mode="border")[:, :, 0].mT

    if masks is not None:  # a mixed pixel at the edge of the mask shows the background too
        weight = torch.where(sample(masks.to(points).unsqueeze(1))[..., 0] > 0.99, weight, 0.0)
    colors = sample(images.to(points).permute(0, 3, 1, 2))
    total = weight.sum(0)
    mean = (weight.unsqueeze(-1) * colors).sum(0) / total.clamp_min(1e-12).unsqueeze(-1)
    known = total > 0
    if not bool(known.any()):
        return torch.full_like(mean, 0.5)
    if not bool(known.all()):
        mean[~known] = mean[known][knn(points[~known], points[known], 1).indices[:, 0]]
    return mean.clamp(0, 1)
