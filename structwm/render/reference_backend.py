"""Splats in plain torch, any floating type, with torch's own gradients: slow, and what the kernels are held against."""

from __future__ import annotations

from structwm.kernels.splat_reference import composite, project

from .job import Drawn, SplatJob, draw_by


def draw(job: SplatJob) -> Drawn:
    """Draw by `structwm.kernels.splat_reference`."""
    return draw_by(job, project, composite)
