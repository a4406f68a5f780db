"""Splats by the library's own kernels, on CPU and CUDA, in float32."""

from __future__ import annotations

import torch

from structwm.kernels.splat_raster import composite, project_splats

from .job import Drawn, SplatJob


def draw(job: SplatJob) -> Drawn:
    """Draw by `structwm.kernels`.

    Raises:
        ValueError: if the numbers are not float32.
    """
    if job.means.dtype != torch.float32:
        raise ValueError(f"render: expected float32 for the backend warp, got {job.means.dtype}; use backend='reference' for other types.")
    worlds, views = job.channels.shape[:2]
    placed = (job.means, job.rotations, job.scales, job.camera_from_world, job.pinholes)
    centres, conics, depths = project_splats(*placed, job.width, job.height, job.near, job.far, job.blur)
    channels = torch.cat((job.channels, depths.unsqueeze(-1)), -1).flatten(0, 1)
    opacities = job.opacities_of(conics).flatten(0, 1)
    pairs = (centres.flatten(0, 1), conics.flatten(0, 1), depths.flatten(0, 1), opacities)
    image, through = composite(*pairs, channels, job.width, job.height, deterministic=job.deterministic)
    image = image.unflatten(0, (worlds, views))
    return Drawn(image[..., :-1], image[..., -1], through.unflatten(0, (worlds, views)))
