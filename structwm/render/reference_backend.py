"""Splats in plain torch, any floating type, with torch's own gradients: slow, and what the kernels are held against."""

from __future__ import annotations

import torch

from structwm.kernels.splat_reference import Projected, composite, project

from .job import Drawn, SplatJob


def draw(job: SplatJob) -> Drawn:
    """Draw by `structwm.kernels.splat_reference`."""
    worlds, views = job.channels.shape[:2]
    placed = (job.means, job.rotations, job.scales, job.camera_from_world, job.pinholes)
    projected = project(*placed, job.width, job.height, job.near, job.far, job.blur)
    ellipses = Projected(*(value.flatten(0, 1) for value in projected))
    channels = torch.cat((job.channels.flatten(0, 1), ellipses.depths.unsqueeze(-1)), -1)
    opacities = job.opacities_of(projected.conics).flatten(0, 1)
    image, through = composite(ellipses, opacities, channels, job.width, job.height)
    image = image.unflatten(0, (worlds, views))
    return Drawn(image[..., :-1], image[..., -1], through.unflatten(0, (worlds, views)))
