"""Splats to pixels: the kernels of `splat_projection`, `splat_binning` and `splat_compositing` in order, and as operators of torch.

`structwm::project_splats` and `structwm::composite_splats` have shapes for tracing and formulas for gradients, so that they work under autograd and
`torch.compile`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import splat_binning as binning
from .launching import READS_BACK, as_array, as_matrices, as_vectors, launch, launch_beside, scalar_of, torch_stream
from .splat_compositing import CHANNELS, GEOMETRY, compositing_kernels
from .splat_projection import projection_kernels

TILE = binning.TILE
PAIR_SHARE = 2048  # pairs a CPU thread must have to be worth starting
TILE_SHARE = 8  # tiles likewise
ALL = 1 << 31  # a share for one CPU thread


@torch.library.custom_op("structwm::project_splats", mutates_args=())
def project_splats(
    means: Tensor,
    rotations: Tensor,
    scales: Tensor,
    camera_from_world: Tensor,
    pinholes: Tensor,
    width: int,
    height: int,
    near: float,
    far: float,
    blur: float,
    deformations: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Splats of several worlds as ellipses in the images of each world's cameras (elliptical weighted average, Zwicker et al., 2002).

    Args:
        means: (W, N, 3) of the splats of each world [m].
        rotations: (W, N, 4) quaternions wxyz, of any length but zero.
        scales: (W, N, 3) standard deviations [m].
        camera_from_world: (W, V, 3, 4) rigid, axes x to the right, y down, z forward.
        pinholes: (W, V, 4) focal lengths and principal points fx, fy, cx, cy [px]; without gradient.
        width: of the images [px].
        height: of the images [px].
        near: least depth that is seen [m].
        far: greatest depth that is seen [m].
        blur: added to both variances [px^2].
        deformations: (W, N, 3, 3) deformation gradients of the splats, the identity if None.

    Returns:
        Centres (W, V, N, 2) [px], inverse covariances (W, V, N, 3) as a, b, c of a dx^2 + 2 b dx dy + c dy^2 [1/px^2], and depths (W, V, N) [m], 0 for what
        is not seen or has numbers that are not finite.
    """
    worlds, views, splats = means.shape[0], camera_from_world.shape[1], means.shape[1]
    tables = [(rotations, (worlds, splats, 4)), (scales, (worlds, splats, 3)), (camera_from_world, (worlds, views, 3, 4)), (pinholes, (worlds, views, 4))]
    for value, shape in tables if deformations is None else [*tables, (deformations, (worlds, splats, 3, 3))]:
        if tuple(value.shape) != shape:
            raise ValueError(f"project_splats: expected {shape} beside means {tuple(means.shape)}, got {tuple(value.shape)}.")
    outputs = means.new_empty(worlds, views, splats, 2), means.new_empty(worlds, views, splats, 3), means.new_empty(worlds, views, splats)
    with torch_stream(means.device):
        placed = (means, rotations, scales, camera_from_world, pinholes)
        project_into(outputs, *placed, width=width, height=height, near=near, far=far, blur=blur, deformations=deformations)
    return outputs


def project_into(
    outputs: tuple[Tensor, Tensor, Tensor],
    means: Tensor,
    rotations: Tensor,
    scales: Tensor,
    camera_from_world: Tensor,
    pinholes: Tensor,
    *,
    width: int,
    height: int,
    near: float,
    far: float,
    blur: float,
    deformations: Tensor | None = None,
) -> None:
    """Fill what `project_splats` gives, on Warp's current stream; of contiguous tensors without any memory of its own, as a recorded graph needs it."""
    inputs = _projection_inputs(means, rotations, scales, deformations, camera_from_world, pinholes, width, height)
    kind = scalar_of(means)
    results = [as_vectors(outputs[0]), as_vectors(outputs[1]), as_array(outputs[2])]
    arguments = [*inputs, kind(near), kind(far), kind(blur), *results]
    launch(projection_kernels(kind).forward, outputs[2].numel(), arguments, device=wp.device_from_torch(means.device), share=PAIR_SHARE)


def _projection_inputs(
    means: Tensor, rotations: Tensor, scales: Tensor, deformations: Tensor | None, camera_from_world: Tensor, pinholes: Tensor, width: int, height: int
) -> list[Any]:
    kind = scalar_of(means)
    matrices = [as_matrices(means.new_empty(0, 3, 3) if deformations is None else deformations), as_matrices(camera_from_world)]
    arrays = [as_vectors(means), as_vectors(rotations), as_vectors(scales), *matrices, as_vectors(pinholes)]
    return [*arrays, means.shape[1], camera_from_world.shape[1], kind(width), kind(height)]


