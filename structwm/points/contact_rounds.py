"""Rounds of messages between rigid pieces and the places where they touch or hang together, for `contact_dynamics`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

LIMIT = 4.0  # of motions that are told or answered, in units of `move`
TOLD = 6 + 2 + 2 + 6 + 6 + 6  # arms, normal, gap now and then, sliding and own motion there, spread, recent twist
SAID = 1 + 3 + 3 + 2  # how much it counts, a push and a turn in the frame of the contact, answers to overlap and sliding
SELF = 6  # factors of the recent and of the present twist, and what is upright of both motions
SPEEDS = 4
ROBOT, OBJECT, GROUND, BOND = range(4)  # kinds of contact


@dataclass(frozen=True)
class Touch:
    """E contacts from the side of the piece that is told of them: an object, or a part of one."""

    row: Tensor  # int64 (E,) the piece, among P * K
    other: Tensor  # int64 (E,) the other piece, P * K where it is none
    arm: Tensor  # (E, 3) from the piece's centroid to the contact, in units of `size`
    other_arm: Tensor  # (E, 3) from the other's, 0 where it is none
    normal: Tensor  # (E, 3) out of the piece
    gap: Tensor  # (E,) in units of `move`
    driven: Tensor  # (E, 3) how far the other moves there if it is the robot; of bonds, how far apart is there what belongs together
    kind: Tensor  # int64 (E,)
    frame: Tensor  # (E, 3, 3) rows: level and out of the piece, level and along its surface, up
    bend: Tensor  # (E, 3) of bonds, how the other is turned from this one, compared with rest [sine of the angle]; else 0


class Hints(NamedTuple):
    """What a round is told of E contacts, under the present estimate of how pieces move; motions in units of `move`."""

    numbers: Tensor  # (E, *) in the frame of the contact
    fade: Tensor  # (E,) how much a contact counts: 1 where surfaces touch, 0 at the margin
    press: Tensor  # (E,) by how much surfaces would overlap after the step, or a bond be squeezed; stretched, if negative
    slide: Tensor  # (E, 3) how the other slides along the surface


class Round(nn.Module):
    """Contacts hear of both pieces and of how they are about to move; pieces hear of their contacts, are pushed by them, and move otherwise.

    What is said are numbers that stay the same when the world is turned about the vertical; directions are those of the contacts. A push turns a piece by its
    arm and the spread of the piece's points.

    Args:
        width: numbers of each piece.
        kinds: of contact; with `BOND`, pieces also hear of all pieces of their object at once.
    """

    def __init__(self, width: int, kinds: int) -> None:
        super().__init__()
        self.kinds, bending = kinds, int(kinds > BOND)
        self.own, self.other = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.told = nn.Linear(TOLD + kinds + 3 * bending, width, bias=False)
        self.said = nn.Linear(width, width + SAID)
        self.update = nn.Sequential(nn.Linear((1 + kinds + bending) * width + kinds + SPEEDS, width), nn.SiLU())
        self.answer = nn.Linear(width, width + SELF)
        self.norm = nn.LayerNorm(width)
        with torch.no_grad():
            for last in (self.said, self.answer):  # pieces begin with almost no motion
                last.weight[width:] *= 0.01
                last.bias[width:] = 0.0

    def forward(
        self, pieces: Tensor, twist: Tensor, recent: Tensor, touch: Touch, hints: Hints, mobility: Tensor, family: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pieces (R, W) and their twists (R, 6), in units of `move` and `size`, after the round.

        Args:
            pieces: (R, W), R = P * K.
            twist: (R, 6) as taken so far.
            recent: (R, 6) of the step before.
            touch: where pieces touch.
            hints: what is told of that.
            mobility: (R, 3, 3) how torques turn them.
            family: (P or 1, K, K) share of each piece in the mean of those of its object; None: pieces are objects.
        """
        rows, width = pieces.shape
        padded = torch.cat((pieces, pieces.new_zeros(1, width)))
        said = self.said(nn.functional.silu(self.own(pieces)[touch.row] + self.other(padded)[touch.other] + self.told(hints.numbers)))
        words, logit, push, turn, answers = said.split((width, 1, 3, 3, 2), -1)
        vectors = torch.stack((push, turn), 1) @ touch.frame  # (E, 2, 3)
        force = vectors[:, 0] - answers[:, :1] * hints.press.unsqueeze(-1) * touch.normal + answers[:, 1:] * hints.slide
        weight = hints.fade.unsqueeze(-1) * logit.clamp(-6.0, 6.0).exp()
        heard = torch.cat((words, force, torch.linalg.cross(touch.arm, force, dim=-1), vectors[:, 1]), -1)
        slot, kinds = self.kinds * touch.row + touch.kind, self.kinds
        total = weight.new_zeros(kinds * rows, 1).index_add(0, slot, weight)
        means = heard.new_zeros(kinds * rows, width + 9).index_add(0, slot, weight * heard) / (total + 0.1)
        force, torque, turned = means[:, width:].view(rows, kinds, 9).sum(1).split(3, -1)
        told = [pieces, means[:, :width].reshape(rows, -1), (1.0 + total).log().view(rows, kinds), speeds(twist)]
        if family is not None:
            told.append((family @ pieces.view(-1, family.shape[-1], width)).view(rows, width))
        answer = self.answer(self.update(torch.cat(told, -1)))
        factors = answer[:, width:]
        pushed = torch.cat((force, (mobility @ torque.unsqueeze(-1)).squeeze(-1) + turned), -1)
        kept = (factors[:, 0:2].unsqueeze(-1) * recent.view(rows, 2, 3) + factors[:, 2:4].unsqueeze(-1) * twist.view(rows, 2, 3)).flatten(1)
        upright = torch.nn.functional.pad(factors[:, 4:6].unsqueeze(-1), (2, 0)).flatten(1)
        return self.norm(pieces + answer[:, :width]), twist + limited(pushed + kept + upright)


def limited(vectors: Tensor) -> Tensor:
    """Vectors (*, n), those longer than `LIMIT` shortened to it: what has no bound could make long rollouts run away."""
    return vectors * (LIMIT / vectors.square().sum(-1, keepdim=True).add(1e-12).sqrt()).clamp_max(1.0)


def speeds(twist: Tensor) -> Tensor:
    """Of twists (*B, 6) what does not change when the world is turned about the vertical, (*B, SPEEDS)."""
    level = [part.square().sum(-1, keepdim=True).add(1e-6).sqrt() for part in (twist[..., 0:2], twist[..., 3:5])]
    return torch.cat((*level, twist[..., 2:3], twist[..., 5:6]), -1)


def contact_frames(normal: Tensor, arm: Tensor) -> Tensor:
    """Frames (E, 3, 3) of contacts: the first axis level along the normal, or along the arm where the normal is upright, the third up."""
    level, reach = ((value * value.new_tensor((1.0, 1.0, 0.0))) for value in (normal, arm))
    steep = level.square().sum(-1, keepdim=True) < 0.04
    first = torch.where(steep, reach, level)
    length = first.square().sum(-1, keepdim=True).add(1e-18).sqrt()
    ahead = normal.new_tensor((1.0, 0.0, 0.0)).expand_as(first)
    first = torch.where(length > 1e-6, first / length, ahead)
    up = normal.new_tensor((0.0, 0.0, 1.0)).expand_as(first)
    return torch.stack((first, torch.linalg.cross(up, first, dim=-1), up), 1)
