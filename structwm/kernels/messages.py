"""Messages along the edges of a graph as an operator of torch, `structwm::edge_messages`, with shapes for tracing and formulas for first gradients."""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.nn.functional import pad

from .launching import as_array, backward_only, launch_beside, scalar_of
from .messages_kernels import DEEPEST, LANES, WARP, message_kernels

RECEIVER_SHARE = 512  # receivers a CPU thread must have to be worth starting


def edge_messages(receivers: Tensor, senders: Tensor, edges: Tensor, table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """y_i = sum_k w_ik silu(r_i + s_j(i,k) + e_ik T), what P problems' receivers hear from K senders each.

    Nothing of the size of edges times W is kept for the gradient. A weight of 0 means that there is no edge: it costs nothing and has no gradient, not even by
    its weight.

    Args:
        receivers: r, (P, R, W).
        senders: s, (P, Q, W).
        edges: e, (P, R, K, D), D at most 32.
        table: T, (D, W).
        index: int32 (P, R, K), j < Q.
        weights: w, (P, R, K).

    Returns:
        (P, R, W).

    Raises:
        ValueError: on shapes that do not fit, or forward-mode differentiation.
        TypeError: on other numbers than float32 and float64.
    """
    backward_only("edge_messages", receivers, senders, edges, table, weights)
    width, lanes = receivers.shape[-1], LANES[scalar_of(receivers)]
    if width % lanes == 0:
        return torch.ops.structwm.edge_messages(receivers, senders, edges, table, index, weights)  # type: ignore[no-any-return]
    more = (0, lanes - width % lanes)
    heard: Tensor = torch.ops.structwm.edge_messages(pad(receivers, more), pad(senders, more), edges, pad(table, more), index, weights)
    return heard[..., :width]


@torch.library.custom_op("structwm::edge_messages", mutates_args=())
def _edge_messages(receivers: Tensor, senders: Tensor, edges: Tensor, table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    problems, listeners, width = receivers.shape
    slots, depth = edges.shape[2:]
    shapes = {"senders": (problems, senders.shape[1], width), "edges": (problems, listeners, slots, depth), "table": (depth, width)}
    shapes |= {"index": (problems, listeners, slots), "weights": (problems, listeners, slots)}
    given = {"senders": senders, "edges": edges, "table": table, "index": index, "weights": weights}
    if depth > DEEPEST:
        raise ValueError(f"edge_messages: expected at most {DEEPEST} numbers of an edge, got {depth}.")
    if any(tuple(given[name].shape) != shape for name, shape in shapes.items()):
        raise ValueError(f"edge_messages: expected {shapes}, got { ({name: tuple(value.shape) for name, value in given.items()}) }.")
    heard = torch.empty_like(receivers, memory_format=torch.contiguous_format)
    lanes = WARP if receivers.is_cuda else 1
    kernel = message_kernels(scalar_of(receivers)).forward
    arguments = [lanes, *_graph(receivers, senders, edges, table, index, weights), as_array(heard)]
    launch_beside(receivers, kernel, problems * listeners * lanes, arguments, share=RECEIVER_SHARE)
    return heard


def _graph(receivers: Tensor, senders: Tensor, edges: Tensor, table: Tensor, index: Tensor, weights: Tensor) -> list[Any]:
    numbers = [senders.shape[1], receivers.shape[1], edges.shape[2], edges.shape[3], receivers.shape[2]]
    return [*numbers, *(as_array(value) for value in (receivers, senders, edges, table, index.to(torch.int32), weights))]


@_edge_messages.register_fake
def _(receivers: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(receivers, memory_format=torch.contiguous_format)


@torch.library.custom_op("structwm::edge_messages_backward", mutates_args=())
def _backward(
    receivers: Tensor, senders: Tensor, edges: Tensor, table: Tensor, index: Tensor, weights: Tensor, given: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by receivers, senders, edges, table and weights."""
    graph = [*_graph(receivers, senders, edges, table, index, weights), as_array(given)]
    kernels = message_kernels(scalar_of(receivers))
    if receivers.is_cuda:
        by_z, said = (edges.new_empty(*edges.shape[:3], table.shape[1]) for _ in range(2))
        launch_beside(receivers, kernels.edge, weights.numel() * WARP, [WARP, *graph, as_array(by_z), as_array(said)], share=1)
        rows = (index.long() + torch.arange(len(senders), device=index.device)[:, None, None] * senders.shape[1]).flatten()
        by_senders = torch.zeros_like(senders).view(-1, senders.shape[-1]).index_add_(0, rows, by_z.flatten(0, 2)).view_as(senders)
        return by_z.sum(2), by_senders, by_z @ table.T, edges.flatten(0, 2).T @ by_z.flatten(0, 2), said.sum(-1)
    problems = len(receivers)
    by_table = table.new_zeros(problems, *table.shape)
    found = [torch.empty_like(receivers), torch.zeros_like(senders), torch.empty_like(edges), by_table, torch.empty_like(weights)]
    found = [value.contiguous() for value in found]
    launch_beside(receivers, kernels.backward, problems, [*graph, *(wp.from_torch(value.view(-1)) for value in found)], share=1)
    return found[0], found[1], found[2], found[3].sum(0), found[4]


@_backward.register_fake
def _(receivers: Tensor, senders: Tensor, edges: Tensor, table: Tensor, index: Tensor, weights: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(value, memory_format=torch.contiguous_format) for value in (receivers, senders, edges, table, weights))


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
    by_receivers, by_senders, by_edges, by_table, by_weights = _backward(*ctx.saved_tensors, given)
    return by_receivers, by_senders, by_edges, by_table, None, by_weights


_edge_messages.register_autograd(_gradients, setup_context=_save)
