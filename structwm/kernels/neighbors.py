"""Nearest neighbors as operators of torch: `structwm::neighbors` of one set in another, `structwm::nearest_both` between two sets.

The kernels are those of `neighbors_kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor

from . import neighbors_kernels as kernels
from .launching import READS_BACK, as_array, launch, launch_beside, scalar_of

LIMIT = kernels.LIMIT
POINT_SHARE = 8192  # points that a CPU thread must put in order to be worth starting
TASK_SHARE = 4  # chunks of queries that a CPU thread must have to be worth starting
_CPU = wp.get_device("cpu")

Cloud = tuple[Tensor, Tensor | None, str]
"""A batch of sets of points (B, N, 3) [m], which of them are valid (B, N), and its name in errors."""


@torch.library.custom_op("structwm::neighbors", mutates_args=(), **READS_BACK)
def neighbors(
    queries: Tensor, points: Tensor, query_mask: Tensor | None, point_mask: Tensor | None, k: int, radius: float, sum_of_absolutes: bool, exclude_self: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The k nearest points of each query within a radius.

    Args:
        queries: (B, Q, 3) [m].
        points: (B, N, 3) [m].
        query_mask: (B, Q) bool, or None if all are valid; what is not valid may hold any numbers.
        point_mask: (B, N) likewise.
        k: at least 1.
        radius: greatest distance [m]; infinite if there is none.
        sum_of_absolutes: L1 in place of L2.
        exclude_self: point i is no neighbor of query i.

    Returns:
        Distances (B, Q, k) [m], nearest first and the lower index first among equals; int64 indices (B, Q, k); where there are fewer, infinity and -1. And how
        many points are within the radius, int32 (B, Q), or (B, 0) without one.

    Raises:
        ValueError: if a valid coordinate is not finite, or beyond 1e18 m.
    """
    clouds: list[Cloud] = [(queries, query_mask, "queries"), (points, point_mask, "points")]
    if _same(queries, points) and _same(query_mask, point_mask):
        clouds.pop()
    reach = radius if sum_of_absolutes else radius * radius
    if not queries.is_cpu:
        return scan_tiles(clouds[0], clouds[-1], k, reach, sum_of_absolutes, exclude_self)
    return _search(_plant(clouds), 0, len(clouds) - 1, query_mask is not None, k, reach, sum_of_absolutes, exclude_self)


