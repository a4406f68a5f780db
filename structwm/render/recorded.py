"""Splats from a recorded graph: all launches of a picture replayed at once, for scenes that move but keep their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import warp as wp
from torch import Tensor

from structwm.kernels.launching import backward_only, torch_stream
from structwm.kernels.splat_binning import copy_depths
from structwm.kernels.splat_raster import Bins, bin_splats, composite_tiles, padded_channels, project_into

from .job import Drawn, SplatJob

SLACK = 1.5  # room for touches, relative to the first picture


class RecordedBackend:
    """A backend for `render` without gradients: `render(scene, camera, backend=recorded)`.

    The first picture is recorded, later ones of the same sizes are replayed with their own numbers, without the cost of launching each kernel. The result is
    that of the backend `warp` bit for bit. On CPU a replay runs in one thread, so that it pays for small scenes. When more splats touch more tiles than there
    is room for, or sizes change, the graph is recorded anew.
    """

    def __init__(self) -> None:
        self._graph: _Graph | None = None

    def __call__(self, job: SplatJob) -> Drawn:
        """Draw.

        Raises:
            ValueError: if a gradient or antialiasing is asked for, or the numbers are not float32.
        """
        backward_only("render with a RecordedBackend", *(value for value in job if isinstance(value, Tensor)))
        if torch.is_grad_enabled() and any(value.requires_grad for value in job if isinstance(value, Tensor)):
            raise ValueError("render with a RecordedBackend has no gradients; call it within torch.no_grad(), or use backend='warp'.")
        if job.means.dtype != torch.float32:
            raise ValueError(f"render: expected float32 for a RecordedBackend, got {job.means.dtype}; use backend='reference' for other types.")
        if job.antialiased:
            raise ValueError("render with a RecordedBackend has no antialiasing; use backend='warp'.")
        if self._graph is None or self._graph.key != _key(job):
            self._graph = _record(job, 1)
        drawn = self._graph.replay(job)
        while drawn is None:
            self._graph = _record(job, self._graph.bins.needed)
            drawn = self._graph.replay(job)
        return drawn


def _key(job: SplatJob) -> tuple[Any, ...]:
    sizes = tuple((tuple(value.shape), value.device) for value in job if isinstance(value, Tensor))
    return (*sizes, job.width, job.height, job.near, job.far, job.blur)


def _inputs(job: SplatJob) -> list[Tensor]:
    """What projection reads, the deformations last if there are some."""
    given = (job.means, job.rotations, job.scales, job.camera_from_world, job.pinholes, job.deformations)
    return [value for value in given if value is not None]


@dataclass
class _Graph:
    """A recorded picture and all memory that it reads and writes."""

    key: tuple[Any, ...]
    graph: Any
    inputs: tuple[Tensor, ...]
    opacities: Tensor  # (W, V, N)
    channels: Tensor  # (W * V * N, C + 1 padded)
    image: Tensor
    through: Tensor
    bins: Bins
    kept: tuple[Any, ...]  # alive as long as the graph

    def replay(self, job: SplatJob) -> Drawn | None:
        """The picture of other numbers, or None if it had more touches than there is room for."""
        count = job.channels.shape[-1]
        for mine, given in zip(self.inputs, _inputs(job), strict=True):
            mine.copy_(given)
        self.opacities.copy_(job.opacities.unsqueeze(1))
        self.channels[:, :count] = job.channels.reshape(-1, count)
        with torch_stream(self.image.device):
            wp.capture_launch(self.graph)
            touches = self.bins.needed
        if touches > len(self.bins.lists):
            return None
        image = self.image.clone()
        return Drawn(image[..., :count], image[..., count], self.through.clone())


@torch.inference_mode(False)  # the buffers are written by later pictures too
def _record(job: SplatJob, touches: int) -> _Graph:
    worlds, views, splats, count = job.channels.shape
    size, device = padded_channels(count + 1), wp.device_from_torch(job.means.device)
    inputs = tuple(value.detach().clone().contiguous() for value in _inputs(job))
    opacities = job.opacities.detach().unsqueeze(1).expand(worlds, views, splats).clone()
    channels = job.means.new_zeros(worlds * views * splats, size)
    shape = (worlds, views, job.height, job.width)
    image, through = job.means.new_empty(*shape, size), job.means.new_empty(*shape)
    lasts = job.means.new_empty(*shape, dtype=torch.int32)
    depths = job.means.new_empty(worlds, views, splats)
    projected = job.means.new_empty(worlds, views, splats, 2), job.means.new_empty(worlds, views, splats, 3), depths
    # The default stream cannot be recorded. Within the recording torch must not allocate, nor a second Warp stream wrap the same stream: when it goes, Warp
    # forgets the recording.
    stream = wp.stream_from_torch(torch.cuda.Stream(job.means.device)) if device.is_cuda else None
    with wp.ScopedStream(stream), wp.ScopedCapture(device=device) as capture:
        project_into(
            projected,
            *inputs[:5],
            deformations=inputs[5] if len(inputs) > 5 else None,
            width=job.width,
            height=job.height,
            near=job.near,
            far=job.far,
            blur=job.blur,
        )
        pairs = [wp.from_torch(value) for value in (*(v.view(-1, *v.shape[3:]) for v in projected), opacities.view(-1))]
        table = wp.from_torch(channels)
        wp.launch(copy_depths, dim=len(channels), inputs=[pairs[2], count, table], device=device)
        bins = bin_splats(*pairs, views=worlds * views, width=job.width, height=job.height, capacity=min(int(SLACK * touches) + 1, 2**30 - 1))
        outputs = [wp.from_torch(value.view(-1)) for value in (image, through, lasts)]
        composite_tiles(bins, table, *outputs, views=worlds * views, width=job.width, height=job.height)
    return _Graph(_key(job), capture.graph, inputs, opacities, channels, image, through, bins, (projected, pairs, table, outputs, lasts))
