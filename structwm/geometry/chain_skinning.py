"""Skins of points along a chain of nodes, as of a rope: a point follows nodes that are near along it, never those of another strand near by."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.geometry.skinning import Skin


def chain_places(points: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Where on the polyline of nodes (M, 3) each of points (N, 3) has its nearest place: along it (N,) in edges, and how far off (N,) [m]."""
    start, step = nodes[:-1], nodes[1:] - nodes[:-1]
    best = torch.full((len(points),), torch.inf).to(points)
    place = torch.zeros_like(best)
    for edge in range(len(step)):
        apart = points - start[edge]
        share = (apart @ step[edge] / step[edge].square().sum().clamp_min(1e-18)).clamp(0, 1)
        distance = (apart - share.unsqueeze(-1) * step[edge]).norm(dim=-1)
        nearer = distance < best
        best, place = torch.where(nearer, distance, best), torch.where(nearer, edge + share, place)
    return place, best


def chain_skin(points: Tensor, nodes: Tensor, *, k: int = 4, bandwidth: float = 0.7) -> Skin:
    """The k nodes nearest to each point along the chain, with weights exp(-d^2 / (2 bandwidth^2)) of the distances along it.

    Args:
        points: (N, 3) [m].
        nodes: (M, 3) [m] in their order along the chain.
        k: nodes that a point follows.
        bandwidth: in edges; larger is smoother.

    Raises:
        ValueError: if shapes do not fit, or there are fewer than two nodes.
    """
    if points.ndim != 2 or nodes.ndim != 2 or points.shape[-1] != 3 or nodes.shape[-1] != 3 or len(nodes) < 2 or k < 1 or not bandwidth > 0:
        raise ValueError(
            f"chain_skin: expected points (N, 3), nodes (M, 3) with M of 2 or more, k of 1 or more and a bandwidth above 0, got {tuple(points.shape)}, "
            f"{tuple(nodes.shape)}, {k} and {bandwidth}."
        )
    k = min(k, len(nodes))
    place, _ = chain_places(points.detach(), nodes.detach())
    first = (place - (k - 1) / 2).round().long().clamp(0, len(nodes) - k)
    indices = first.unsqueeze(-1) + torch.arange(k, device=points.device)
    weights = torch.softmax(-((indices - place.unsqueeze(-1)) ** 2) / (2 * bandwidth**2), -1)
    return Skin(indices, weights, len(nodes))
