"""Nearest neighbors among points, batched over any leading axes, ragged through masks, differentiable in both sets."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from structwm.kernels import neighbors as operators
from structwm.kernels.launching import backward_only


class Neighbors(NamedTuple):
    """The nearest points of every query, nearest first, of equally distant ones that of lower index first."""

    distances: Tensor  # (*B, Q, k) [m], infinity where there are fewer than k
    indices: Tensor  # int64 (*B, Q, k), -1 there

    @property
    def valid(self) -> Tensor:
        """(*B, Q, k) bool, False where there are fewer than k."""
        return self.indices >= 0


def knn(
    queries: Tensor,
    points: Tensor,
    k: int,
    *,
    query_mask: Tensor | None = None,
    point_mask: Tensor | None = None,
    exclude_self: bool = False,
    norm: Literal["l2", "l1"] = "l2",
) -> Neighbors:
    """The k nearest points of every query, exactly.

    The gradient of a distance is (query - point) / distance by the query (L1: the signs of the differences) and its opposite by the point; it is 0 where the
    distance is 0 and in padding. On CPU the cost is that of two k-d trees, in all about (Q + N) log N, also for clusters, planes and copies.

    Args:
        queries: (*B, Q, 3) or (*B, Q, 2) [m], float32 or float64.
        points: (*B, N, 3) or (*B, N, 2) [m].
        k: how many; may be more than there are points.
        query_mask: (*B, Q) bool, False for queries that get no neighbors.
        point_mask: (*B, N) bool, False for points that are nobody's neighbors; what is masked may hold any numbers.
        exclude_self: query i and point i are the same thing, and no neighbors.
        norm: how distances are measured: `l2`, or `l1`, the sum of absolute differences.

    Raises:
        ValueError: in one sentence, if shapes do not fit, k is below 1, or coordinates that are not masked are not finite.
    """
    if k < 1:
        raise ValueError(f"knn: expected k of at least 1, got {k}.")
    distances, indices, _ = _neighbors("knn", queries, points, k, math.inf, query_mask, point_mask, exclude_self, norm)
    return Neighbors(distances, indices)


def radius_search(
    queries: Tensor,
    points: Tensor,
    radius: float,
    *,
    limit: int,
    query_mask: Tensor | None = None,
    point_mask: Tensor | None = None,
    exclude_self: bool = False,
    norm: Literal["l2", "l1"] = "l2",
) -> tuple[Neighbors, Tensor]:
    """The points within a radius of every query, the `limit` nearest of them, and how many there are in all.

    Points at the radius are within it. The time grows with the counts.

    Args:
        queries: (*B, Q, 3) or (*B, Q, 2) [m], float32 or float64.
        points: (*B, N, 3) or (*B, N, 2) [m].
        radius: [m].
        limit: how many neighbors are given at most.
        query_mask: as for `knn`.
        point_mask: as for `knn`.
        exclude_self: as for `knn`.
        norm: as for `knn`.

    Returns:
        Neighbors (*B, Q, limit), and int32 counts (*B, Q) of all points within the radius, which may be more than `limit`.

    Raises:
        ValueError: as `knn`, and if the radius is not a positive number.
    """
    if limit < 1:
        raise ValueError(f"radius_search: expected a limit of at least 1, got {limit}.")
    if not 0 < radius < operators.LIMIT:
        raise ValueError(f"radius_search: expected a radius above 0 m and below {operators.LIMIT:.0e} m, got {radius}; `knn` has no radius.")
    distances, indices, counts = _neighbors("radius_search", queries, points, limit, radius, query_mask, point_mask, exclude_self, norm)
    return Neighbors(distances, indices), counts


def mean_neighbor_distance(points: Tensor, *, count: int = 3, mask: Tensor | None = None) -> Tensor:
    """The mean distance of each point (*B, N, 3) to its `count` nearest others: (*B, N) [m]; 0 for a point without others and for what is masked."""
    near = knn(points, points, count, query_mask=mask, point_mask=mask, exclude_self=True)
    return torch.where(near.valid, near.distances, 0.0).sum(-1) / near.valid.sum(-1).clamp_min(1)


def in_space(
    what: str, names: tuple[str, str], sets: tuple[Tensor, Tensor], masks: tuple[Tensor | None, Tensor | None]
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Two sets of points (*B, N, 2) or (*B, N, 3) as batches (B, N, 3), in the plane z = 0 if they have no z, and their masks as (B, N).

    One tensor given twice stays one, so that it is put in order once.

    Raises:
        ValueError: in one sentence, if shapes, types or masks do not fit.
    """
    first, second = sets
    for name, value, mask in zip(names, sets, masks, strict=True):
        if value.ndim < 2 or value.shape[-1] not in (2, 3):
            raise ValueError(f"{what}: expected {name} (*B, N, 3) or (*B, N, 2), got {tuple(value.shape)}.")
        if value.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{what}: expected {name} in float32 or float64, got {value.dtype}.")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != value.shape[:-1]):
            raise ValueError(f"{what}: expected the mask of {name} as bool {tuple(value.shape[:-1])}, got {mask.dtype} {tuple(mask.shape)}.")
    if first.shape[:-2] != second.shape[:-2] or first.shape[-1] != second.shape[-1]:
        raise ValueError(f"{what}: expected {names[0]} and {names[1]} of equal batch axes and dimensions, got {tuple(first.shape)} and {tuple(second.shape)}.")
    if first.dtype != second.dtype or first.device != second.device:
        raise ValueError(
            f"{what}: expected {names[0]} and {names[1]} of one type on one device, got {first.dtype} on {first.device} and {second.dtype} on {second.device}."
        )
    batch = math.prod(first.shape[:-2])

    def flat(points: Tensor) -> Tensor:
        points = points.reshape(batch, *points.shape[-2:])
        return torch.nn.functional.pad(points, (0, 1)) if points.shape[-1] == 2 else points

    space = flat(first)
    first_mask, second_mask = (None if mask is None else mask.reshape(batch, mask.shape[-1]) for mask in masks)
    return space, space if second is first else flat(second), first_mask, second_mask


def _neighbors(
    what: str,
    queries: Tensor,
    points: Tensor,
    k: int,
    radius: float,
    query_mask: Tensor | None,
    point_mask: Tensor | None,
    exclude_self: bool,
    norm: str,
) -> tuple[Tensor, Tensor, Tensor]:
    flat = in_space(what, ("queries", "points"), (queries, points), (query_mask, point_mask))
    if norm not in ("l2", "l1"):
        raise ValueError(f"{what}: expected norm l2 or l1, got {norm}.")
    if exclude_self and queries.shape != points.shape:
        raise ValueError(f"{what}: exclude_self expects a query for every point, got {queries.shape[-2]} queries and {points.shape[-2]} points.")
    backward_only(what, queries, points)
    results = operators.neighbors(*flat, k, radius, norm == "l1", exclude_self)
    distances, indices, counts = (value.view(*queries.shape[:-2], *value.shape[1:]) for value in results)
    return distances, indices, counts
