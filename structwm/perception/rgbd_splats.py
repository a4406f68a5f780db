"""Splats straight from RGB-D images, one a pixel, and splats of a plane where something hid it."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.geometry.neighbors import knn
from structwm.geometry.rotations import matrix_to_quaternion
from structwm.state import Splats

from .depth_cleaning import clean_depth, depth_points, measured
from .depth_clouds import cloud_normals

SIZE = 0.5  # standard deviation of a splat in units of the distance between neighbouring pixels, so that a surface has no gaps
SLANT = 0.25  # least cosine between normal and ray that is reckoned with; flatter ones would give needles


def rgbd_splats(
    depth: Tensor, camera: Camera, images: Tensor, *, size: float = SIZE, thickness: float = 0.1, opacity: float = 0.95, noise: float | None = None
) -> tuple[Splats, Tensor]:
    """A flat splat for every pixel that measured something, lying in the surface and as large there as the pixel (surfels; Pfister et al., SIGGRAPH 2000).

    Args:
        depth: (V, height, width) along the optical axis [m]; NaN, infinity and what is not above 0 is no measurement.
        camera: of V views.
        images: (V, height, width, 3) in [0, 1].
        size: standard deviation in units of the distance between neighbouring pixels.
        thickness: across the surface, likewise.
        opacity: of all.
        noise: standard deviation of the depth that cleaning reckons with [m]; measured in the images if not given.

    Returns:
        N splats of one world and their normals (N, 3), towards the cameras.

    Raises:
        ValueError: in one sentence, if shapes do not fit or there is no measurement.
    """
    if depth.ndim != 3 or (*camera.batch_size, camera.height, camera.width) != tuple(depth.shape) or tuple(images.shape) != (*depth.shape, 3):
        size_of = (*camera.batch_size, camera.height, camera.width)
        raise ValueError(
            f"rgbd_splats: expected depth {size_of} and images {(*size_of, 3)} as the cameras, got {tuple(depth.shape)} and {tuple(images.shape)}."
        )
    fine = measured(depth)
    if not bool(fine.any()):
        raise ValueError("rgbd_splats: expected depth images with measurements, got none.")
    points, place = depth_points(clean_depth(torch.where(fine, depth, 0.0), camera, noise=noise), camera)
    view, row, column = place.unbind(-1)
    eyes = camera.positions.to(points)[view]
    normals = cloud_normals(points, eyes)
    focal = camera.pinholes.to(points)[view, :2].mean(-1)
    apart = depth[view, row, column] / focal  # distance between neighbouring pixels, across the optical axis
    rays = torch.nn.functional.normalize(points - eyes, dim=-1)
    cosine = (rays * normals).sum(-1, keepdim=True)
    along = rays - cosine * normals  # where the surface runs away, a pixel is longest
    steep = along.norm(dim=-1, keepdim=True) > 1e-3
    aside = torch.nn.functional.normalize(torch.linalg.cross(normals, torch.where(steep, along, normals.roll(1, -1)), dim=-1), dim=-1)
    turn = torch.stack((torch.linalg.cross(aside, normals, dim=-1), aside, normals), -1)
    longest = size / cosine.squeeze(-1).abs().clamp_min(SLANT)
    scales = apart.unsqueeze(-1) * torch.stack((longest, torch.full_like(longest, size), torch.full_like(longest, thickness)), -1)
    splats = Splats(
        means=points,
        rotations=matrix_to_quaternion(turn),
        scales=scales,
        opacities=torch.full_like(apart, opacity),
        colors=images[view, row, column].to(points),
        batch_size=[],
    )
    return splats, normals


def hidden_plane_splats(plane: Tensor, seen: Splats, hiding: Tensor, spacing: float, *, nearest: int = 15, opacity: float = 0.95) -> Splats:
    """Splats of a plane where it was hidden by things on it, in the colours that it has around there.

    Args:
        plane: (4,) unit normal n and d with n . x + d = 0.
        seen: splats of the plane where it was seen.
        hiding: points (N, 3) of what stands on it [m].
        spacing: between the new splats [m], below that of the points.
        nearest: splats of the plane whose median colour each takes.
        opacity: of all.

    Raises:
        ValueError: in one sentence, if nothing of the plane was seen, or the spacing is not above 0.
    """
    if not len(seen.means) or not spacing > 0:
        raise ValueError(f"hidden_plane_splats: expected splats of the plane and a spacing above 0 m, got {len(seen.means)} and {spacing}.")
    normal = plane[:3].to(seen.means)
    axis = torch.eye(3).to(normal)[int(normal.abs().argmin())]
    x = torch.nn.functional.normalize(axis - (axis @ normal) * normal, dim=0)
    frame = torch.stack((x, torch.linalg.cross(normal, x), normal), -1)
    foot, known = (hiding.to(normal) @ frame)[:, :2], (seen.means @ frame)[:, :2]
    low, high = (foot.amin(0), foot.amax(0)) if len(foot) else (normal[:2], normal[:2])
    steps = [torch.arange(float(a), float(b) + spacing, spacing).to(normal) for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*steps) if len(foot) else foot

    def flat(value: Tensor) -> Tensor:
        return torch.nn.functional.pad(value, (0, 1)).contiguous()

    if len(grid):
        grid = grid[knn(flat(grid), flat(foot), 1).distances[:, 0] < 2 * spacing]  # over the rim of what was seen as well, whose last splats are thin
    near = knn(flat(grid), flat(known), min(nearest, len(known))).indices
    size = normal.new_tensor([0.6 * spacing, 0.6 * spacing, 0.1 * spacing])
    return Splats(
        means=torch.nn.functional.pad(grid, (0, 1), value=-float(plane[3])) @ frame.mT,
        rotations=matrix_to_quaternion(frame).expand(len(grid), 4).contiguous(),
        scales=size.expand(len(grid), 3).contiguous(),
        opacities=torch.full_like(grid[:, 0], opacity),
        colors=seen.colors[near.long()].median(1).values,
        batch_size=[],
    )
