"""Distances between sets of points: chamfer, Hausdorff and earth mover's, batched over any leading axes, ragged through masks, differentiable in both sets."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from structwm.geometry.neighbors import in_space
from structwm.kernels import neighbors as operators
from structwm.kernels.launching import READS_BACK, backward_only

Direction = Literal["both", "a_to_b", "b_to_a"]
MATCHED = 4_000_000  # costs of pairs held at once


def chamfer(
    a: Tensor,
    b: Tensor,
    *,
    norm: Literal["l2", "squared", "l1"] = "l2",
    direction: Direction = "both",
    mask_a: Tensor | None = None,
    mask_b: Tensor | None = None,
) -> Tensor:
    """Mean over A of the distance to the nearest point of B, plus the same from B to A.

    Args:
        a: (*B, N, 3) or (*B, N, 2) [m], float32 or float64.
        b: (*B, M, 3) or (*B, M, 2) [m].
        norm: `l2` unsquared [m]; `squared` L2 [m^2]; `l1`, the sum of absolute differences, by which the nearest is also chosen [m].
        direction: `a_to_b` is only the mean over A, `b_to_a` only that over B.
        mask_a: (*B, N) bool, the points of A that count; means are over these.
        mask_b: (*B, M) bool.

    Returns:
        (*B).

    Raises:
        ValueError: in one sentence, if shapes do not fit, coordinates are not finite, or a set has no valid point.
    """
    if norm not in ("l2", "squared", "l1"):
        raise ValueError(f"chamfer: expected norm l2, squared or l1, got {norm}.")
    parts = []
    for distances, mask in _nearest("chamfer", a, b, mask_a, mask_b, direction, norm == "l1"):
        if norm == "squared":
            distances = distances.square()
        parts.append(distances.mean(-1) if mask is None else torch.where(mask, distances, 0.0).sum(-1) / mask.sum(-1))
    return sum(parts[1:], parts[0])


def hausdorff(a: Tensor, b: Tensor, *, direction: Direction = "both", mask_a: Tensor | None = None, mask_b: Tensor | None = None) -> Tensor:
    """The greatest distance from a point of one set to the nearest of the other: the greater of the two directed distances, or only one.

    Args:
        a: (*B, N, 3) or (*B, N, 2) [m], float32 or float64.
        b: (*B, M, 3) or (*B, M, 2) [m].
        direction: `a_to_b` is only the greatest distance from a point of A to B, `b_to_a` the other.
        mask_a: (*B, N) bool, the points of A that count.
        mask_b: (*B, M) bool.

    Returns:
        (*B) [m]; the gradient is that of the one pair that decides.

    Raises:
        ValueError: as `chamfer`.
    """
    parts = []
    for distances, mask in _nearest("hausdorff", a, b, mask_a, mask_b, direction, False):
        parts.append((distances if mask is None else torch.where(mask, distances, -1.0)).max(-1).values)
    return parts[0] if len(parts) == 1 else torch.maximum(*parts)


def emd(a: Tensor, b: Tensor, *, mask_a: Tensor | None = None, mask_b: Tensor | None = None) -> Tensor:
    """Earth mover's distance of sets of equal size: the mean distance under the one-to-one matching for which it is least.

    The matching is `scipy.optimize.linear_sum_assignment`, on CPU, cubic in the number of points: some seconds for 5,000.

    Args:
        a: (*B, N, 3) or (*B, N, 2) [m], float32 or float64.
        b: (*B, M, 3) or (*B, M, 2) [m].
        mask_a: (*B, N) bool, the points of A that count.
        mask_b: (*B, M) bool; as many count as in A.

    Returns:
        (*B) [m], differentiable through the matched pairs; a pair at distance 0 has no gradient.

    Raises:
        ValueError: in one sentence, if shapes do not fit, coordinates are not finite, a set has no valid point, or the sets differ in how many they have.
    """
    space_a, space_b, *masks = in_space("emd", ("a", "b"), (a, b), (mask_a, mask_b))
    partners = match(space_a.detach(), space_b.detach(), *masks)
    matched = partners >= 0
    pairs = space_a - space_b.gather(1, partners.clamp_min(0).unsqueeze(-1).expand(-1, -1, 3))
    distances = torch.where(matched.unsqueeze(-1), pairs, 0.0).norm(dim=-1)
    return (distances.sum(-1) / matched.sum(-1)).view(a.shape[:-2])


@torch.library.custom_op("structwm::match", mutates_args=(), **READS_BACK)
def match(a: Tensor, b: Tensor, mask_a: Tensor | None, mask_b: Tensor | None) -> Tensor:
    """The index of each point's partner in the matching of least total distance: `a` (B, N, 3) and `b` (B, M, 3) to int64 (B, N), -1 where masked."""
    points = [value.detach().double().cpu() for value in (a, b)]
    if mask_a is None and mask_b is None and a.shape[1] == b.shape[1] > 0:
        _check_coordinates(*points)
        rounds = zip(*(value.split(max(1, MATCHED // a.shape[1] ** 2)) for value in points), strict=True)
        columns = [linear_sum_assignment(costs)[1] for part in rounds for costs in _costs(*part)]
        return torch.from_numpy(np.stack(columns)).to(a.device) if columns else torch.full(a.shape[:2], -1, dtype=torch.int64, device=a.device)
    partners = torch.full(a.shape[:2], -1, dtype=torch.int64)
    masks = [torch.ones(value.shape[:2], dtype=torch.bool) if mask is None else mask.cpu() for value, mask in ((a, mask_a), (b, mask_b))]
    for item in range(len(a)):
        places = [mask[item].nonzero().squeeze(-1) for mask in masks]
        first, second = (value[item, place] for value, place in zip(points, places, strict=True))
        if len(first) != len(second) or len(first) == 0:
            raise ValueError(
                f"emd: expected as many valid points in a as in b and at least one, got {len(first)} and {len(second)} in set {item}; draw equally many."
            )
        _check_coordinates(first, second)
        partners[item, places[0]] = places[1][torch.from_numpy(linear_sum_assignment(_costs(first, second))[1])]
    return partners.to(a.device)


def _check_coordinates(*sets: Tensor) -> None:
    if not all(bool((points.abs() < operators.LIMIT).all()) for points in sets):
        raise ValueError("emd: expected finite coordinates below 1e18 m, got others; mask or remove those points.")


def _costs(a: Tensor, b: Tensor) -> np.ndarray:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").numpy()


@match.register_fake
def _(a: Tensor, b: Tensor, mask_a: Any, mask_b: Any) -> Tensor:
    return a.new_empty(a.shape[:2], dtype=torch.int64)


def _nearest(
    what: str, a: Tensor, b: Tensor, mask_a: Tensor | None, mask_b: Tensor | None, direction: Direction, sum_of_absolutes: bool
) -> list[tuple[Tensor, Tensor | None]]:
    """Distances (*B, N) to the nearest of the other set, and the mask that goes with them, for each direction that is asked for."""
    flat = in_space(what, ("a", "b"), (a, b), (mask_a, mask_b))
    if direction not in ("both", "a_to_b", "b_to_a"):
        raise ValueError(f"{what}: expected direction both, a_to_b or b_to_a, got {direction}.")
    backward_only(what, a, b)
    there, _, back, _ = operators.nearest_both(*flat, direction != "b_to_a", direction != "a_to_b", sum_of_absolutes)
    sides = {"a_to_b": (there.view(*a.shape[:-2], there.shape[1]), mask_a), "b_to_a": (back.view(*a.shape[:-2], back.shape[1]), mask_b)}
    return list(sides.values()) if direction == "both" else [sides[direction]]
