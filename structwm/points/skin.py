"""Surfaces of things from their points: normals that move with the points, and contacts, where a point of one thing is near the surface of another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.geometry.neighbors import knn
from structwm.kernels.likely_planes import likely_planes
from structwm.kernels.likely_planes_kernels import ABOVE, FINE, FITS, LEAST_ANGLE
from structwm.kernels.surface_gaps import surface_gaps
from structwm.kernels.surface_gaps_reference import gaps_to

TOLERANCE = 0.1  # distance from a plane at which a neighbour counts half, in units of how far neighbours are


@dataclass(frozen=True)
class Skin:
    """How the normals of Q points follow from where the points are, in P problems, or in one that stands for all.

    A normal is a combination of the ways to two other points of the same thing and of their cross product, so that it turns with the three.
    """

    beside: Tensor  # int64 (P or 1, Q, 2)
    parts: Tensor  # (P or 1, Q, 3); 0 where no normal is known
    spacing: Tensor  # (P or 1, Q) distance of the nearest other point of the thing [m], 0 if there is none

    def normals(self, points: Tensor) -> Tensor:
        """Unit normals (P, Q, 3) of points (P, Q, 3); 0 where none is known."""
        first, second = _ways(points, self.beside)
        parts = self.parts.unsqueeze(-1)
        found = parts[:, :, 0] * first + parts[:, :, 1] * second + parts[:, :, 2] * _across(first, second)
        return found / found.square().sum(-1, keepdim=True).add(1e-18).sqrt()


def _ways(points: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
    index = beside.expand(len(points), -1, -1).flatten(1).unsqueeze(-1).expand(-1, -1, 3)
    first, second = (points.gather(1, index).unflatten(1, (-1, 2)) - points.unsqueeze(2)).unbind(2)
    return first, second


def _across(first: Tensor, second: Tensor) -> Tensor:
    """The cross product (P, Q, 3), as long as the vectors are."""
    length = (first.square().sum(-1, keepdim=True) + second.square().sum(-1, keepdim=True)).add(1e-18).sqrt()
    return torch.linalg.cross(first, second, dim=-1) / length


def skin_of(points: Tensor, thing: Tensor, mask: Tensor, neighbours: int = 12) -> Skin:
    """The skin of things that points lie on: planes through neighbours, fitted again with less weight for those that are off them, so that edges stay sharp.

    Normals point away from the middle of the thing.

    Args:
        points: (P, Q, 3) [m].
        thing: int64 (P, Q), from 0.
        mask: bool (P, Q).
        neighbours: that a plane is fitted to.
    """
    problems, count = thing.shape
    own = (thing.unsqueeze(1) == torch.arange(int(thing.max()) + 1 if thing.numel() else 1, device=thing.device)[:, None]) & mask.unsqueeze(1)
    member = own.to(points)
    centre = ((member @ points) / member.sum(-1, keepdim=True).clamp_min(1.0)).gather(1, thing.unsqueeze(-1).expand(-1, -1, 3))
    local = torch.where(mask.unsqueeze(-1), points - centre, 0.0)
    extent = local.abs().amax((1, 2), keepdim=True) if count else points.new_zeros(problems, 1, 1)
    apart = torch.nn.functional.pad(thing.unsqueeze(-1) * (4.0 * extent + 1e-6), (0, 2))  # beside one another, so that none is near another
    k = min(neighbours, count)
    if not k:
        nothing = points.new_zeros(problems, count)
        return Skin(thing.new_zeros(problems, count, 2), points.new_zeros(problems, count, 3), nothing)
    near = knn(local + apart, local + apart, k, query_mask=mask, point_mask=mask, exclude_self=True)
    there = near.valid & (thing.gather(1, near.indices.clamp_min(0).flatten(1)).view_as(near.indices) == thing.unsqueeze(-1))
    index = torch.where(there, near.indices, torch.arange(count, device=thing.device)[:, None])
    ways = local.gather(1, index.flatten(1).unsqueeze(-1).expand(-1, -1, 3)).unflatten(1, (count, k)) - local.unsqueeze(2)
    length = ways.square().sum(-1).add(1e-24).sqrt()
    typical = (length * there).sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp_min(1)
    near_plane = TOLERANCE * typical.clamp_min(1e-9)
    beside, flat = _basis(ways, length)
    normal = _plane(ways, there, near_plane, local, flat) if ways.requires_grad else likely_planes(ways, there, near_plane.squeeze(-1), local)
    normal = torch.where((normal * local).sum(-1, keepdim=True) < 0, -normal, normal)
    beside = index.gather(2, beside)
    first, second = _ways(local, beside)
    frame = torch.stack((first, second, _across(first, second)), -1)
    scale = typical.unsqueeze(-1).clamp_min(1e-9)
    solved = torch.linalg.solve(torch.where(flat[..., None, None], torch.eye(3).to(frame), frame / scale), normal / scale.squeeze(-1))
    parts = torch.where((flat | ~mask).unsqueeze(-1), 0.0, solved)
    nearest = torch.where(there, length, torch.inf).amin(-1)
    return Skin(beside, parts, torch.where(nearest.isfinite() & mask, nearest, 0.0))


def _plane(ways: Tensor, there: Tensor, near: Tensor, out: Tensor, flat: Tensor) -> Tensor:
    """`likely_planes` in plain torch, with gradients; `near` is (P, Q, 1), and `flat` says where there is no plane."""
    first, second = torch.triu_indices(ways.shape[2], ways.shape[2], 1, device=ways.device)
    if not len(first):
        return torch.zeros_like(ways[:, :, 0])
    unit = ways / ways.square().sum(-1, keepdim=True).add(1e-24).sqrt()
    across = torch.linalg.cross(unit[:, :, first], unit[:, :, second], dim=-1)
    length = across.square().sum(-1).add(1e-24).sqrt()
    planes = across / length.unsqueeze(-1)
    planes = torch.where((planes * out.unsqueeze(2)).sum(-1, keepdim=True) < 0, -planes, planes)
    off = (planes @ ways.mT) / near.unsqueeze(-1)
    score = (there.unsqueeze(2) * (1.0 / (1.0 + off.square()) - FINE * (off > ABOVE))).sum(-1)
    usable = (length > LEAST_ANGLE) & there[:, :, first] & there[:, :, second]
    best = torch.where(usable, score, -torch.inf).argmax(-1)
    normal = planes.gather(2, best[..., None, None].expand(-1, -1, 1, 3)).squeeze(2)
    plain = torch.diag(ways.new_tensor((1.0, 2.0, 3.0)))  # where there is no plane: any that has gradients
    for _ in range(FITS):
        off = (ways @ normal.unsqueeze(-1)).squeeze(-1) / near
        spread = ((there / (1.0 + off.square()).square()).unsqueeze(-1) * ways).mT @ ways
        normal = torch.linalg.eigh(torch.where(flat[..., None, None], plain, spread)).eigenvectors[..., 0]
    return normal


def _basis(ways: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Of ways (P, Q, K, 3), which two are most across each other, (P, Q, 2); and where all are along one line, bool (P, Q)."""
    unit = ways / length.clamp_min(1e-12).unsqueeze(-1)
    across = 1.0 - (unit @ unit.mT).square() * (length > 1e-12).unsqueeze(-1)
    across = torch.where(((length > 1e-9).unsqueeze(-1) & (length > 1e-9).unsqueeze(-2)), across, 0.0)
    best, place = across.flatten(-2).max(-1)
    k = ways.shape[2]
    return torch.stack((place // k, place % k), -1), best < 1e-3


@dataclass(frozen=True)
class Contacts:
    """E places where a point is near the surface of another thing; gradients flow through the points and normals."""

    problem: Tensor  # int64 (E,)
    point: Tensor  # int64 (E,) which point
    thing: Tensor  # int64 (E,) whose surface
    nearest: Tensor  # int64 (E,) point of that surface
    place: Tensor  # (E, 3) on the surface [m]
    normal: Tensor  # (E, 3) unit vector out of the surface
    gap: Tensor  # (E,) [m], negative inside


@dataclass(frozen=True)
class Things:
    """Who is who among Q points in P problems, or in one that stands for all."""

    owner: Tensor  # int32 (P or 1, Q), -1 where masked
    order: Tensor  # int32 (P or 1, Q)
    begin: Tensor  # int32 (P or 1, T + 1)

    @classmethod
    def of(cls, thing: Tensor, mask: Tensor, count: int) -> Things:
        """Of things (P, Q) from 0 to `count` - 1, where the mask (P, Q) says."""
        owner = torch.where(mask, thing, count)
        order = owner.argsort(dim=-1, stable=True)
        numbers = torch.arange(count + 1, device=owner.device)
        begin = torch.searchsorted(owner.gather(1, order).contiguous(), numbers.expand(len(owner), -1).contiguous())
        return cls(torch.where(mask, thing, -1).int(), order.int(), begin.int())

    def points_of(self, problem: Tensor, thing: Tensor) -> tuple[Tensor, Tensor]:
        """The points of things (E,) in problems (E,): int64 (E, K), and which of them there are, bool (E, K)."""
        graph = problem if len(self.begin) > 1 else torch.zeros_like(problem)
        first, last = self.begin[graph, thing].long(), self.begin[graph, thing + 1].long()
        place = first.unsqueeze(-1) + torch.arange(int((last - first).max()), device=problem.device)
        mask = place < last.unsqueeze(-1)
        return self.order[graph.unsqueeze(-1), place.clamp_max(self.order.shape[1] - 1)].long(), mask


def find_contacts(points: Tensor, normals: Tensor, things: Things, spacing: Tensor, coming: Tensor, margin: float) -> Contacts:
    """Where points are within `margin` of another thing's surface, now or after a step.

    Args:
        points: (P, Q, 3) [m].
        normals: (P, Q, 3).
        things: who is who.
        spacing: (P, T) between points of a thing [m].
        coming: (P, Q, 3) how far points are expected to move in the step [m].
        margin: [m].
    """
    with torch.no_grad():
        problems = len(points)
        owner = things.owner.expand(problems, -1).contiguous()
        fast = coming.norm(dim=-1)
        own = owner.unsqueeze(-1) == torch.arange(spacing.shape[1], device=owner.device)
        moving = torch.where(own, fast.unsqueeze(-1), 0.0).amax(1)
        nearest, gap, out = surface_gaps(points, normals, owner, things.order, things.begin, spacing.contiguous(), margin + fast, moving)
        problem, point, thing = (nearest >= 0).nonzero(as_tuple=True)
        foot = nearest[problem, point, thing].long()
        gap, normal = gap[problem, point, thing], out[problem, point, thing]
        closing = ((coming[problem, point] - coming[problem, foot]) * normal).sum(-1)
        some = torch.minimum(gap, gap + closing) < margin
        problem, point, thing, foot, gap, normal = (value[some] for value in (problem, point, thing, foot, gap, normal))
    if torch.is_grad_enabled() and (points.requires_grad or normals.requires_grad) and len(point):
        index, mask = things.points_of(problem, thing)
        row = problem.unsqueeze(-1)
        place = (index == foot.unsqueeze(-1)).long().argmax(-1)
        gap, normal = gaps_to(points[problem, point], points[row, index], normals[row, index], mask, place, spacing[problem, thing])
    return Contacts(problem, point, thing, foot, points[problem, point] - gap.unsqueeze(-1) * normal, normal, gap)
