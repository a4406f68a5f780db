"""Blending of nodes' affine maps, splats under affine maps and nearest rotations, as operators of torch over the kernels of `skinning_kernels`.

`structwm::blend_maps`, `structwm::decompose_maps` and `structwm::polar_rotation` have shapes for tracing and formulas for first gradients. Arrays have one
leading axis of worlds; one world in an input stands for all of them.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor

from structwm.geometry.rotations import quaternion_conjugate, quaternion_multiply

from .launching import as_array, as_matrices, as_vectors, backward_only, launch_beside, scalar_of
from .skinning_kernels import LANES, skinning_kernels

POINT_SHARE = 2048  # points a CPU thread must have to be worth starting
SUM_SHARE = 64  # sums over the followers of a node likewise
PART = 32  # followers of a node in one of its sums, on average


def _table(tensor: Tensor) -> wp.array:
    """(W, N, k) as (W N, k)."""
    return as_array(tensor, -1, tensor.shape[-1])


def _worlds(*tensors: Tensor) -> int:
    counts = [tensor.shape[0] for tensor in tensors]
    return 0 if 0 in counts else max(counts)


def _summed(gradient: Tensor, like: Tensor) -> Tensor:
    """The sum over worlds where the input had one for all."""
    return gradient if gradient.shape[0] == like.shape[0] else gradient.sum(0, keepdim=True)


def followers(indices: Tensor, node_count: int) -> tuple[Tensor, Tensor]:
    """The points that follow each node, from the nodes that each point follows.

    Args:
        indices: int32 (W, N, k) of nodes.
        node_count: M.

    Returns:
        Starts int32 (W, M + 1), and entries int32 (W, N k): entry `k n + slot` of node m stands between `starts[m]` and `starts[m + 1]`, in order.
    """
    flat = indices.flatten(1).long()
    worlds, length = flat.shape
    world = torch.arange(worlds, device=flat.device).unsqueeze(1)
    entries = torch.argsort((flat + world * node_count).flatten(), stable=True).view(worlds, length) - world * length  # torch sorts one row fastest
    counts = torch.zeros(worlds, node_count + 1, dtype=torch.int64, device=flat.device)
    counts.scatter_add_(1, flat + 1, torch.ones_like(flat))
    return counts.cumsum(1).to(torch.int32), entries.to(torch.int32)


@torch.library.custom_op("structwm::blend_maps", mutates_args=())
def blend_maps(
    points: Tensor, indices: Tensor, weights: Tensor, nodes: Tensor, moved: Tensor, maps: Tensor, starts: Tensor, entries: Tensor
) -> tuple[Tensor, Tensor]:
    """x' = sum_k w_k (F_k (x - p_k) + p'_k) and F = sum_k w_k F_k over the k nodes that a point follows.

    Args:
        points: x, (W or 1, N, 3).
        indices: int32 (V, N, k) of the nodes, V being W or 1.
        weights: w, (V, N, k).
        nodes: p, (W or 1, M, 3).
        moved: p', (U, M, 3), U being W or 1.
        maps: F, (U, M, 3, 3).
        starts: int32 (V, M + 1), see `followers`.
        entries: int32 (V, N k).

    Returns:
        Positions (W, N, 3) and linear parts (W, N, 3, 3).
    """
    worlds, node_count = _worlds(points, indices, nodes, moved), nodes.shape[1]
    tables = [(points, (*points.shape[:2], 3)), (indices, (len(weights), points.shape[1], weights.shape[-1])), (nodes, (len(nodes), node_count, 3))]
    tables += [
        (moved, (len(maps), node_count, 3)),
        (maps, (len(maps), node_count, 3, 3)),
        (starts, (len(weights), node_count + 1)),
        (entries, (len(weights), points.shape[1] * weights.shape[-1])),
    ]
    if any(tuple(value.shape) != shape or len(value) not in (1, worlds) for value, shape in tables):
        raise ValueError(f"blend_maps: expected tables of {worlds} worlds or one, got {', '.join(str(tuple(value.shape)) for value, _ in tables)}.")
    positions, blended = _blend_shapes(points, indices, weights, nodes, moved)
    kernels = skinning_kernels(scalar_of(points))
    arguments = _blend_inputs(points, indices, weights, nodes, moved, maps)
    outputs = [as_vectors(positions), as_matrices(blended)]
    launch_beside(points, kernels.blend, positions[..., 0].numel(), [*arguments, *outputs], share=POINT_SHARE)
    return positions, blended


def _steps(points: Tensor, indices: Tensor, nodes: Tensor, moved: Tensor) -> Any:
    return wp.vec4i(*(int(tensor.shape[0] > 1) for tensor in (points, indices, nodes, moved)))


def _blend_inputs(points: Tensor, indices: Tensor, weights: Tensor, nodes: Tensor, moved: Tensor, maps: Tensor) -> list[Any]:
    arrays = [as_vectors(points), _table(indices), _table(weights), as_vectors(nodes), as_vectors(moved), as_matrices(maps)]
    return [*arrays, points.shape[1], nodes.shape[1], _steps(points, indices, nodes, moved)]


@blend_maps.register_fake
def _blend_shapes(points: Tensor, indices: Tensor, weights: Tensor, nodes: Tensor, moved: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape = (_worlds(points, indices, nodes, moved), points.shape[1], 3)
    return points.new_empty(shape), points.new_empty(*shape, 3)


@torch.library.custom_op("structwm::blend_maps_backward", mutates_args=())
def blend_maps_backward(
    points: Tensor,
    indices: Tensor,
    weights: Tensor,
    nodes: Tensor,
    moved: Tensor,
    maps: Tensor,
    starts: Tensor,
    entries: Tensor,
    grad_positions: Tensor,
    grad_blended: Tensor,
    by_points: bool,
    by_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by points and weights (zeros where they are not asked for), nodes, moved nodes and maps."""
    worlds, count = grad_positions.shape[:2]
    slots, node_count = indices.shape[2], nodes.shape[1]
    kernels = skinning_kernels(scalar_of(points))
    given = [as_vectors(grad_positions), as_matrices(grad_blended)]
    grad_points, grad_weights = torch.zeros_like(points), torch.zeros_like(weights)
    if by_points or by_weights:
        each, table = points.new_empty(worlds, count, 3), points.new_empty(worlds if by_weights else 0, count, slots)
        arguments = [*_blend_inputs(points, indices, weights, nodes, moved, maps), *given, as_vectors(each), _table(table)]
        launch_beside(points, kernels.blend_backward, worlds * count, arguments, share=POINT_SHARE)
        grad_points, grad_weights = _summed(each, points), _summed(table, weights) if by_weights else grad_weights
    parts = max(1, -(-count * slots // (node_count * PART)))
    by_moved = points.new_empty(worlds, parts, node_count, 3)
    by_maps = points.new_empty(worlds, parts, node_count, 3, 3)
    lists = [_table(value) for value in (starts, entries)]
    sizes = [count, node_count, parts, _steps(points, indices, nodes, moved)]
    outputs = [as_vectors(by_moved), as_matrices(by_maps)]
    arguments = [as_vectors(points), as_array(weights), as_vectors(nodes), *lists, *sizes, *given, *outputs]
    launch_beside(points, kernels.blend_nodes_backward, worlds * node_count * parts, arguments, share=SUM_SHARE)
    by_moved, by_maps = by_moved.sum(1), by_maps.sum(1)
    by_nodes = -(maps.mT @ by_moved.unsqueeze(-1)).squeeze(-1)
    return grad_points, grad_weights, _summed(by_nodes, nodes), _summed(by_moved, moved), _summed(by_maps, maps)


@blend_maps_backward.register_fake
def _(points: Tensor, indices: Tensor, weights: Tensor, nodes: Tensor, moved: Tensor, maps: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(value, memory_format=torch.contiguous_format) for value in (points, weights, nodes, moved, maps))


def _save_blend(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _blend_gradients(ctx: Any, grad_positions: Tensor, grad_blended: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
    by_points, by_weights, *others = blend_maps_backward(*ctx.saved_tensors, grad_positions, grad_blended, *needed)
    return by_points if needed[0] else None, None, by_weights if needed[1] else None, *others, None, None


blend_maps.register_autograd(_blend_gradients, setup_context=_save_blend)


@torch.library.custom_op("structwm::decompose_maps", mutates_args=())
def decompose_maps(maps: Tensor, rotations: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`deform_axes` and, without gradient, the right factors of the decompositions, as unit quaternions (W, N, 4)."""
    worlds = _worlds(maps, scales)
    if (
        any(len(value) not in (1, worlds) for value in (maps, scales))
        or maps.shape[2:] != (3, 3)
        or rotations.shape != (*scales.shape[:2], 4)
        or scales.shape[1:] != (maps.shape[1], 3)
    ):
        got = ", ".join(str(tuple(value.shape)) for value in (maps, rotations, scales))
        raise ValueError(f"deform_axes: expected maps (W, N, 3, 3), rotations (V, N, 4) and scales (V, N, 3), got {got}.")
    results = _deform_shapes(maps, rotations, scales)
    _decompose(maps, rotations, scales, *results)
    return results


def _decompose(maps: Tensor, rotations: Tensor, scales: Tensor, lefts: Tensor, values: Tensor, rights: Tensor) -> None:
    kernels = skinning_kernels(scalar_of(maps))
    total, lanes = values[..., 0].numel(), 1 if maps.is_cuda else LANES[scalar_of(maps)]
    given = [as_matrices(maps), as_vectors(rotations), as_vectors(scales)]
    outputs = [as_vectors(value) for value in (lefts, values, rights)]
    arguments = [total, lanes, maps.shape[1], int(maps.shape[0] > 1), int(scales.shape[0] > 1), *given, *outputs]
    launch_beside(maps, kernels.decompose, -(-total // lanes), arguments, share=max(1, POINT_SHARE // lanes))


def deform_axes(maps: Tensor, rotations: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation R' and scales s' of splats after a linear map, R' diag(s'^2) R'^T = F R diag(s^2) R^T F^T.

    The gradient is that of the singular value decomposition of F R diag(s). Where two new scales a and b are equal, the axes are not differentiable and
    neither they nor the scales say how a loss depends on the covariance between these axes: 1 / (a^2 - b^2) becomes d / (d^2 + e^2) with d = a^2 - b^2 and
    e = sqrt(rounding) (a^2 + b^2), so that what is known is exact and what is not known is 0.

    Args:
        maps: F, (W or 1, N, 3, 3).
        rotations: quaternions wxyz of R, (V, N, 4), V being W or 1.
        scales: s, (V, N, 3).

    Returns:
        Unit quaternions (W, N, 4) and scales (W, N, 3).
    """
    return decompose_maps(maps, rotations, scales)[:2]


@decompose_maps.register_fake
def _deform_shapes(maps: Tensor, rotations: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    worlds, count = _worlds(maps, scales), maps.shape[1]
    return maps.new_empty(worlds, count, 4), maps.new_empty(worlds, count, 3), maps.new_empty(worlds, count, 4)


@torch.library.custom_op("structwm::decompose_maps_backward", mutates_args=())
def decompose_maps_backward(
    maps: Tensor, rotations: Tensor, scales: Tensor, new_rotations: Tensor, rights: Tensor, grad_rotations: Tensor, grad_scales: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by maps, rotations and scales."""
    kernels = skinning_kernels(scalar_of(maps))
    worlds, count = grad_scales.shape[:2]
    by_maps, by_rotations, by_scales = (maps.new_empty(worlds, count, *shape) for shape in ((3, 3), (4,), (3,)))
    given = [as_vectors(value) for value in (new_rotations, rights, grad_rotations, grad_scales)]
    outputs = [as_matrices(by_maps), as_vectors(by_rotations), as_vectors(by_scales)]
    inputs = [as_matrices(maps), as_vectors(rotations), as_vectors(scales), count, int(maps.shape[0] > 1), int(scales.shape[0] > 1)]
    launch_beside(maps, kernels.deform_backward, worlds * count, [*inputs, *given, *outputs], share=POINT_SHARE)
    return _summed(by_maps, maps), _summed(by_rotations, rotations), _summed(by_scales, scales)


@decompose_maps_backward.register_fake
def _(maps: Tensor, rotations: Tensor, scales: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(value, memory_format=torch.contiguous_format) for value in (maps, rotations, scales))


def _save_deform(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[0], output[2])


def _deform_gradients(ctx: Any, grad_rotations: Tensor, grad_scales: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    return tuple(decompose_maps_backward(*ctx.saved_tensors, grad_rotations, grad_scales))


decompose_maps.register_autograd(_deform_gradients, setup_context=_save_deform)


@torch.library.custom_op("structwm::polar_rotation", mutates_args=())
def polar_rotation(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """`nearest_rotation` and, without gradient, the right factors of the matrices' decompositions, as unit quaternions (N, 4)."""
    lefts, rights = _nearest_shapes(matrices)
    none = matrices.new_empty(0, 4), matrices.new_empty(0, 3)
    _decompose(matrices.unsqueeze(0), none[0], none[1], lefts, matrices.new_empty(len(matrices), 3), rights)
    rotations = quaternion_multiply(lefts, quaternion_conjugate(rights))
    return torch.where(rotations[:, :1] < 0, -rotations, rotations), rights


def nearest_rotation(matrices: Tensor) -> Tensor:
    """Unit quaternions (N, 4) of the rotations R nearest to matrices (N, 3, 3), the largest of trace(R^T matrix).

    Where several are as near (a matrix of rank 1, or one that mirrors with two equal short axes), one of them, and no gradient in the directions between them.
    """
    backward_only("nearest rotation", matrices)
    return polar_rotation(matrices)[0]


@polar_rotation.register_fake
def _nearest_shapes(matrices: Tensor) -> tuple[Tensor, Tensor]:
    return matrices.new_empty(len(matrices), 4), matrices.new_empty(len(matrices), 4)


@torch.library.custom_op("structwm::polar_rotation_backward", mutates_args=())
def polar_rotation_backward(matrices: Tensor, rotations: Tensor, rights: Tensor, grad_rotations: Tensor) -> Tensor:
    """Gradient by the matrices."""
    kernels = skinning_kernels(scalar_of(matrices))
    by_matrices = torch.empty_like(matrices, memory_format=torch.contiguous_format)
    given = [as_vectors(value) for value in (rotations, rights, grad_rotations)]
    launch_beside(matrices, kernels.nearest_backward, len(matrices), [as_matrices(matrices), *given, as_matrices(by_matrices)], share=POINT_SHARE)
    return by_matrices


@polar_rotation_backward.register_fake
def _(matrices: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(matrices, memory_format=torch.contiguous_format)


def _save_polar(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _polar_gradient(ctx: Any, grad_rotations: Tensor, _: Tensor) -> Tensor:
    return polar_rotation_backward(*ctx.saved_tensors, grad_rotations)


polar_rotation.register_autograd(_polar_gradient, setup_context=_save_polar)
