"""Splats by the library's own kernels, on CPU and CUDA, in float32."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from structwm.kernels.launching import backward_only
from structwm.kernels.splat_raster import composite, project_splats

from .job import Drawn, SplatJob, draw_by


def draw(job: SplatJob) -> Drawn:
    """Draw by `structwm.kernels`.

    Raises:
        ValueError: if the numbers are not float32, or within forward-mode differentiation or a transform of `torch.func`.
    """
    if job.means.dtype != torch.float32:
        raise ValueError(f"render: expected float32 for the backend warp, got {job.means.dtype}; use backend='reference' for other types.")
    backward_only("render with the backend warp (backend='reference' has all)", *(value for value in job if isinstance(value, Tensor)))
    return draw_by(job, project_splats, partial(composite, deterministic=job.deterministic))
