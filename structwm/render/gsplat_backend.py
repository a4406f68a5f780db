"""Splats by gsplat (Ye et al., JMLR 2025), CUDA only."""

from __future__ import annotations

import torch

from structwm.geometry.camera import pinhole_matrix
from structwm.geometry.rotations import motion_matrix

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
    images, throughs = [], []
    for world in range(len(job.means)):
        pose, pinholes = job.camera_from_world[world], job.pinholes[world]
        image, alpha, _ = rasterization(
            job.means[world],
            job.rotations[world],
            job.scales[world],
            job.opacities[world],
            job.channels[world].contiguous(),
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
        )
        images.append(image)
        throughs.append(1 - alpha.squeeze(-1))
    whole = torch.stack(images)
    return Drawn(whole[..., :-1], whole[..., -1], torch.stack(throughs))
