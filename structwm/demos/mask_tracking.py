"""Where a rigid body is in each image: its splats are rendered and moved until their mask is the one that was seen."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.geometry import Camera, place_splats, quaternion_multiply, quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.render import render
from structwm.state import Splats

DAMPING = 1e-3  # of a step, as a share of the information about each coordinate


def track_on_plane(look: Splats, masks: Tensor, camera: Camera, start: Tensor, *, tile: int = 2, iterations: int = 8) -> Tensor:
    """Poses of a body that slides and turns on a level plane, image by image, each search begun where the two before lead.

    Damped Gauss-Newton steps on x, y and yaw make the means of the rendered masks over tiles those of the seen ones.

    Args:
        look: the body's splats, in its frame, batch size ().
        masks: (N, T, V, h, w) in [0, 1] of N runs; NaN where there is no image.
        camera: batch size (V,), h x w pixels.
        start: (N, 7) about where the body is at first [m], quaternion wxyz; height and tilt stay.
        tile: side of the squares that are averaged [px].
        iterations: steps an image.

    Returns:
        (N, T, 7), float64; NaN where a run has no image.

    Raises:
        ValueError: if sizes do not fit, or the body is not seen where the search begins.
    """
    if masks.ndim != 5 or masks.shape[2:] != (*camera.batch_size, camera.height, camera.width):
        raise ValueError(
            f"track_on_plane needs masks (N, T, {', '.join(map(str, camera.batch_size))}, {camera.height}, {camera.width}), got {tuple(masks.shape)}."
        )
    if start.shape != (len(masks), 7):
        raise ValueError(f"track_on_plane needs start poses ({len(masks)}, 7), got {tuple(start.shape)}.")
    if masks.shape[-2] % tile or masks.shape[-1] % tile:
        raise ValueError(f"track_on_plane needs a tile that divides {masks.shape[-1]} x {masks.shape[-2]} pixels, got {tile}.")
    found = torch.full((*masks.shape[:2], 7), torch.nan, dtype=torch.float64)
    here, speed = start.double(), torch.zeros(len(masks), 3, dtype=torch.float64)
    for t in range(masks.shape[1]):
        seen = masks[:, t].flatten(1).isfinite().all(1)
        before = here
        if bool(seen.any()):
            guess = moved(here, speed)
            here = torch.where(seen[:, None], _aligned(look, masks[:, t].nan_to_num(0.0), camera, guess, tile, iterations), guess)
            found[seen, t] = here[seen]
        else:
            here = moved(here, speed)
        if t:
            speed = planar(here) - planar(before)
            speed[:, 2] = (speed[:, 2] + torch.pi) % (2 * torch.pi) - torch.pi
    return found


def _aligned(look: Splats, seen: Tensor, camera: Camera, pose: Tensor, tile: int, iterations: int) -> Tensor:
    """Poses (N, 7) whose masks are those seen (N, V, h, w)."""
    target = _tiles(seen, tile).double()
    steps = torch.diag(torch.tensor([1e-3, 1e-3, 0.01], dtype=torch.float64))  # [m], [rad]
    offsets = torch.cat((torch.zeros(1, 3, dtype=torch.float64), steps, -steps))  # (7, 3)
    reach = torch.tensor([0.02, 0.02, 0.2], dtype=torch.float64)  # a picture's slope says nothing farther away
    slope: tuple[Tensor, Tensor] | None = None
    for _ in range(iterations):
        if slope is None:
            around = moved(pose[:, None].expand(-1, 7, 7), offsets.expand(len(pose), 7, 3))
            drawn = _drawn(look, around, camera, tile)
            jacobian = ((drawn[:, 1:4] - drawn[:, 4:]) / (2 * steps.diagonal()[:, None])).mT  # (N, C, 3)
            information = jacobian.mT @ jacobian
            size = information.diagonal(dim1=-2, dim2=-1)
            if not bool((size > 0).all()):
                raise ValueError("The body is in none of the pictures where the search for it begins; check camera, start pose and splats.")
            slope, here = (jacobian, information + DAMPING * size.diag_embed()), drawn[:, 0]
        else:
            here = _drawn(look, pose, camera, tile)
        step = torch.linalg.solve(slope[1], (slope[0].mT @ (here - target).unsqueeze(-1)).squeeze(-1)).clamp(-reach, reach)
        pose = moved(pose, -step)
        largest = float((step.abs() / reach).max())
        if largest < 2e-3:
            break
        if largest > 0.05:
            slope = None  # the picture has changed
    return pose


def _drawn(look: Splats, poses: Tensor, camera: Camera, tile: int) -> Tensor:
    """Tile means (*B, C) of the masks of a body at poses (*B, 7)."""
    placed = place_splats(look, quaternion_to_matrix(poses[..., 3:]).float(), poses[..., :3].float())
    alpha = render(placed.reshape(-1), camera[None], antialiased=True, check=False).alpha
    return _tiles(alpha, tile).double().unflatten(0, poses.shape[:-1])


def _tiles(masks: Tensor, tile: int) -> Tensor:
    """Means over tiles (B, C) of masks (B, V, h, w)."""
    return torch.nn.functional.avg_pool2d(masks.float(), tile).flatten(1)


def planar(poses: Tensor) -> Tensor:
    """x, y [m] and the turn about z [rad] of poses (*B, 7)."""
    return torch.cat((poses[..., :2], 2 * torch.atan2(poses[..., 6:], poses[..., 3:4])), -1)


def moved(poses: Tensor, by: Tensor) -> Tensor:
    """Poses (*B, 7) moved by x, y [m] and turned about z [rad] (*B, 3)."""
    zero = torch.zeros_like(by[..., :1])
    turn = rotation_vector_to_quaternion(torch.cat((zero, zero, by[..., 2:]), -1))
    return torch.cat((poses[..., :3] + torch.cat((by[..., :2], zero), -1), quaternion_multiply(turn, poses[..., 3:])), -1)
