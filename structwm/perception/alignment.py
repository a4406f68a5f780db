"""Where a known object is: a rigid motion of its splats that makes its silhouettes agree with masks in posed images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.geometry.rotations import invert_motion, motion_matrix, quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.geometry.splat_checks import check_splats
from structwm.render.rendering import render
from structwm.render.scenes import take_splats
from structwm.state import Splats

from .image_metrics import mask_overlap


@dataclass(frozen=True)
class Alignment:
    """A rigid motion and how well it fits."""

    world_from_scene: Tensor  # (4, 4), where the splats are in the world, rigid [m]
    overlaps: Tensor  # (V,), intersection over union of each silhouette and mask, at alpha 0.5 and full size
    losses: Tensor  # (iterations,), of all stages one after another


@torch.enable_grad()
def align_splats(
    splats: Splats, camera: Camera, masks: Tensor, *, stages: Sequence[tuple[float, int]] = ((0.125, 60), (0.25, 60), (1.0, 40)), step: float = 0.01
) -> Alignment:
    """Move splats rigidly until their silhouettes agree with masks.

    Descends the squared difference of silhouette and mask, at several blurs at once, by the gradient of the rendering with respect to one motion of all
    cameras. The wide blurs reach masks that do not overlap yet. It is a descent: turns beyond some 45 degrees need several starts, and one view alone does
    not fix the distance. Where the silhouettes fitted better before than after, the motion is none.

    Args:
        splats: one object, about where it should be [m].
        camera: of V views.
        masks: bool (V, height, width), where the object is seen.
        stages: image size relative to the camera's and number of steps, coarse to fine.
        step: length of the first steps [m]; it shrinks to a hundredth of that.

    Raises:
        ValueError: if shapes or types do not fit, or a mask is empty.
    """
    if splats.batch_size or len(camera.batch_size) != 1 or masks.shape != (*camera.batch_size, camera.height, camera.width):
        raise ValueError(
            f"align_splats: expected one scene, V cameras and masks (V, height, width), got a scene {tuple(splats.batch_size)}, "
            f"cameras {tuple(camera.batch_size)} of {camera.width} x {camera.height} px and masks {tuple(masks.shape)}."
        )
    if masks.dtype != torch.bool or not len(splats.means) or not stages:
        raise ValueError(f"align_splats: expected bool masks, at least one splat and one stage, got {masks.dtype}, {len(splats.means)} and {len(stages)}.")
    if not bool(masks.flatten(1).any(1).all()):
        raise ValueError(f"align_splats: expected masks with the object in them, got an empty one for view {int((~masks.flatten(1).any(1)).nonzero()[0, 0])}.")
    check_splats(splats)
    dtype = splats.means.dtype
    splats, camera = (splats if splats.mask is None else take_splats(splats, splats.mask)).detach().to(torch.float32), camera.to(torch.float32)
    weights = splats.opacities / splats.opacities.sum().clamp_min(1e-12)
    pivot = (weights.unsqueeze(-1) * splats.means).sum(-2)
    radius = max(
        1e-6, float((weights * (splats.means - pivot).square().sum(-1)).sum().sqrt())
    )  # turns by an angle move the object by about radius times the angle
    turn, shift = (splats.means.new_zeros(3).requires_grad_() for _ in range(2))
    losses: list[Tensor] = []
    optimizer = torch.optim.Adam([turn, shift], lr=step, betas=(0.8, 0.95))
    total, done = sum(count for _, count in stages), 0
    for scale, count in stages:
        small = camera.scaled(scale)
        targets = _pyramid(torch.nn.functional.interpolate(masks.to(splats.means).unsqueeze(1), (small.height, small.width), mode="area").squeeze(1))
        for _ in range(count):
            for group in optimizer.param_groups:
                group["lr"] = step * 0.01 ** (done / total)
            alpha = render(splats, small.moved(invert_motion(_motion(turn / radius, shift, pivot))), antialiased=scale < 1, check=False).alpha
            loss = torch.stack([(a - b).square().mean() for a, b in zip(_pyramid(alpha), targets, strict=True)]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            done += 1
    with torch.no_grad():
        still = torch.eye(4).to(splats.means)
        found = [(motion, _overlap(splats, camera, masks, motion)) for motion in (_motion(turn / radius, shift, pivot), still)]
    motion, overlaps = max(found, key=lambda pair: float(pair[1].mean()))
    return Alignment(motion.to(dtype), overlaps, torch.stack(losses))


def _overlap(splats: Splats, camera: Camera, masks: Tensor, motion: Tensor) -> Tensor:
    return mask_overlap(render(splats, camera.moved(invert_motion(motion)), check=False).alpha, masks)


def _motion(turn: Tensor, shift: Tensor, pivot: Tensor) -> Tensor:
    """A turn about the pivot, then a shift, as (4, 4)."""
    matrix = quaternion_to_matrix(rotation_vector_to_quaternion(turn))
    return motion_matrix(matrix, pivot + shift - matrix @ pivot)


def _pyramid(images: Tensor) -> list[Tensor]:
    """Images (V, height, width), and blurred by boxes twice as wide each time."""
    levels = [images]
    while min(levels[-1].shape[-2:]) >= 8:
        levels.append(torch.nn.functional.avg_pool2d(levels[-1].unsqueeze(1), 2).squeeze(1))
    return levels
