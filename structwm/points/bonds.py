"""Pieces of what bends: parts of an object that move almost rigidly, how they hang together, and how points follow the pieces around them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.geometry.rotations import quaternion_to_matrix
from structwm.kernels.skinning import nearest_rotation

from .graph import Edges

MEANS = 2  # times that the middles of pieces are moved to the means of their points
BLUR = 0.5  # distance from its middle at which the say of a piece has fallen to 1 / e, in units of the size of pieces
BESIDE = 0.25  # weight of the points of neighbouring pieces in how a piece is turned
LINE = 1e-4  # second largest over largest spread below which points lie on a line, about which no turn is known


@dataclass(frozen=True)
class Bonds:
    """B bonds from the side of each of their two pieces, in P problems or in one that stands for all."""

    mine: Tensor  # int64 (P or 1, B)
    other: Tensor  # int64 (P or 1, B)
    there: Tensor  # bool (P or 1, B), False where padding
    arm: Tensor  # (P or 1, B, 3) from the centroid of `mine` to halfway between both, at rest [m]
    rest: Tensor  # (P or 1, N, 3) from the centroids of objects [m]
    around: Tensor  # (P or 1, K, N) weights, 1 in all, of the points that tell how a piece is turned
    turning: Tensor  # bool (P or 1, K), whether they tell it
    say: Tensor  # (P or 1, K, N) how much each piece says about where a point goes, 1 in all
    family: Tensor  # (P or 1, K, K) shares of the pieces of an object in their mean

    def turns(self, positions: Tensor, objects: Tensor) -> Tensor:
        """Rotations (P, K, 3, 3) of pieces from rest to positions (P, N, 3) [m]; where points lie on a line, one that has no gradient.

        Args:
            positions: (P, N, 3) [m].
            objects: (P or 1, O, N) 1 where a point belongs to an object.
        """
        local = positions - objects.mT @ ((objects @ positions) / objects.sum(-1, keepdim=True).clamp_min(1.0))  # small numbers, whose squares are exact
        product = (local.unsqueeze(-1) * self.rest.unsqueeze(-2)).flatten(-2)  # (P, N, 9)
        middle, before = self.around @ local, self.around @ self.rest
        spread = (self.around @ product).unflatten(-1, (3, 3)) - middle.unsqueeze(-1) * before.unsqueeze(-2)
        scale = spread.flatten(-2).square().sum(-1).add(1e-24).sqrt()[..., None, None]
        spread = torch.where(self.turning[..., None, None], spread / scale, (spread / scale).detach())
        return quaternion_to_matrix(nearest_rotation(spread.flatten(0, 1).contiguous())).unflatten(0, spread.shape[:2])


def members(ids: Tensor, mask: Tensor) -> Tensor:
    """Which of N points belong to which of K things, bool (P, K, N), of ids (P, N) and where there are points (P, N)."""
    count = int(ids.max()) + 1 if ids.numel() else 1
    return (ids.unsqueeze(1) == torch.arange(count, device=ids.device)[:, None]) & mask.unsqueeze(1)


@torch.no_grad()
def parts_of(rest: Tensor, object_ids: Tensor, mask: Tensor, size: float) -> Tensor:
    """Which piece each point belongs to, int64 (P, N) from 0: parts of objects about `size` across, around farthest points and then around means.

    Args:
        rest: (P, N, 3) [m].
        object_ids: int64 (P, N).
        mask: bool (P, N).
        size: [m].
    """
    if not object_ids.shape[1]:
        return object_ids
    own = members(object_ids, mask)  # (P, O, N)
    objects = own.shape[1]
    of_point = object_ids.unsqueeze(-1).expand(-1, -1, 3)
    centre = ((own.to(rest) @ rest) / own.sum(-1, keepdim=True).clamp_min(1)).gather(1, of_point)
    away = torch.where(mask, (rest - centre).norm(dim=-1) + 2.0 * size, 0.0)
    number, rounds = torch.zeros_like(object_ids), 0
    while True:
        farthest, place = torch.where(own, away.unsqueeze(1), -1.0).max(-1)  # (P, O)
        active = farthest > size
        if not bool(active.any()):
            break
        seed = rest.gather(1, place.unsqueeze(-1).expand(-1, -1, 3)).gather(1, of_point)
        distance = (rest - seed).norm(dim=-1)
        nearer = active.gather(1, object_ids) & ((distance < away) | (rounds == 0))
        away, number = torch.where(nearer, distance, away), torch.where(nearer, rounds, number)
        rounds += 1
    label = torch.where(mask, object_ids * max(rounds, 1) + number, 0)
    kinds = objects * max(rounds, 1)
    owner = torch.arange(kinds, device=rest.device) // max(rounds, 1)
    for _ in range(MEANS):
        used, sums = _sums(rest, label, mask, kinds)
        apart = torch.cdist(rest, sums / used.clamp_min(1.0).unsqueeze(-1))
        barred = (used == 0).unsqueeze(1) | (owner != object_ids.unsqueeze(-1))
        label = torch.where(mask, apart.masked_fill(barred, torch.inf).argmin(-1), 0)
    used, _ = _sums(rest, label, mask, kinds)
    return ((used > 0).long().cumsum(1) - 1).clamp_min(0).gather(1, label)


def _sums(rest: Tensor, label: Tensor, mask: Tensor, kinds: int) -> tuple[Tensor, Tensor]:
    """How many points (P, K) and which sum of them (P, K, 3) have a label."""
    weight = mask.to(rest)
    used = rest.new_zeros(len(rest), kinds).scatter_add(1, label, weight)
    sums = rest.new_zeros(len(rest), kinds, 3).scatter_add(1, label.unsqueeze(-1).expand(-1, -1, 3), rest * weight.unsqueeze(-1))
    return used, sums


def bonds_of(rest: Tensor, piece: Tensor, object_ids: Tensor, member: Tensor, edges: Edges, size: float) -> Bonds:
    """Bonds between pieces of an object some of whose points are neighbours, and between each piece and the nearest one.

    Args:
        rest: (P, N, 3) [m].
        piece: int64 (P, N).
        object_ids: int64 (P, N).
        member: (P, K, N) 1 where a point belongs to a piece.
        edges: between points of the same object.
        size: of pieces [m].
    """
    problems, kinds, _ = member.shape
    own = members(object_ids, member.sum(1) > 0).to(rest)
    rest = rest - own.mT @ ((own @ rest) / own.sum(-1, keepdim=True).clamp_min(1.0))
    centre = (member @ rest) / member.sum(-1, keepdim=True).clamp_min(1.0)
    body = torch.where(member > 0, object_ids.unsqueeze(1), -1).amax(-1) if rest.shape[1] else object_ids.new_full((problems, kinds), -1)
    alike = (body.unsqueeze(1) == body.unsqueeze(2)) & (body >= 0).unsqueeze(1)
    apart = alike & ~torch.eye(kinds, dtype=torch.bool, device=rest.device)
    pair = piece.unsqueeze(-1) * kinds + piece.gather(1, edges.index.flatten(1)).view_as(edges.index)
    shared = rest.new_zeros(problems, kinds * kinds).scatter_add(1, pair.flatten(1), edges.valid.flatten(1).to(rest))
    distance = torch.cdist(centre.detach(), centre.detach()).masked_fill(~apart, torch.inf)
    near = ((shared.view(problems, kinds, kinds) > 0) | (distance == distance.amin(-1, keepdim=True))) & apart
    near = near | near.mT
    most = int(near.flatten(1).sum(-1).max())
    order = near.flatten(1).to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    mine, other = order // kinds, order % kinds
    here, there = (centre.gather(1, value.unsqueeze(-1).expand(-1, -1, 3)) for value in (mine, other))
    around = member + BESIDE * (near.to(member) @ member)
    around = around / around.sum(-1, keepdim=True).clamp_min(1e-12)
    local = (rest - member.mT @ centre).detach()
    square = (local.unsqueeze(-1) * local.unsqueeze(-2)).flatten(-2)
    spread = torch.linalg.eigvalsh((member @ square).unflatten(-1, (3, 3)))
    turning = spread[..., 1] > LINE * spread[..., 2].clamp_min(1e-12)
    away = (centre.unsqueeze(2) - rest.unsqueeze(1)).square().sum(-1)  # (P, K, N)
    say = (-away / (BLUR * size) ** 2).exp() + 1e-12
    say = say * ((body.unsqueeze(-1) == object_ids.unsqueeze(1)) & (member.sum(1, keepdim=True) > 0))
    say = say / say.sum(1, keepdim=True).clamp_min(1e-30)
    family = alike.to(rest)
    return Bonds(
        mine, other, near.flatten(1).gather(1, order), 0.5 * (there - here), rest, around, turning, say, family / family.sum(-1, keepdim=True).clamp_min(1.0)
    )
