"""Springs between the points of a deformable thing: who is joined to whom."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.geometry.neighbors import radius_search


def spring_edges(points: Tensor, radius: float, neighbours: int, *, join: bool = True) -> Tensor:
    """Pairs of points that are joined by a spring, int64 (M, 2), each once, the lower index first, in order.

    Every point is joined to its nearest others within a radius, at most so many (the topology of PhysTwin: Jiang et al., ICCV 2025, section 3.2); a point may
    get more by being among the nearest of others. Where this leaves pieces apart, the nearest pieces are joined by the shortest springs there are, whatever
    their length, until all hang together; of pieces of many points, several pairs are joined, so that they do not hang by one.

    Args:
        points: (N, 3) [m].
        radius: longest spring, but for those that join pieces [m].
        neighbours: of a point at most.
        join: join pieces that lie apart; else `graph_pieces` tells them.

    Raises:
        ValueError: in one sentence, on fewer than two points, two points in one place, or a radius or number that cannot be.
    """
    if points.ndim != 2 or points.shape[-1] != 3 or len(points) < 2:
        raise ValueError(f"spring_edges: expected at least two points (N, 3), got {tuple(points.shape)}.")
    if neighbours < 1:
        raise ValueError(f"spring_edges: expected at least one neighbour, got {neighbours}.")
    points = points.detach()
    near, _ = radius_search(points, points, radius, limit=min(neighbours, len(points) - 1), exclude_self=True)
    if bool(((near.distances == 0) & near.valid).any()):
        raise ValueError(f"spring_edges: expected points in different places, got number {int((near.distances == 0).any(-1).nonzero()[0])} twice; thin them.")
    start = torch.arange(len(points), device=points.device).unsqueeze(-1).expand_as(near.indices)
    edges = torch.stack((start, near.indices), -1)[near.valid]
    edges = _sorted(edges)
    while join and int((labels := graph_pieces(len(points), edges)).max()):
        edges = _sorted(torch.cat((edges, _bridges(points, labels))))
    return edges


def _sorted(edges: Tensor) -> Tensor:
    return torch.stack((edges.amin(-1), edges.amax(-1)), -1).unique(dim=0)


def _bridges(points: Tensor, labels: Tensor, most: int = 3) -> Tensor:
    """Shortest pairs between the smallest piece and the rest, as many as the piece has points, up to `most`; all from different points."""
    from scipy.spatial import cKDTree

    smallest = int(torch.bincount(labels).argmin())
    own, rest = (labels == smallest).nonzero()[:, 0], (labels != smallest).nonzero()[:, 0]
    places = points.cpu().double().numpy()
    distance, other = cKDTree(places[rest.cpu().numpy()]).query(places[own.cpu().numpy()])
    first = torch.from_numpy(distance).argsort()[:most]
    return torch.stack((own[first], rest[torch.from_numpy(other)[first].to(rest.device)]), -1)


def graph_pieces(count: int, edges: Tensor) -> Tensor:
    """The piece of each of `count` points that edges (M, 2) join, int64 (count,), numbered from 0."""
    from scipy.sparse.csgraph import connected_components

    labels = connected_components(_matrix(count, edges, torch.ones(len(edges))), directed=False)[1]
    return torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(edges.device)


def graph_distances(count: int, edges: Tensor, lengths: Tensor, sources: Tensor) -> Tensor:
    """Shortest ways along edges (M, 2) of lengths (M,) [m] from some points (S,) to all: (S, count) [m], infinity where there is none (Dijkstra)."""
    from scipy.sparse.csgraph import dijkstra

    found = dijkstra(_matrix(count, edges, lengths), directed=False, indices=sources.cpu().numpy())
    return torch.from_numpy(np.asarray(found)).to(lengths)


def _matrix(count: int, edges: Tensor, lengths: Tensor) -> Any:
    """Lengths of edges as a sparse matrix."""
    from scipy.sparse import coo_matrix

    first, second = edges.cpu().numpy().T
    return coo_matrix((lengths.detach().cpu().double().numpy(), (first, second)), shape=(count, count)).tocsr()
