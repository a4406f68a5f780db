"""Where things touch: the contacts, the feet and the bonds that `contact_dynamics` sends messages along, and what is told of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .bonds import Bonds
from .contact_rounds import BOND, GROUND, LIMIT, OBJECT, ROBOT, Hints, Touch, contact_frames, limited
from .graph import Material
from .skin import Skin, Things, find_contacts

FEET = 8  # directions in which an object's outermost low points are taken for where it stands


@dataclass(frozen=True)
class Surfaces(Material):
    """What lasts over a rollout. Pieces are the objects, or the parts that they are divided into; `member` is of pieces."""

    skin: Skin  # of objects and, the last thing, the robot
    things: Things
    objects: Tensor  # (P or 1, O, N) 1 where a point belongs to an object
    piece: Tensor  # int64 (P or 1, N)
    bonds: Bonds | None  # between pieces of one object


class Units(NamedTuple):
    """In which lengths are told, and how near surfaces act on each other."""

    move: Tensor  # [m]
    size: Tensor  # [m]
    margin: float  # [m]


class Places(NamedTuple):
    """Contacts in metres, before they are put into frames and units; as in `Touch`."""

    row: Tensor
    other: Tensor
    arm: Tensor
    other_arm: Tensor
    normal: Tensor
    gap: Tensor
    driven: Tensor
    kind: Tensor
    bend: Tensor


def touch_of(flat: dict[str, Tensor], graph: Surfaces, centre: Tensor, spread: Tensor, drift: Tensor, motion: Tensor, units: Units, *, ground: bool) -> Touch:
    """All that pieces are told of at a step.

    Args:
        flat: fields of P problems.
        graph: what lasts.
        centre: of pieces (P, K, 3) [m].
        spread: covariances of their points (P, K, 3, 3) [m^2].
        drift: how far points go if they go on as before (P, N, 3) [m].
        motion: of the robot's points (P, M, 3) [m].
        units: of lengths.
        ground: whether pieces stand on z = 0.
    """
    found = _contacts(flat, graph, centre, torch.cat((drift, motion), 1).detach(), motion, units.margin)
    if ground:
        found.append(_feet(flat["positions"], graph.member, centre, spread))
    if graph.bonds is not None:
        found.append(held(flat["positions"], centre, graph.bonds, graph.objects))
    all_of = Places(*(torch.cat(values) for values in zip(*found, strict=True)))
    move, size = units.move, units.size
    frame = contact_frames(all_of.normal, all_of.arm)
    lengths = (all_of.arm / size, all_of.other_arm / size, all_of.normal, all_of.gap / move, all_of.driven / move)
    return Touch(all_of.row, all_of.other, *lengths, all_of.kind, frame, all_of.bend)


def _contacts(flat: dict[str, Tensor], graph: Surfaces, centre: Tensor, coming: Tensor, motion: Tensor, margin: float) -> list[Places]:
    """Where surfaces of different objects, or of the robot, are near, from both sides."""
    x, robot, objects = flat["positions"], flat["robot"], graph.objects
    problems, pieces = centre.shape[:2]
    points = torch.cat((x, robot), 1)
    normals = graph.skin.normals(points)
    sizes = torch.cat((objects, objects.new_zeros(len(objects), objects.shape[1], robot.shape[1])), -1)
    hand = torch.cat((x.new_zeros(x.shape[1]), x.new_ones(robot.shape[1]))).expand(len(objects), 1, -1)
    sizes = torch.cat((sizes, hand), 1)
    spacing = (sizes * graph.skin.spacing.unsqueeze(1)).sum(-1) / sizes.sum(-1).clamp_min(1.0)
    found = find_contacts(points, normals, graph.things, spacing.expand(problems, -1), coming, margin)
    middle = torch.cat((centre, centre.new_zeros(problems, 1, 3)), 1)  # of the robot: not told
    piece = torch.nn.functional.pad(graph.piece, (0, robot.shape[1]), value=pieces).expand(problems, -1)
    here, there = piece[found.problem, found.point], piece[found.problem, found.nearest]
    push = torch.cat((torch.zeros_like(x), motion), 1)
    tip = points[found.problem, found.point]
    sides = []
    for mine, theirs, place, tip_there, normal, node in (
        (there, here, found.place, tip, found.normal, found.point),
        (here, there, tip, found.place, -found.normal, found.nearest),
    ):
        some = mine < pieces
        problem, own, others, at, beyond, out = (value[some] for value in (found.problem, mine, theirs, place, tip_there, normal))
        hands = others == pieces
        other_arm = torch.where(hands.unsqueeze(-1), 0.0, beyond - middle[problem, others])
        driven = torch.where(hands.unsqueeze(-1), push[problem, node[some]], 0.0)
        other = torch.where(hands, problems * pieces, problem * pieces + others)
        kind = torch.where(hands, ROBOT, OBJECT)
        sides.append(Places(problem * pieces + own, other, at - middle[problem, own], other_arm, out, found.gap[some], driven, kind, torch.zeros_like(out)))
    return sides


def _feet(x: Tensor, member: Tensor, centre: Tensor, spread: Tensor) -> Places:
    """Where pieces stand: of the lowest points, those that lie outermost."""
    problems, pieces = centre.shape[:2]
    with torch.no_grad():
        along = 0.5 * torch.atan2(2.0 * spread[..., 0, 1], spread[..., 0, 0] - spread[..., 1, 1])  # its longer level axis
        angle = along.unsqueeze(-1) + torch.arange(FEET, device=x.device) * (2 * math.pi / FEET)  # (P, K, FEET)
        ways = torch.stack((angle.cos(), angle.sin()), -1)
        height = x[..., 2].unsqueeze(1)
        lowest = torch.where(member > 0, height, torch.inf).amin(-1, keepdim=True)
        score = ways @ x[..., :2].mT.unsqueeze(1) - 20.0 * (height - lowest - 0.002).clamp_min(0.0).unsqueeze(2)
        index = torch.where((member > 0).unsqueeze(2), score, -torch.inf).argmax(-1)  # (P, K, FEET)
    place = x.gather(1, index.flatten(1).unsqueeze(-1).expand(-1, -1, 3)).view(problems, pieces, FEET, 3)
    there = (member.sum(-1) > 0).expand(problems, -1).unsqueeze(-1).expand(-1, -1, FEET).reshape(-1)
    arm = (place - centre.unsqueeze(2)).flatten(0, 2)[there]
    row = torch.arange(problems * pieces, device=x.device).repeat_interleave(FEET)[there]
    nothing = torch.zeros_like(arm)
    down = nothing - nothing.new_tensor((0.0, 0.0, 1.0))
    nobody, kind = torch.full_like(row, problems * pieces), torch.full_like(row, GROUND)
    return Places(row, nobody, arm, nothing, down, place.flatten(0, 2)[there][:, 2], nothing, kind, nothing)


def held(x: Tensor, centre: Tensor, bonds: Bonds, objects: Tensor) -> Places:
    """Where pieces of one object hang together; `driven` is how far apart is there what belongs together."""
    problems, pieces = centre.shape[:2]
    turns = bonds.turns(x, objects)
    problem, number = bonds.there.expand(problems, -1).nonzero(as_tuple=True)
    graph = problem if len(bonds.there) > 1 else torch.zeros_like(problem)
    mine, other, rest = bonds.mine[graph, number], bonds.other[graph, number], bonds.arm[graph, number].unsqueeze(-1)
    own, theirs = turns[problem, mine], turns[problem, other]
    here, there = centre[problem, mine], centre[problem, other]
    ends = here + (own @ rest).squeeze(-1), there - (theirs @ rest).squeeze(-1)
    place = 0.5 * (ends[0] + ends[1])
    away = there - here
    normal = away / away.square().sum(-1, keepdim=True).add(1e-18).sqrt()
    turned = theirs @ own.mT
    bend = 0.5 * torch.stack((turned[:, 2, 1] - turned[:, 1, 2], turned[:, 0, 2] - turned[:, 2, 0], turned[:, 1, 0] - turned[:, 0, 1]), -1)
    row = problem * pieces + mine
    kind = torch.full_like(row, BOND)
    return Places(row, problem * pieces + other, place - here, place - there, normal, torch.zeros_like(normal[:, 0]), ends[1] - ends[0], kind, bend)


def lasting(touch: Touch, spread: Tensor, recent: Tensor, kinds: int) -> Tensor:
    """What stays the same over the rounds, in the frames of the contacts: arms, normal, spread and recent twist of the piece, gap, kind, and bends if any."""
    turn = touch.frame
    vectors = torch.cat((torch.stack((touch.arm, touch.other_arm), 1), recent.view(-1, 2, 3)[touch.row]), 1) @ turn.mT
    level = (turn * touch.normal.unsqueeze(1)).sum(-1)
    six = torch.triu_indices(3, 3, device=spread.device)
    seen = (turn @ spread[touch.row] @ turn.mT)[:, six[0], six[1]]
    told = [vectors.flatten(1), level[:, ::2], seen, touch.gap.clamp(-LIMIT, LIMIT).unsqueeze(-1), torch.nn.functional.one_hot(touch.kind, kinds).to(recent)]
    if kinds > BOND:
        told.append((turn @ touch.bend.unsqueeze(-1)).squeeze(-1))
    return torch.cat(told, -1)


def hints(touch: Touch, twist: Tensor, alone: Tensor, units: Units) -> Hints:
    """What rounds are told where pieces are taken to move by twists (R, 6); `alone` is what stays the same."""
    padded = torch.cat((twist, twist.new_zeros(1, 6)))

    def motion(row: Tensor, arm: Tensor) -> Tensor:
        mine = padded[row]
        return mine[:, :3] + torch.linalg.cross(mine[:, 3:], arm, dim=-1)

    own = motion(touch.row, touch.arm)
    slide = motion(touch.other, touch.other_arm) + touch.driven - own
    closing = (slide * touch.normal).sum(-1)
    then = touch.gap + closing
    near = torch.minimum(touch.gap, then) * (units.move / units.margin)
    aside = limited(slide - closing.unsqueeze(-1) * touch.normal)
    local = (torch.stack((aside, limited(own)), 1) @ touch.frame.mT).flatten(1)
    numbers = torch.cat((alone, local, then.clamp(-LIMIT, LIMIT).unsqueeze(-1)), -1)
    bond, press = touch.kind == BOND, (-then).clamp(-LIMIT, LIMIT)
    fade = torch.where(bond, 1.0, (1.0 - near.clamp(0.0, 1.0)).square())
    return Hints(numbers, fade, torch.where(bond, press, press.clamp_min(0.0)), aside)