@neighbors.register_fake
def _(queries: Tensor, points: Tensor, query_mask: Any, point_mask: Any, k: int, radius: float, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    batch, count = queries.shape[:2]
    counts = queries.new_empty(batch, 0 if math.isinf(radius) else count, dtype=torch.int32)
    return queries.new_empty(batch, count, k), queries.new_empty(batch, count, k, dtype=torch.int64), counts


@torch.library.custom_op("structwm::nearest_both", mutates_args=(), **READS_BACK)
def nearest_both(
    a: Tensor, b: Tensor, mask_a: Tensor | None, mask_b: Tensor | None, there: bool, back: bool, sum_of_absolutes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`neighbors` with k = 1 from `a` (B, N, 3) to `b` (B, M, 3) if `there`, and from `b` to `a` if `back`, with each set put in order once.

    Returns:
        Distances and indices (B, N, 1) from a to b, then (B, M, 1) from b to a; (B, 0, 1) in the direction that is not asked for.

    Raises:
        ValueError: as `neighbors`, and if a set has no valid point.
    """
    clouds: list[Cloud] = [(a, mask_a, "a"), (b, mask_b, "b")]
    for points, mask, name in clouds:
        if points.shape[1] == 0 or (mask is not None and not bool(mask.any(-1).all())):
            raise ValueError(f"nearest neighbors: expected at least one valid point in every set, got none in one of {name}.")
    forest = _plant(clouds) if a.is_cpu else None
    results: list[Tensor] = []
    for of, among, wanted in ((0, 1, there), (1, 0, back)):
        if not wanted:
            results.extend(_results(clouds[of][0][:, :0], 1, False, cleared=False)[:2])
        elif forest is None:
            results.extend(scan_tiles(clouds[of], clouds[among], 1, math.inf, sum_of_absolutes, False)[:2])
        else:
            results.extend(_search(forest, of, among, clouds[of][1] is not None, 1, math.inf, sum_of_absolutes, False)[:2])
    return results[0], results[1], results[2], results[3]


@nearest_both.register_fake
def _(a: Tensor, b: Tensor, mask_a: Any, mask_b: Any, there: bool, back: bool, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, m = ((len(a), value.shape[1] if wanted else 0, 1) for value, wanted in ((a, there), (b, back)))
    return a.new_empty(n), a.new_empty(n, dtype=torch.int64), b.new_empty(m), b.new_empty(m, dtype=torch.int64)


class _Forest(NamedTuple):
    """Trees of clouds on the CPU, all in the same arrays."""

    rows: wp.array
    nodes: wp.array
    counts: wp.array  # valid points by cloud and item
    clouds: tuple[Tensor, ...]
    starts: tuple[int, ...]  # first row of each cloud


def _plant(clouds: Sequence[Cloud]) -> _Forest:
    like = clouds[0][0]
    batch, sizes = len(like), [points.shape[1] for points, *_ in clouds]
    starts = [batch * sum(sizes[:place]) for place in range(len(clouds))]
    made = _made(like)
    rows, nodes = (like.new_empty(batch * sum(sizes) * width) for width in (4, 16))
    counts = torch.empty(len(clouds), batch, dtype=torch.int32)
    arrays = [as_array(value) for value in (rows, nodes, counts)]
    for place, (points, mask, _) in enumerate(clouds):
        keep = torch.empty(0, dtype=torch.uint8) if mask is None else mask.contiguous().view(torch.uint8).view(-1)
        inputs = [as_array(points), wp.from_torch(keep), int(mask is not None), sizes[place], starts[place], place * batch, *arrays]
        launch(made.pack, batch, inputs, device=_CPU, share=-(-POINT_SHARE // max(sizes[place], 1)))
    for name, valid in zip((name for *_, name in clouds), counts, strict=True):
        if batch and int(valid.min()) < 0:
            raise _not_finite(name)
    items = torch.arange(batch, dtype=torch.int32)
    firsts = torch.cat([start + size * items for start, size in zip(starts, sizes, strict=True)])
    jobs = torch.stack((firsts, counts.view(-1), 2 * firsts), -1)
    while 0 < len(jobs) < torch.get_num_threads() and int(jobs[:, 1].max()) >= 2 * POINT_SHARE:  # more jobs, by the first splits
        halves = torch.empty(len(jobs), 6, dtype=torch.int32)
        launch(made.grow, len(jobs), [0, wp.from_torch(jobs), wp.from_torch(halves), *arrays[:2]], device=_CPU, share=1)
        jobs = halves.view(-1, 3)
    share = max(1, POINT_SHARE * len(jobs) // max(batch * sum(sizes), 1))
    launch(made.grow, len(jobs), [1, wp.from_torch(jobs), wp.from_torch(jobs), *arrays[:2]], device=_CPU, share=share)
    return _Forest(arrays[0], arrays[1], arrays[2], tuple(points for points, *_ in clouds), tuple(starts))


def _search(
    forest: _Forest, of: int, among: int, masked: bool, k: int, reach: float, sum_of_absolutes: bool, exclude_self: bool
) -> tuple[Tensor, Tensor, Tensor]:
    queries = forest.clouds[of]
    batch, size = queries.shape[:2]
    counting = not math.isinf(reach)
    distances, indices, counts = _results(queries, k, counting, cleared=masked)
    work = queries.new_empty(2 * kernels.LANES * k * torch.get_num_threads())
    place = [(forest.starts[index], forest.clouds[index].shape[1], index * batch) for index in (of, among)]
    flags = [int(flag) for flag in (counting, sum_of_absolutes, exclude_self)]
    outputs = [as_array(value) for value in (distances, indices, counts)]
    arguments = [*place[0], *place[1], forest.counts, k, scalar_of(queries)(reach), *flags, forest.rows, forest.nodes, wp.from_torch(work), *outputs]
    tasks = batch * -(-size // (kernels.LANES * kernels.CHUNK))
    launch(_made(queries).search, tasks, arguments, device=_CPU, share=TASK_SHARE, interleaved=True)
    return distances, indices, counts


def _results(queries: Tensor, k: int, counting: bool, *, cleared: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, size = queries.shape[:2]
    distances, indices = queries.new_empty(batch, size, k), queries.new_empty(batch, size, k, dtype=torch.int64)
    counts = queries.new_zeros(batch, size if counting else 0, dtype=torch.int32)
    if cleared:
        distances.fill_(math.inf)
        indices.fill_(-1)
    return distances, indices, counts


def scan_tiles(of: Cloud, among: Cloud, k: int, reach: float, sum_of_absolutes: bool, exclude_self: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The same search by the kernel for CUDA, on any device. `reach` is the greatest L1 distance [m] or square of the L2 distance [m^2]."""
    queries, points = of[0].detach(), among[0].detach()
    masks = [value.new_ones(value.shape[:2], dtype=torch.bool) if mask is None else mask for value, mask, _ in (of, among)]
    for (value, _, name), mask in zip((of, among), masks, strict=True):
        if not bool((((value.detach().abs() < kernels.LIMIT).all(-1)) | ~mask).all()):
            raise _not_finite(name)
    batch, size = queries.shape[:2]
    counting = not math.isinf(reach)
    distances, indices, counts = _results(queries, k, counting, cleared=True)
    if queries.numel() == 0 or points.numel() == 0:
        return distances, indices, counts
    points = torch.nn.functional.pad(points, (0, 0, 0, -points.shape[1] % kernels.TILE), value=math.inf)
    valid = torch.nn.functional.pad(masks[1], (0, points.shape[1] - masks[1].shape[1]))
    both = torch.cat((torch.where(masks[0].unsqueeze(-1), queries, math.nan), torch.where(valid.unsqueeze(-1), points, math.nan)), 1)
    codes = _morton(both)
    query_codes, order = codes[:, :size].sort(dim=-1, stable=True)
    codes, names = codes[:, size:].sort(dim=-1, stable=True)
    starts = (torch.searchsorted(codes, query_codes) // kernels.TILE).clamp_max(points.shape[1] // kernels.TILE - 1)
    points = torch.where(valid.unsqueeze(-1), points, math.inf).gather(1, names.unsqueeze(-1).expand(-1, -1, 3))
    names = torch.where(valid.gather(1, names), names, -1)
    tiles = points.view(-1, kernels.TILE, 3)
    present = names.view(-1, kernels.TILE, 1) >= 0
    lowest = torch.where(names >= 0, names, points.shape[1]).view(-1, kernels.TILE).amin(1)
    boxes = torch.cat((tiles.amin(1), torch.where(present, tiles, -math.inf).amax(1)), -1)
    inputs: list[Any] = [as_array(order), as_array(queries, -1, 3), as_array(starts), as_array(points, -1, 3)]
    inputs += [as_array(names), wp.from_torch(boxes), as_array(lowest)]
    flags = [int(flag) for flag in (counting, sum_of_absolutes, exclude_self)]
    inputs += [size, points.shape[1] // kernels.TILE, k, scalar_of(queries)(reach), *flags]
    outputs = [as_array(distances, -1, k), as_array(indices, -1, k), as_array(counts)]
    launch_beside(queries, _made(queries).scan, batch * size, [*inputs, *outputs], share=256)
    if of[1] is not None:
        distances.masked_fill_(~masks[0].unsqueeze(-1), math.inf)
        indices.masked_fill_(~masks[0].unsqueeze(-1), -1)
        counts *= masks[0] if counting else 1
    return distances, indices, counts


def _morton(points: Tensor) -> Tensor:
    """Codes (B, N) that sort points (B, N, 3) along a curve through space, by 20 bits an axis of the box around each set; NaN comes last."""
    low = points.nan_to_num(math.inf, math.inf, math.inf).amin(1, keepdim=True)
    high = points.nan_to_num(-math.inf, -math.inf, -math.inf).amax(1, keepdim=True)
    cells = ((points - low) / (high - low).amax(-1, keepdim=True).clamp_min(1e-30) * 2**20).nan_to_num(0.0).clamp(0, 2**20 - 1).to(torch.int64)
    for shift, keep in ((32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F), (4, 0x10C30C30C30C30C3), (2, 0x1249249249249249)):
        cells = (cells | cells << shift) & keep
    codes = cells[..., 0] | cells[..., 1] << 1 | cells[..., 2] << 2
    return torch.where(points.isnan().any(-1), 2**62, codes)


def _made(tensor: Tensor) -> kernels.Kernels:
    return kernels.KERNELS[scalar_of(tensor)]


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors are the same memory."""
    if a is None or b is None:
        return a is b
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def _not_finite(name: str) -> ValueError:
    return ValueError(f"nearest neighbors: expected finite coordinates of {name} below 1e18 m, got others; mask or remove those points.")


@torch.library.custom_op("structwm::neighbors_backward", mutates_args=())
def neighbors_backward(queries: Tensor, points: Tensor, distances: Tensor, indices: Tensor, incoming: Tensor, sum_of_absolutes: bool) -> tuple[Tensor, Tensor]:
    """Gradients by queries and points of a loss with gradients `incoming` (B, Q, k) by the distances; 0 from distances that are 0 and from padding."""
    batch, size, k = distances.shape
    by_queries, by_points = torch.zeros_like(queries, memory_format=torch.contiguous_format), torch.zeros_like(points, memory_format=torch.contiguous_format)
    share = size if queries.is_cpu else 1
    if size:
        arrays = [as_array(value, -1, value.shape[-1]) for value in (queries, points, distances, indices, incoming)]
        outputs = [as_array(value, -1, 3) for value in (by_queries, by_points)]
        inputs = [share, *arrays, size, points.shape[1], k, int(sum_of_absolutes), *outputs]
        launch_beside(queries, _made(queries).gradients, batch * size // share, inputs, share=1)
    return by_queries, by_points


@neighbors_backward.register_fake
def _(queries: Tensor, points: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return queries.new_empty(queries.shape), points.new_empty(points.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], *output[:2])
    ctx.sum_of_absolutes = inputs[6]
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx: Any, incoming: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    return (*neighbors_backward(*ctx.saved_tensors, incoming, ctx.sum_of_absolutes), None, None, None, None, None, None)


neighbors.register_autograd(_gradients, setup_context=_save)


def _save_both(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], *output)
    ctx.sum_of_absolutes = inputs[6]
    ctx.mark_non_differentiable(output[1], output[3])


def _gradients_of_both(ctx: Any, incoming_there: Tensor, _: Any, incoming_back: Tensor, __: Any) -> tuple[Tensor | None, ...]:
    a, b, there, indices_there, back, indices_back = ctx.saved_tensors
    by_a, by_b = neighbors_backward(a, b, there, indices_there, incoming_there, ctx.sum_of_absolutes)
    also_b, also_a = neighbors_backward(b, a, back, indices_back, incoming_back, ctx.sum_of_absolutes)
    return by_a + also_a, by_b + also_b, None, None, None, None, None


nearest_both.register_autograd(_gradients_of_both, setup_context=_save_both)
