"""Motions of a rope's grippers that are worth trying first: to where the ends of the goal are seen, straight or over an arc."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor

from structwm.geometry import graph_distances, graph_pieces, knn

NEIGHBOURS = 8  # of a point along which ways through a cloud go


def shape_ends(cloud: Tensor) -> Tensor:
    """The two ends of the thin shape that points (M, 3) [m] lie on, (2, 3): those farthest apart along it (of the largest piece, if it has several)."""
    count = len(cloud)
    near = knn(cloud, cloud, min(NEIGHBOURS, count - 1), exclude_self=True)
    edges = torch.stack((torch.arange(count).repeat_interleave(near.indices.shape[1]), near.indices.flatten()), -1)
    piece = graph_pieces(count, edges)
    largest = (piece == piece.bincount().argmax()).nonzero().flatten()
    first = last = largest[:1]
    for _ in range(2):  # the farthest from anywhere is an end, and the farthest from that the other
        ways = graph_distances(count, edges, near.distances.flatten(), first)[0, largest]
        last, first = first, largest[ways.argmax()][None]
    return cloud[torch.cat((last, first))]


def carry_proposals(places: Tensor, ends: Tensor, *, horizon: int, dt: float, speed: float, lifts: Sequence[float]) -> Tensor:
    """Velocities of grippers that carry the rope's ends to those of a shape, each to either, at less than the greatest speed and without jumps.

    Args:
        places: of the grippers (B, G, 3) [m], G of one or two.
        ends: of the shapes (B, 2, 3) [m].
        horizon: H steps; what takes longer is cut off.
        dt: of a step [s].
        speed: bound of each component [m/s].
        lifts: heights of arcs over which they go [m].

    Returns:
        (B, P, H, 3 G) [m/s], P of twice as many as there are arcs, and standing still as the last.
    """
    count, grippers = places.shape[:2]
    found = [places.new_zeros(count, horizon, 3 * grippers)]
    times = torch.arange(horizon + 1).to(places)
    for order in permutations(range(2), grippers):
        way = ends[:, list(order)] - places
        for lift in lifts:
            fastest = 0.5 * math.pi * (way.abs().amax((1, 2)) + 2 * lift)  # a cosine is this much faster in its middle than on average
            steps = (fastest / (0.9 * speed * dt)).ceil().clamp_min(2.0)
            share = (times / steps[:, None]).clamp_max(1.0)
            along = (0.5 - 0.5 * torch.cos(math.pi * share))[:, :, None, None] * way[:, None]
            up = torch.stack((torch.zeros_like(share), torch.zeros_like(share), lift * torch.sin(math.pi * share)), -1)
            found.insert(-1, ((along + up[:, :, None]).diff(dim=1) / dt).flatten(2))
    return torch.stack(found, 1)