@project_splats.register_fake
def _(means: Tensor, rotations: Tensor, scales: Tensor, camera_from_world: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = (means.shape[0], camera_from_world.shape[1], means.shape[1])
    return means.new_empty(*shape, 2), means.new_empty(*shape, 3), means.new_empty(*shape)


@torch.library.custom_op("structwm::project_splats_backward", mutates_args=())
def project_splats_backward(
    means: Tensor,
    rotations: Tensor,
    scales: Tensor,
    camera_from_world: Tensor,
    pinholes: Tensor,
    deformations: Tensor | None,
    width: int,
    height: int,
    conics: Tensor,
    depths: Tensor,
    grad_centres: Tensor,
    grad_conics: Tensor,
    grad_depths: Tensor,
    by_pose: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by means, rotations, scales, deformations (empty without) and, if `by_pose`, by the cameras' poses (else zeros)."""
    worlds, views, splats = depths.shape
    inputs = _projection_inputs(means, rotations, scales, deformations, camera_from_world, pinholes, width, height)
    given = [as_vectors(conics), as_array(depths), as_vectors(grad_centres), as_vectors(grad_conics), as_array(grad_depths)]
    rows = [means.new_empty(worlds * views * splats, size) for size in (3, 4, 3)]
    maps = means.new_empty(worlds * views * splats if deformations is not None else 0, 3, 3)
    poses = means.new_empty(worlds * views * splats if by_pose else 0, 3, 4)
    outputs = [*(as_vectors(value) for value in rows), as_matrices(maps), as_matrices(poses)]
    launch_beside(means, projection_kernels(scalar_of(means)).backward, worlds * views * splats, [*inputs, *given, *outputs], share=PAIR_SHARE)
    by_means, by_rotations, by_scales = (value.view(worlds, views, splats, -1).sum(1) for value in rows)
    by_deformations = maps if deformations is None else maps.view(worlds, views, splats, 3, 3).sum(1)
    by_views = poses.view(worlds, views, splats, 3, 4).sum(2) if by_pose else camera_from_world.new_zeros(camera_from_world.shape)
    return by_means, by_rotations, by_scales, by_deformations, by_views


@project_splats_backward.register_fake
def _(
    means: Tensor, rotations: Tensor, scales: Tensor, camera_from_world: Tensor, pinholes: Tensor, deformations: Tensor | None, *_: Any
) -> tuple[Tensor, ...]:
    maps = means.new_empty(0, 3, 3) if deformations is None else deformations
    return tuple(value.new_empty(value.shape) for value in (means, rotations, scales, maps, camera_from_world))


def _save_projection(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, width, height, _near, _far, _blur, deformations = inputs
    ctx.save_for_backward(*tensors, deformations, *output[1:])
    ctx.size = (width, height)


def _projection_gradients(ctx: Any, grad_centres: Tensor, grad_conics: Tensor, grad_depths: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, conics, depths = ctx.saved_tensors
    by_pose = ctx.needs_input_grad[3]
    *gradients, by_maps, by_views = project_splats_backward(*inputs, *ctx.size, conics, depths, grad_centres, grad_conics, grad_depths, by_pose)
    return (*gradients, by_views if by_pose else None, None, None, None, None, None, None, None if inputs[-1] is None else by_maps)


project_splats.register_autograd(_projection_gradients, setup_context=_save_projection)


class Bins(NamedTuple):
    """Which pairs touch which tiles; everything that compositing reads, and all buffers that a recorded graph must keep."""

    packed: wp.array  # (P, 8) see `splat_binning.ROW`
    order: wp.array  # (P,) pairs by rank
    starts: wp.array  # (P + 1,) number of the first touch of every rank
    lists: wp.array  # (M,) pairs, one tile's list after another, nearest first
    touches: wp.array  # (M,) the number of the touch in each slot of `lists`; on CUDA as many more of no meaning
    ends: wp.array  # (tiles,) where each tile's list ends
    buffers: tuple[wp.array, ...]

    @property
    def needed(self) -> int:
        """M as it was needed; more than the length of `lists` if the capacity was too small."""
        starts = self.starts if self.starts.device.is_cpu else self.starts[-1:]  # copied to the CPU
        return _fitting(int(starts.numpy()[-1]))


def bin_splats(
    centres: wp.array, conics: wp.array, depths: wp.array, opacities: wp.array, *, views: int, width: int, height: int, capacity: int | None = None
) -> Bins:
    """Lists of the pairs that touch each tile of 16 x 16 pixels, nearest first.

    Args:
        centres: (P, 2) [px].
        conics: (P, 3).
        depths: (P,) [m], 0 for what is not drawn.
        opacities: (P,).
        views: V images, each of the same number of pairs.
        width: of the images [px].
        height: of the images [px].
        capacity: length of the lists; None measures it, which a recorded graph cannot. What goes beyond is left out.

    Raises:
        ValueError: if there are 2^30 touches or more.
    """
    device, count = centres.device, depths.shape[0]
    columns, rows = -(-width // TILE), -(-height // TILE)
    tiles_in_all = views * columns * rows
    packed = wp.empty((count, binning.ROW), dtype=float, device=device)
    touched, order = (wp.empty(count, dtype=wp.int32, device=device) for _ in range(2))
    keys, pairs = (wp.empty(2 * count, dtype=wp.int32, device=device) for _ in range(2))
    starts = wp.empty(count + 1, dtype=wp.int32, device=device)
    counts = None
    launch(binning.pack, count, [centres, conics, depths, opacities, columns, rows, packed, touched, keys, pairs], device=device, share=PAIR_SHARE)
    if device.is_cpu:
        wp.launch(binning.rank, dim=1, inputs=[count, keys, pairs, touched, order, starts], device=device)
    else:
        wp.utils.radix_sort_pairs(keys, pairs, count)
        wp.copy(order, pairs, count=count)
        counts = wp.empty(count + 1, dtype=wp.int32, device=device)
        wp.launch(binning.counts_by_rank, dim=count + 1, inputs=[order, touched, counts], device=device)
        wp.utils.array_scan(counts, starts, inclusive=False)
    if capacity is not None:
        length = capacity
    elif device.is_cpu:
        length = _fitting(int(starts.numpy()[-1]))
    else:
        length = _fitting(int(wp.to_torch(touched).sum(dtype=torch.int64)))
    sorted_length = length if device.is_cpu else 2 * length  # a sort on CUDA wants as much room again
    lists, owners, ends = (wp.empty(size, dtype=wp.int32, device=device) for size in (length, length, tiles_in_all))
    tiles, touches = (wp.empty(sorted_length, dtype=wp.int32, device=device) for _ in range(2))
    if capacity is not None:
        tiles.fill_(tiles_in_all)
        owners.zero_()
    per_view = max(count // views, 1) if views else 1
    launch(binning.touch, count, [order, starts, packed, per_view, columns, rows, length, tiles, owners], device=device, share=PAIR_SHARE)
    if device.is_cpu:
        wp.launch(binning.place, dim=1, inputs=[count, tiles_in_all, length, starts, tiles, owners, lists, touches, ends], device=device)
    else:
        wp.launch(binning.number, dim=length, inputs=[touches], device=device)
        wp.utils.radix_sort_pairs(tiles, touches, length, 0, max(tiles_in_all.bit_length(), 1))
        wp.launch(binning.settle, dim=length, inputs=[touches, owners, lists], device=device)
        wp.launch(binning.find_ends, dim=tiles_in_all, inputs=[tiles, length, ends], device=device)
    return Bins(packed, order, starts, lists, touches, ends, tuple(b for b in (touched, keys, pairs, counts, tiles, owners) if b is not None))


def _fitting(touches: int) -> int:
    """The number of touches, if indices of 32 bits hold it; on CPU a greater one was replaced by -1."""
    if not 0 <= touches < 2**30:
        raise ValueError("render: expected fewer than 2^30 touches of splats and tiles of 16 x 16 pixels, got more; draw fewer views or worlds at once.")
    return touches


def composite_tiles(bins: Bins, channels: wp.array, image: wp.array, through: wp.array, lasts: wp.array, *, views: int, width: int, height: int) -> None:
    """Fill `image` (V * height * width * C,), `through` and `lasts` (V * height * width,); `channels` is (P, C) with C in `CHANNELS`."""
    _launch_tiles(compositing_kernels(channels.shape[1]).forward, [bins.lists, bins.packed, channels, bins.ends], [image, through, lasts], views, width, height)


def composite_tiles_backward(
    bins: Bins,
    channels: wp.array,
    through: wp.array,
    lasts: wp.array,
    grad_image: wp.array,
    grad_through: wp.array,
    *,
    sums: wp.array,
    views: int,
    width: int,
    height: int,
    direct: bool,
) -> wp.array:
    """Fill `sums` (P, 6 + C), zero before, with the gradients of pairs; gives the rows of touches, none if `direct`.

    `direct` adds to `sums` at once: on CUDA by atomics, whose order is left to chance; on CPU in one thread, with the same bits as by rows.
    """
    rows = wp.empty((0 if direct else bins.lists.shape[0], sums.shape[1]), dtype=float, device=sums.device)
    target = sums if direct else rows
    given = [bins.lists, bins.packed, channels, bins.ends]
    arguments = [through, lasts, grad_image, grad_through, bins.touches, int(direct), target]
    share = ALL if direct else TILE_SHARE
    _launch_tiles(compositing_kernels(channels.shape[1]).backward, given, arguments, views, width, height, share)
    if not direct:
        launch(binning.gather, bins.order.shape[0], [bins.order, bins.starts, rows, sums], device=sums.device, share=PAIR_SHARE)
    return rows


def _launch_tiles(kernel: Any, lists: list[Any], arguments: list[Any], views: int, width: int, height: int, share: int = TILE_SHARE) -> None:
    device = lists[0].device
    columns, rows = -(-width // TILE), -(-height // TILE)
    threads = 1 if device.is_cpu else TILE * TILE
    all_arguments = [threads, *lists, columns, rows, width, height, *arguments]
    launch(kernel, views * columns * rows * threads, all_arguments, device=device, share=share, interleaved=True)


def padded_channels(count: int) -> int:
    """The number of channels of the kernel that serves `count` of them."""
    return next(size for size in CHANNELS if size >= count)


def _padded(value: Tensor, size: int) -> Tensor:
    """With zeros up to `size` channels."""
    return value if value.shape[-1] == size else torch.nn.functional.pad(value, (0, size - value.shape[-1]))


@torch.library.custom_op("structwm::composite_splats", mutates_args=(), **READS_BACK)
def composite_splats(
    centres: Tensor, conics: Tensor, depths: Tensor, opacities: Tensor, channels: Tensor, width: int, height: int, deterministic: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Blend projected splats from front to back, without background.

    Args:
        centres: float32 (V, N, 2) [px].
        conics: (V, N, 3), see `project_splats`.
        depths: (V, N) [m], 0 for what is not drawn; nearer is in front. Without gradient.
        opacities: (V, N) in [0, 1].
        channels: (V, N, C) of any meaning, C at most 36.
        width: of the images [px].
        height: of the images [px].
        deterministic: on CUDA, gradients without atomics. On CPU they are always so.

    Returns:
        Channels (V, height, width, C), transmittance (V, height, width), and for the backward pass the slot of each pixel's last splat, int32 (V, height,
        width).
    """
    image, through, lasts, _ = _composite(centres, conics, depths, opacities, channels, width, height)
    return image, through, lasts


def _composite(
    centres: Tensor, conics: Tensor, depths: Tensor, opacities: Tensor, channels: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor, Bins]:
    """What `composite_splats` gives, and the lists that it made."""
    views, size = len(centres), padded_channels(channels.shape[-1])
    wide = _padded(channels, size)
    image = channels.new_empty(views, height, width, size)
    through, lasts = (centres.new_empty(views, height, width, dtype=dtype) for dtype in (torch.float32, torch.int32))
    with torch_stream(centres.device):
        bins = bin_splats(*_pairs(centres, conics, depths, opacities), views=views, width=width, height=height)
        drawn, clear, ends_at = (as_array(value) for value in (image, through, lasts))
        composite_tiles(bins, as_array(wide, -1, size), drawn, clear, ends_at, views=views, width=width, height=height)
    return image[..., : channels.shape[-1]].contiguous(), through, lasts, bins


def _pairs(centres: Tensor, conics: Tensor, depths: Tensor, opacities: Tensor) -> tuple[wp.array, ...]:
    return as_array(centres, -1, 2), as_array(conics, -1, 3), as_array(depths), as_array(opacities)


@composite_splats.register_fake
def _(centres: Tensor, conics: Tensor, depths: Tensor, opacities: Tensor, channels: Tensor, width: int, height: int, *_: Any) -> tuple[Tensor, ...]:
    shape = (centres.shape[0], height, width)
    return channels.new_empty(*shape, channels.shape[-1]), centres.new_empty(shape), centres.new_empty(shape, dtype=torch.int32)


@torch.library.custom_op("structwm::composite_splats_backward", mutates_args=(), **READS_BACK)
def composite_splats_backward(
    centres: Tensor,
    conics: Tensor,
    depths: Tensor,
    opacities: Tensor,
    channels: Tensor,
    through: Tensor,
    lasts: Tensor,
    grad_image: Tensor,
    grad_through: Tensor,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by centres, conics, opacities and channels. The tiles' lists are made again, because a tracer cannot know their length."""
    views, height, width = through.shape
    with torch_stream(centres.device):
        bins = bin_splats(*_pairs(centres, conics, depths, opacities), views=views, width=width, height=height)
    return _composite_backward(bins, opacities, channels, through, lasts, grad_image, grad_through, deterministic)


def _composite_backward(
    bins: Bins, opacities: Tensor, channels: Tensor, through: Tensor, lasts: Tensor, grad_image: Tensor, grad_through: Tensor, deterministic: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `composite_splats_backward` gives, from lists that are there."""
    views, height, width = through.shape
    count, size = channels.shape[-1], padded_channels(channels.shape[-1])
    wide, grad_wide = _padded(channels, size), _padded(grad_image, size)
    sums = channels.new_zeros(channels.shape[0] * channels.shape[1], GEOMETRY + size)
    with torch_stream(channels.device):
        clear, ends_at, by_image, by_through = (as_array(value) for value in (through, lasts, grad_wide, grad_through))
        composite_tiles_backward(
            bins,
            as_array(wide, -1, size),
            clear,
            ends_at,
            by_image,
            by_through,
            sums=wp.from_torch(sums),
            views=views,
            width=width,
            height=height,
            direct=not deterministic if channels.is_cuda else torch.get_num_threads() == 1,
        )
    rows = sums.view(*channels.shape[:2], -1)
    by_opacity = torch.where(opacities > 0, rows[..., 5] / opacities, 0.0)
    return rows[..., :2].clone(), rows[..., 2:5].clone(), by_opacity, rows[..., GEOMETRY : GEOMETRY + count].clone()


@composite_splats_backward.register_fake
def _(centres: Tensor, conics: Tensor, depths: Tensor, opacities: Tensor, channels: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(value.new_empty(value.shape) for value in (centres, conics, opacities, channels))


def _save_compositing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _width, _height, ctx.deterministic = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.mark_non_differentiable(output[2])


def _compositing_gradients(ctx: Any, grad_image: Tensor, grad_through: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    by_centres, by_conics, by_opacities, by_channels = composite_splats_backward(*ctx.saved_tensors, grad_image, grad_through, ctx.deterministic)
    return by_centres, by_conics, None, by_opacities, by_channels, None, None, None


composite_splats.register_autograd(_compositing_gradients, setup_context=_save_compositing)


class _Compositing(torch.autograd.Function):
    """`composite_splats` outside of tracing: the backward pass reads the lists that the forward pass made."""

    @staticmethod
    def forward(
        ctx: Any, centres: Tensor, conics: Tensor, depths: Tensor, opacities: Tensor, channels: Tensor, width: int, height: int, deterministic: bool
    ) -> tuple[Tensor, Tensor]:
        image, through, lasts, ctx.bins = _composite(centres, conics, depths, opacities, channels, width, height)
        ctx.save_for_backward(opacities, channels, through, lasts)
        ctx.deterministic = deterministic
        return image, through

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        opacities, channels, through, lasts = ctx.saved_tensors
        by_image, by_through = gradients
        by = _composite_backward(ctx.bins, opacities, channels, through, lasts, by_image, by_through, ctx.deterministic)
        return by[0], by[1], None, by[2], by[3], None, None, None


def composite(
    centres: Tensor, conics: Tensor, depths: Tensor, opacities: Tensor, channels: Tensor, width: int, height: int, *, deterministic: bool
) -> tuple[Tensor, Tensor]:
    """Channels (V, height, width, C) and transmittance (V, height, width) as `composite_splats` gives them, bit for bit; while tracing by that operator."""
    if torch.compiler.is_compiling():
        image, through, _ = composite_splats(centres, conics, depths, opacities, channels, width, height, deterministic)
        return image, through
    image, through = _Compositing.apply(centres, conics, depths, opacities, channels, width, height, deterministic)
    return image, through
