"""Splats by the plain kernels of one thread a pixel, a second opinion: `render(scene, camera, backend=per_pixel_backend.draw)`. Always in one CPU thread."""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from structwm.kernels import splat_per_pixel
from structwm.kernels.launching import backward_only, torch_stream
from structwm.kernels.splat_compositing import GEOMETRY
from structwm.kernels.splat_raster import TILE, bin_splats, project_splats

from .job import Drawn, SplatJob, draw_by


class _Compositing(torch.autograd.Function):
    """Channels (V, height, width, C) and transmittance of (V, N, ...) projected splats."""

    @staticmethod
    def forward(
        ctx: Any, centres: Tensor, conics: Tensor, depths: Tensor, opacities: Tensor, channels: Tensor, width: int, height: int
    ) -> tuple[Tensor, Tensor]:
        views, count = len(centres), channels.shape[-1]
        arrays = [wp.from_torch(value.detach().reshape(-1, *value.shape[2:]).contiguous()) for value in (centres, conics, depths, opacities, channels)]
        image, through = channels.new_empty(views * height * width, count), channels.new_empty(views * height * width)
        lasts = through.to(torch.int32)
        with torch_stream(centres.device):
            bins = bin_splats(*arrays[:4], views=views, width=width, height=height)
            ctx.given = [bins.lists, bins.packed, arrays[4], bins.ends, -(-width // TILE), -(-height // TILE), width, height]
            outputs = [wp.from_torch(value) for value in (image, through, lasts)]
            wp.launch(splat_per_pixel.forward, dim=len(image), inputs=[*ctx.given, *outputs], device=arrays[0].device)
        ctx.save_for_backward(through, lasts, opacities, channels)
        return image.view(views, height, width, count), through.view(views, height, width).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        through, lasts, opacities, channels = ctx.saved_tensors
        incoming = [value.reshape(*shape).contiguous() for value, shape in zip(gradients, ((len(through), -1), (-1,)), strict=True)]
        sums = channels.new_zeros(channels.shape[0] * channels.shape[1], GEOMETRY + channels.shape[2])
        with torch_stream(channels.device):
            arrays = [wp.from_torch(value) for value in (through, lasts, *incoming, sums)]
            wp.launch(splat_per_pixel.backward, dim=len(through), inputs=[*ctx.given, *arrays], device=arrays[0].device)
        rows = sums.view(*channels.shape[:2], -1)
        by_opacity = torch.where(opacities > 0, rows[..., 5] / opacities, 0.0)
        return rows[..., :2], rows[..., 2:5], None, by_opacity, rows[..., GEOMETRY:], None, None


def draw(job: SplatJob) -> Drawn:
    """Draw by `structwm.kernels.splat_per_pixel`."""
    backward_only("render one thread a pixel", *(value for value in job if isinstance(value, Tensor)))
    return draw_by(job, project_splats, _Compositing.apply)
