"""Who acts on whom: neighbours within an object, which last, and points of other things that are near, which change from step to step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.geometry.neighbors import knn

DENSE = 512  # points of a problem up to which all distances are looked at, instead of trees of each object


@dataclass(frozen=True)
class Edges:
    """The K nodes that act on each of R nodes, in P problems."""

    index: Tensor  # int64 (P, R, K), the node itself where there are fewer
    valid: Tensor  # bool (P, R, K)


@dataclass(frozen=True)
class Material:
    """What lasts over a rollout, in P problems of N points, or in one that stands for all."""

    edges: Edges  # (P or 1, N, K) neighbours in the rest shape, of the same object
    distances: Tensor  # (P or 1, N, K) between them at rest [m]
    member: Tensor  # (P or 1, O, N) 1 where a point belongs to an object; of points that are masked, 0

    def of(self, problems: slice) -> Material:
        """Of some of the problems."""
        return Material(Edges(self.edges.index[problems], self.edges.valid[problems]), self.distances[problems], self.member[problems])


def material(rest: Tensor, object_ids: Tensor, mask: Tensor, k: int) -> Material:
    """The graph within objects: the k nearest points of the same object in its rest shape.

    Args:
        rest: (P, N, 3) [m].
        object_ids: int64 (P, N).
        mask: bool (P, N).
        k: neighbours.
    """
    shape, rest, objects = rest, rest.detach(), int(object_ids.max()) + 1 if object_ids.numel() else 1
    member = ((object_ids.unsqueeze(1) == torch.arange(objects, device=rest.device)[:, None]) & mask.unsqueeze(1)).to(rest)
    centre = (member @ rest) / member.sum(-1, keepdim=True).clamp_min(1.0)
    local = rest - centre.gather(1, object_ids.unsqueeze(-1).expand(-1, -1, 3))
    extent = torch.where(mask.unsqueeze(-1), local, 0.0).abs().amax((1, 2), keepdim=True)
    apart = torch.nn.functional.pad(object_ids.unsqueeze(-1) * (4.0 * extent + 1e-6), (0, 2))  # beside one another, so that none is near another
    near = knn(local + apart, local + apart, k, query_mask=mask, point_mask=mask, exclude_self=True)
    own = torch.arange(rest.shape[1], device=rest.device)[:, None]
    index = torch.where(near.valid, near.indices, own)
    valid = near.valid & (object_ids.gather(1, index.flatten(1)).view_as(index) == object_ids.unsqueeze(-1))
    index = torch.where(valid, index, own)
    rows = shape.gather(1, index.flatten(1).unsqueeze(-1).expand(-1, -1, 3)).view(*index.shape, 3)
    return Material(Edges(index, valid), (rows - shape.unsqueeze(2)).square().sum(-1).add(1e-18).sqrt(), member)


def contacts(nodes: Tensor, owner: Tensor, mask: Tensor, k: int, radius: float, receivers: int) -> Edges:
    """The k nearest nodes of other things within a radius, of the first `receivers` nodes.

    Args:
        nodes: (P, Q, 3) [m].
        owner: int64 (P, Q), equal where nodes belong to the same thing.
        mask: bool (P, Q).
        k: neighbours.
        radius: [m].
        receivers: R.
    """
    nodes = nodes.detach()
    own = torch.arange(receivers, device=nodes.device)[:, None]
    if nodes.shape[1] <= DENSE:
        k = min(k, nodes.shape[1])
        away = torch.cdist(nodes[:, :receivers], nodes)
        barred = (owner[:, :receivers, None] == owner[:, None]) | ~mask[:, None] | ~mask[:, :receivers, None] | (away > radius)
        index = own.expand(*away.shape[:2], k).clone()
        valid = torch.zeros_like(index, dtype=torch.bool)
        some = ~barred.all(-1)  # most points are near nothing
        distance, nearest = away.masked_fill_(barred, torch.inf)[some].topk(k, -1, largest=False)
        valid[some] = found = distance.isfinite()
        index[some] = torch.where(found, nearest, index[some])
        return Edges(index, valid)
    index = own.expand(nodes.shape[0], receivers, k).clone()
    valid = torch.zeros_like(index, dtype=torch.bool)
    for thing in owner[mask].unique().tolist():
        mine = owner == thing
        asking = mine[:, :receivers] & mask[:, :receivers]
        if not bool(asking.any()):
            continue
        near = knn(nodes[:, :receivers], nodes, k, query_mask=asking, point_mask=mask & ~mine)
        found = asking.unsqueeze(-1) & near.valid & (near.distances <= radius)
        index, valid = torch.where(found, near.indices, index), valid | found
    return Edges(index, valid)


def rows_of(edges: Edges, nodes: int, problems: int) -> Tensor:
    """Where the senders of edges stand in (P * nodes) rows, int64 (P * R * K)."""
    first = torch.arange(problems, device=edges.index.device)[:, None, None] * nodes
    return (edges.index + first).reshape(-1)


def taken(values: Tensor, rows: Tensor, receivers: int, k: int) -> Tensor:
    """The senders' values (P, R, K, W) of values (P, Q, W)."""
    return values.reshape(-1, values.shape[-1]).index_select(0, rows).view(values.shape[0], receivers, k, values.shape[-1])
