"""Splats by the library's own kernels, on CPU and CUDA, in float32."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.autograd import forward_ad

from structwm.kernels.splat_raster import composite, project_splats

from .job import Drawn, SplatJob, draw_by


def draw(job: SplatJob) -> Drawn:
    """Draw by `structwm.kernels`.

    Raises:
        ValueError: if the numbers are not float32, or within forward-mode differentiation or a transform of `torch.func`.
    """
    if job.means.dtype != torch.float32:
        raise ValueError(f"render: expected float32 for the backend warp, got {job.means.dtype}; use backend='reference' for other types.")
    if not torch.compiler.is_compiling() and _transformed(job):
        raise ValueError(
            "render: expected gradients by torch.autograd.grad or backward() for the backend warp, got forward-mode differentiation or a transform of "
            "torch.func; use backend='reference' for those."
        )
    return draw_by(job, project_splats, partial(composite, deterministic=job.deterministic))


def _transformed(job: SplatJob) -> bool:
    """Whether derivatives are asked for that would be lost without a word: the operators have a backward pass only."""
    dual = any(forward_ad.unpack_dual(value).tangent is not None for value in job if isinstance(value, Tensor))
    return dual or torch._C._are_functorch_transforms_active()
