"""Splats by gsplat (Ye et al., JMLR 2025), CUDA only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.camera import pinhole_matrix
from structwm.geometry.rotations import motion_matrix, quaternion_to_matrix

from .job import Drawn, SplatJob


def draw(job: SplatJob) -> Drawn:
    """Draw by `gsplat.rasterization`, world by world.

    Raises:
        ImportError: if gsplat is not installed.
        ValueError: if the splats are not on a CUDA device.
    """
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise ImportError("render with backend='gsplat' needs the package gsplat: pip install gsplat.") from error
    if not job.means.is_cuda:
        raise ValueError(f"render with backend='gsplat' needs splats on a CUDA device, got {job.means.device}; use backend='warp'.")
    return draw_with(rasterization, job)


def draw_with(rasterization: Callable[..., Any], job: SplatJob) -> Drawn:
    """Draw by a function with the arguments and results of `gsplat.rasterization` (1.5)."""
    images, throughs = [], []
    for world in range(len(job.means)):
        pose, pinholes = job.camera_from_world[world], job.pinholes[world]
        kept = job.opacities[world] > 0  # padding may hold quaternions of length zero, whose gradients are NaN there
        image, alpha, _ = rasterization(
            job.means[world][kept],
            job.rotations[world][kept],
            job.scales[world][kept],
            job.opacities[world][kept],
            job.channels[world][:, kept].contiguous(),
            motion_matrix(pose[..., :3], pose[..., 3]),
            pinhole_matrix(pinholes),
            job.width,
            job.height,
            near_plane=job.near,
            far_plane=job.far,
            eps2d=job.blur,
            packed=False,
            render_mode="RGB+D",
            rasterize_mode="antialiased" if job.antialiased else "classic",
            covars=None if job.deformations is None else _covariances(job.deformations[world][kept], job.rotations[world][kept], job.scales[world][kept]),
        )
        images.append(image)
        throughs.append(1 - alpha.squeeze(-1))
    whole = torch.stack(images)
    return Drawn(whole[..., :-1], whole[..., -1], torch.stack(throughs))


def _covariances(deformations: Tensor, rotations: Tensor, scales: Tensor) -> Tensor:
    """(N, 3, 3) of deformed splats, which gsplat takes in place of rotations and scales."""
    axes = deformations @ (quaternion_to_matrix(rotations) * scales.unsqueeze(-2))
    return axes @ axes.mT
