"""Rounds of messages between rigid objects and the places where they touch, for `contact_dynamics`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

LIMIT = 4.0  # of motions that are told or answered, in units of `move`
TOLD = 6 + 2 + 2 + 6 + 6 + 6 + 3  # arms, normal, gap now and then, sliding and own motion there, spread, recent twist, kind
SAID = 1 + 3 + 3 + 2  # how much it counts, a push and a turn in the frame of the contact, answers to overlap and sliding
SELF = 6  # factors of the recent and of the present twist, and what is upright of both motions
SPEEDS = 4


@dataclass(frozen=True)
class Touch:
    """E contacts from the side of the object that is told of them."""

    row: Tensor  # int64 (E,) the object, among P * O
    other: Tensor  # int64 (E,) the other object, P * O where it is none
    arm: Tensor  # (E, 3) from the object's centroid to the contact, in units of `size`
    other_arm: Tensor  # (E, 3) from the other's, 0 where it is none
    normal: Tensor  # (E, 3) out of the object
    gap: Tensor  # (E,) in units of `move`
    driven: Tensor  # (E, 3) how far the other moves there if it is the robot, 0 if not
    kind: Tensor  # int64 (E,)
    frame: Tensor  # (E, 3, 3) rows: level and out of the object, level and along its surface, up


class Hints(NamedTuple):
    """What a round is told of E contacts, under the present estimate of how objects move; motions in units of `move`."""

    numbers: Tensor  # (E, TOLD) in the frame of the contact
    fade: Tensor  # (E,) how much a contact counts: 1 where surfaces touch, 0 at the margin
    then: Tensor  # (E,) gap after the step
    slide: Tensor  # (E, 3) how the other slides along the surface


class Round(nn.Module):
    """Contacts hear of both objects and of how they are about to move; objects hear of their contacts, are pushed by them, and move otherwise.

    What is said are numbers that stay the same when the world is turned about the vertical; directions are those of the contacts. A push turns an object by its
    arm and the spread of the object's points.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.told = nn.Linear(TOLD, width, bias=False)
        self.said = nn.Linear(width, width + SAID)
        self.update = nn.Sequential(nn.Linear(4 * width + 3 + SPEEDS, width), nn.SiLU())
        self.answer = nn.Linear(width, width + SELF)
        self.norm = nn.LayerNorm(width)
        with torch.no_grad():
            for last in (self.said, self.answer):  # objects begin with almost no motion
                last.weight[width:] *= 0.01
                last.bias[width:] = 0.0

    def forward(self, objects: Tensor, twist: Tensor, recent: Tensor, touch: Touch, hints: Hints, mobility: Tensor) -> tuple[Tensor, Tensor]:
        """Objects (R, W) and their twists (R, 6), in units of `move` and `size`, after the round; of `mobility` (R, 3, 3) how torques turn them."""
        rows, width = objects.shape
        padded = torch.cat((objects, objects.new_zeros(1, width)))
        said = self.said(nn.functional.silu(self.own(objects)[touch.row] + self.other(padded)[touch.other] + self.told(hints.numbers)))
        words, logit, push, turn, answers = said.split((width, 1, 3, 3, 2), -1)
        vectors = torch.stack((push, turn), 1) @ touch.frame  # (E, 2, 3)
        force = vectors[:, 0] - answers[:, :1] * (-hints.then).clamp(0.0, LIMIT).unsqueeze(-1) * touch.normal + answers[:, 1:] * hints.slide
        weight = hints.fade.unsqueeze(-1) * logit.clamp(-6.0, 6.0).exp()
        heard = torch.cat((words, force, torch.linalg.cross(touch.arm, force, dim=-1), vectors[:, 1]), -1)
        slot = 3 * touch.row + touch.kind
        total = weight.new_zeros(3 * rows, 1).index_add(0, slot, weight)
        means = heard.new_zeros(3 * rows, width + 9).index_add(0, slot, weight * heard) / (total + 0.1)
        force, torque, turned = means[:, width:].view(rows, 3, 9).sum(1).split(3, -1)
        told = torch.cat((objects, means[:, :width].reshape(rows, -1), (1.0 + total).log().view(rows, 3), speeds(twist)), -1)
        answer = self.answer(self.update(told))
        factors = answer[:, width:]
        pushed = torch.cat((force, (mobility @ torque.unsqueeze(-1)).squeeze(-1) + turned), -1)
        kept = (factors[:, 0:2].unsqueeze(-1) * recent.view(rows, 2, 3) + factors[:, 2:4].unsqueeze(-1) * twist.view(rows, 2, 3)).flatten(1)
        upright = torch.nn.functional.pad(factors[:, 4:6].unsqueeze(-1), (2, 0)).flatten(1)
        return self.norm(objects + answer[:, :width]), twist + limited(pushed + kept + upright)


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
