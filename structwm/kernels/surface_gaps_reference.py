"""Gaps between points and surfaces in plain torch, with gradients: of chosen pairs, and of all pairs as the oracle of the kernel in the tests."""

from __future__ import annotations

import torch
from torch import Tensor

from .surface_gaps_kernels import ABOVE, SHARP, STEEPEST


def gaps_to(queries: Tensor, points: Tensor, normals: Tensor, mask: Tensor, nearest: Tensor, spacing: Tensor) -> tuple[Tensor, Tensor]:
    """Gaps (E,) [m] between queries and things, and directions (E, 3) out of the things, by the formula of `surface_gaps_kernels`.

    Args:
        queries: (E, 3) [m].
        points: (E, K, 3) of the thing that each query is near [m].
        normals: (E, K, 3), 0 where none is known.
        mask: bool (E, K).
        nearest: int64 (E,) which of the K points is nearest.
        spacing: (E,) h [m].
    """
    h = spacing.clamp_min(1e-9).unsqueeze(-1)
    away = queries.unsqueeze(1) - points
    square, along = away.square().sum(-1), (away * normals).sum(-1)
    own = nearest[:, None]
    foot = points.gather(1, own.unsqueeze(-1).expand(-1, -1, 3))
    aside = foot - points
    below = (aside * normals).sum(-1) <= ABOVE * aside.square().sum(-1).add(1e-24).sqrt()
    exponent = (along - along.gather(1, own)) / (SHARP * h) - (square - square.gather(1, own)) / h.square()
    known = normals.square().sum(-1) > 0
    weights = torch.where(mask & known & below, exponent.clamp_max(STEEPEST), -torch.inf).exp()
    total, mean = weights.sum(-1), (weights.unsqueeze(1) @ normals).squeeze(1)
    length = mean.square().sum(-1).add(1e-24).sqrt()
    ball = queries - foot.squeeze(1)
    radius = ball.square().sum(-1).add(1e-24).sqrt()
    plane = known.gather(1, own).squeeze(-1) & (length > 1e-3 * total)
    gap = torch.where(plane, (weights * along).sum(-1) / torch.where(plane, total, 1.0), radius)
    return gap, torch.where(plane.unsqueeze(-1), mean / length.unsqueeze(-1), ball / radius.clamp_min(1e-9).unsqueeze(-1))


def surface_gaps(
    points: Tensor, normals: Tensor, owner: Tensor, order: Tensor, begin: Tensor, spacing: Tensor, reach: Tensor, moving: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `structwm.kernels.surface_gaps.surface_gaps`; `order` and `begin` are not read."""
    problems, count = owner.shape
    distance = torch.cdist(points, points)
    among = points.unsqueeze(1).expand(-1, count, -1, -1).flatten(0, 1)
    found = []
    for thing in range(spacing.shape[1]):
        mine = owner == thing
        least, nearest = torch.where(mine.unsqueeze(1), distance, torch.inf).min(-1)
        there = (owner >= 0) & ~mine & (least <= reach + (moving + spacing)[:, thing, None])
        mask, planes = (value.repeat_interleave(count, 0) for value in (mine, normals))
        gap, out = gaps_to(points.flatten(0, 1), among, planes, mask, nearest.flatten(), spacing[:, thing].repeat_interleave(count))
        gap, out = gap.view(problems, count), out.view(problems, count, 3)
        found.append((torch.where(there, nearest.int(), -1), torch.where(there, gap, 0.0), torch.where(there.unsqueeze(-1), out, 0.0)))
    nearest, gap, out = (torch.stack(values, 2) for values in zip(*found, strict=True))
    return nearest, gap, out
