"""Skins and turns of what hangs on a chain of nodes, as of a rope: a point follows nodes that are near along it, never those of another strand near by."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.geometry.rotations import quaternion_conjugate, quaternion_multiply
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


def chain_rotations(nodes: Tensor, moved_nodes: Tensor) -> Tensor:
    """How the nodes of a chain turned, without twist: quaternions wxyz (*B, M, 4).

    Directions along the chain follow exactly. About them, the nodes turn as in a rod that is not twisted: by parallel transport along the chain before and
    after (Bishop, American Mathematical Monthly 1975; Bergou et al., SIGGRAPH 2008, section 4.2.2), and as a whole so that the turns are the least on average.
    Unlike a fit to neighbours, a rope that bends in another plane than before does not roll over for it.

    Args:
        nodes: (*B, M, 3) where the nodes were, in their order [m].
        moved_nodes: (*B, M, 3) where they are now [m].

    Raises:
        ValueError: if shapes do not fit, or there are fewer than two nodes.
    """
    if nodes.shape[-2:] != moved_nodes.shape[-2:] or nodes.shape[-1] != 3 or nodes.shape[-2] < 2:
        raise ValueError(f"chain_rotations: expected two sets of nodes (*B, M, 3), M of 2 or more, got {tuple(nodes.shape)} and {tuple(moved_nodes.shape)}.")
    batch = torch.broadcast_shapes(nodes.shape[:-2], moved_nodes.shape[:-2])
    before, after = _tangents(nodes), _tangents(moved_nodes)
    straight = shortest_rotation(before, after).expand(*batch, -1, 4)
    along_before, along_after = (shortest_rotation(one[..., :-1, :], one[..., 1:, :]) for one in (before, after))
    turn = straight[..., 0, :]
    turns = [turn]
    for edge in range(nodes.shape[-2] - 1):
        turn = quaternion_multiply(along_after[..., edge, :], quaternion_multiply(turn, quaternion_conjugate(along_before[..., edge, :])))
        turns.append(turn)
    carried = torch.stack(turns, -2)
    # about the direction after, from the shortest turn to the carried one: half the angle is in (w, part of the vector along it)
    apart = quaternion_multiply(carried, quaternion_conjugate(straight))
    cosine, sine = apart[..., 0], (apart[..., 1:] * after).sum(-1)
    sure = 1 + (before * after).sum(-1)  # where a direction is reversed, the shortest turn is any
    double = (sure * (cosine**2 - sine**2)).sum(-1), (sure * 2 * cosine * sine).sum(-1)
    half = torch.atan2(double[1], double[0]).unsqueeze(-1) / 2
    back = torch.cat((half.cos().unsqueeze(-1).expand_as(after[..., :1]), -half.sin().unsqueeze(-1) * after), -1)
    return quaternion_multiply(back, carried)


def shortest_rotation(a: Tensor, b: Tensor) -> Tensor:
    """Unit quaternions (*B, 4) that turn unit vectors a (*B, 3) to b (*B, 3) the shortest way; by half a turn about any axis across where they are opposite."""
    a, b = torch.broadcast_tensors(a, b)
    real = 1 + (a * b).sum(-1, keepdim=True)
    least = torch.zeros_like(a).scatter(-1, a.detach().abs().argmin(-1, keepdim=True), 1.0)
    across = torch.linalg.cross(a, least)
    opposite = real < 1e-6
    whole = torch.cat((torch.where(opposite, 0.0, real), torch.where(opposite, across, torch.linalg.cross(a, b))), -1)
    return torch.nn.functional.normalize(whole, dim=-1)


def _tangents(nodes: Tensor) -> Tensor:
    """Directions (*B, M, 3) along a chain at its nodes."""
    edges = torch.nn.functional.normalize(nodes[..., 1:, :] - nodes[..., :-1, :], dim=-1)
    return torch.nn.functional.normalize(torch.cat((edges[..., :1, :], edges[..., 1:, :] + edges[..., :-1, :], edges[..., -1:, :]), -2), dim=-1)
