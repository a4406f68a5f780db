"""A network over rigid objects and the places where they touch: each round, contacts say what they need, and objects answer with how they move.

Where things touch is found on their surfaces (`skin`), not between sampled points, as in the face interactions of Allen et al., "Learning rigid dynamics with
face interaction graph networks", ICLR 2023. A round is told the gap that the present estimate would leave at each contact, and may correct it, as an
iteration of a contact solver does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from structwm.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.noise import Noise
from structwm.training.windows import Batch

from .cloud import PointCloud
from .cloud_model import CloudModel
from .contact_rounds import LIMIT, SPEEDS, Hints, Round, Touch, contact_frames, limited, speeds
from .graph import Material
from .graph_dynamics import perceptron
from .parts import FLAT, rigid_motion
from .skin import Skin, Things, find_contacts, skin_of

ROBOT, OBJECT, GROUND = range(3)  # kinds of contact
FEET = 8  # directions in which an object's outermost low points are taken for where it stands


@dataclass(frozen=True)
class Surfaces(Material):
    """What lasts over a rollout, with the surfaces of objects and of the robot, the last thing."""

    skin: Skin
    things: Things


class ContactDynamics(CloudModel):
    """Learned motion of rigid objects that a robot pushes and that push each other, from where and how they touch.

    Every object of a state is rigid. Nodes are objects, however many points they have: points only say where surfaces are, and those of the robot likewise,
    so more points cost little. The ground is the plane z = 0.

    Args:
        width: numbers of each object.
        rounds: of contacts and objects.
        margin: [m] how near surfaces are, now or after a step, that act on each other.
        ground: whether objects stand on z = 0.
        momentum: whether recent motion is told. Without, motion follows from contacts alone, and errors do not feed on themselves: for tables, where what
            is not pushed stops.
        options: as of `CloudModel`.
    """

    move: Tensor
    size: Tensor

    def __init__(self, *, width: int = 64, rounds: int = 4, margin: float = 0.01, ground: bool = True, momentum: bool = True, **options: Any) -> None:
        super().__init__(**options)
        if width < 1 or rounds < 1 or not margin > 0:
            raise ValueError(f"ContactDynamics needs width and rounds of at least 1 and a margin above 0 m, got {width}, {rounds} and {margin}.")
        self.width, self.margin, self.ground, self.momentum = width, margin, ground, momentum
        self.kinds = self.materials if self.materials > 1 else 0
        told = SPEEDS * self.context + 4 + 2 + self.features + self.kinds  # recent twists, spread, height and half height, what is known of it
        self.encoder = perceptron(told, width, width, norm=True)
        self.rounds = nn.ModuleList(Round(width) for _ in range(rounds))
        self.register_buffer("move", torch.tensor(0.005))
        self.register_buffer("size", torch.tensor(0.04))

    def config(self) -> dict[str, Any]:
        return super().config() | {"width": self.width, "rounds": len(self.rounds), "margin": self.margin, "ground": self.ground, "momentum": self.momentum}

    def fit_scales(self, windows: Batch) -> None:
        """Take the units of motion and size from windows."""
        states: PointCloud = windows.states
        counted = states.mask & windows.valid[..., None]
        step = states.positions.diff(dim=1).norm(dim=-1)[counted[:, 1:]]
        fast = step[step > 0.1 * step.max()] if step.numel() else step
        if fast.numel():
            self.move.copy_(fast.mean().clamp_min(1e-6))
        start = states[:, 0]
        own = self._member(start.object_ids, start.mask).to(start.positions)
        self.size.copy_(_moments(start.positions, own)[1].diagonal(dim1=-2, dim2=-1).sum(-1)[own.any(-1)].mean().sqrt().clamp_min(1e-4))

    @staticmethod
    def _member(ids: Tensor, mask: Tensor) -> Tensor:
        return (ids.unsqueeze(1) == torch.arange(int(ids.max()) + 1, device=ids.device)[:, None]) & mask.unsqueeze(1)

    def _graph(self, fields: dict[str, Tensor], batch: torch.Size) -> Surfaces:
        graph = super()._graph(fields, batch)
        flat = {name: fields[name].reshape(batch.numel(), *fields[name].shape[len(batch) :]) for name in ("rest", "object_ids", "mask", "robot")}
        robot = flat["robot"] - flat["robot"].mean(1, keepdim=True) if flat["robot"].shape[1] else flat["robot"]
        if len(graph.member) == 1 and bool(((robot - robot[:1]).abs() < 1e-6).all()):
            flat = {name: value[:1] for name, value in flat.items()}
        objects = graph.member.shape[1]
        hands = flat["robot"].shape[1]
        thing = torch.nn.functional.pad(flat["object_ids"], (0, hands), value=objects)
        mask = torch.nn.functional.pad(flat["mask"], (0, hands), value=True)
        skin = skin_of(torch.cat((flat["rest"], flat["robot"]), 1), thing, mask)
        return Surfaces(graph.edges, graph.distances, graph.member, skin, Things.of(thing, mask, objects + 1))

    def moves(self, flat: dict[str, Tensor], graph: Material, motion: Tensor, batch: torch.Size, noise: Noise | None) -> Tensor:
        assert isinstance(graph, Surfaces)
        x, member = flat["positions"], graph.member
        problems, objects = len(x), member.shape[1]
        centre, spread = _moments(x, member)
        past = torch.cat((x.unsqueeze(2), flat["history"]), 2).movedim(2, 1)  # (P, C + 1, N, 3)
        steps = (past[:, :-1] - past[:, 1:]).flatten(0, 1)
        alike = member if len(member) == 1 else member.repeat_interleave(self.context, 0)
        _, shift, turn = rigid_motion(past[:, :-1].flatten(0, 1), steps, alike)
        recent = torch.cat((shift / self.move, turn * (self.size / self.move)), -1).unflatten(0, (problems, self.context))
        told_of = recent if self.momentum else torch.zeros_like(recent)
        height = centre[..., 2:] / self.size
        lowest = torch.where(member > 0, x[..., 2].unsqueeze(1), torch.inf).amin(-1, keepdim=True)
        lowest = torch.where(lowest.isfinite(), lowest, 0.0) / self.size
        told = [speeds(told_of).transpose(1, 2).flatten(2), _shape(spread / self.size.square())]
        told += [height, height - lowest] if self.ground else [torch.zeros_like(height)] * 2
        known = [flat["features"]] if self.features else []
        known += [torch.nn.functional.one_hot(flat["material_ids"], self.materials).to(x)] if self.kinds else []
        told += [(member @ value) / member.sum(-1, keepdim=True).clamp_min(1.0) for value in known]
        nodes = self.encoder(torch.cat(told, -1)).flatten(0, 1)
        speed = (member.mT @ recent[:, 0].flatten(1).view(problems, objects, 6)).detach()
        arms = x - member.mT @ centre
        drift = self.move * speed[..., :3] + torch.linalg.cross((self.move / self.size) * speed[..., 3:], arms, dim=-1)
        touch = self._touch(flat, graph, centre, spread, torch.cat((drift, motion), 1).detach(), motion)
        bulk = spread.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        eye = torch.eye(3, dtype=x.dtype, device=x.device)
        mobility = torch.linalg.inv((bulk * (1.0 + FLAT) * eye - spread) / self.size.square() + 1e-4 * eye).flatten(0, 1)
        newest, twist = told_of[:, 0].flatten(0, 1), torch.zeros_like(nodes[:, :6])
        alone = self._alone(touch, (spread / self.size.square()).flatten(0, 1), newest)
        for each in self.rounds:
            nodes, twist = each(nodes, twist, newest, touch, self._tell(touch, twist, alone), mobility)
        twist = twist.view(problems, objects, 6)
        matrix = quaternion_to_matrix(rotation_vector_to_quaternion(twist[..., 3:] * (self.move / self.size)))
        own = (member.mT @ matrix.flatten(-2)).unflatten(-1, (3, 3))
        moved: Tensor = (own @ arms.unsqueeze(-1)).squeeze(-1) - arms + member.mT @ (twist[..., :3] * self.move)
        return moved

    def _touch(self, flat: dict[str, Tensor], graph: Surfaces, centre: Tensor, spread: Tensor, coming: Tensor, motion: Tensor) -> Touch:
        x, robot, member = flat["positions"], flat["robot"], graph.member
        problems, objects, count = len(x), member.shape[1], x.shape[1]
        points = torch.cat((x, robot), 1)
        normals = graph.skin.normals(points)
        sizes = torch.cat((member, member.new_zeros(len(member), objects, robot.shape[1])), -1)
        hand = torch.cat((x.new_zeros(count), x.new_ones(robot.shape[1]))).expand(len(member), 1, -1)
        sizes = torch.cat((sizes, hand), 1)
        spacing = (sizes * graph.skin.spacing.unsqueeze(1)).sum(-1) / sizes.sum(-1).clamp_min(1.0)
        found = find_contacts(points, normals, graph.things, spacing.expand(problems, -1), coming, self.margin)
        middle = torch.cat((centre, centre.new_zeros(problems, 1, 3)), 1)  # of the robot: not told
        nobody = problems * objects
        owner = graph.things.owner.long().expand(problems, -1)[found.problem, found.point]
        parts: list[tuple[Tensor, ...]] = []
        tip = points[found.problem, found.point]
        push = torch.cat((torch.zeros_like(x), motion), 1)
        for mine, theirs, place, there, normal, node in (
            (found.thing, owner, found.place, tip, found.normal, found.point),
            (owner, found.thing, tip, found.place, -found.normal, found.nearest),
        ):
            some = mine < objects
            problem, mine, theirs, place, there, normal = (value[some] for value in (found.problem, mine, theirs, place, there, normal))
            hands = theirs == objects
            other_arm = torch.where(hands.unsqueeze(-1), 0.0, there - middle[problem, theirs])
            driven = torch.where(hands.unsqueeze(-1), push[problem, node[some]], 0.0)
            row, other = problem * objects + mine, torch.where(hands, nobody, problem * objects + theirs)
            kind = torch.where(hands, ROBOT, OBJECT)
            parts.append((row, other, place - middle[problem, mine], other_arm, normal, found.gap[some], driven, kind))
        if self.ground:
            parts.append(self._feet(x, member, centre, spread))
        row, other, arm, other_arm, normal, gap, driven, kind = (torch.cat(values) for values in zip(*parts, strict=True))
        return Touch(row, other, arm / self.size, other_arm / self.size, normal, gap / self.move, driven / self.move, kind, contact_frames(normal, arm))

    def _feet(self, x: Tensor, member: Tensor, centre: Tensor, spread: Tensor) -> tuple[Tensor, ...]:
        """Where objects stand: of the lowest points, those that lie outermost."""
        problems, objects = len(x), member.shape[1]
        with torch.no_grad():
            along = 0.5 * torch.atan2(2.0 * spread[..., 0, 1], spread[..., 0, 0] - spread[..., 1, 1])  # its longer level axis
            angle = along.unsqueeze(-1) + torch.arange(FEET, device=x.device) * (2 * math.pi / FEET)  # (P, O, FEET)
            ways = torch.stack((angle.cos(), angle.sin()), -1)
            height = x[..., 2].unsqueeze(1)
            lowest = torch.where(member > 0, height, torch.inf).amin(-1, keepdim=True)
            score = ways @ x[..., :2].mT.unsqueeze(1) - 20.0 * (height - lowest - 0.002).clamp_min(0.0).unsqueeze(2)
            index = torch.where((member > 0).unsqueeze(2), score, -torch.inf).argmax(-1)  # (P, O, FEET)
        place = x.gather(1, index.flatten(1).unsqueeze(-1).expand(-1, -1, 3)).view(problems, objects, FEET, 3)
        there = (member.sum(-1) > 0).expand(problems, -1).unsqueeze(-1).expand(-1, -1, FEET).reshape(-1)
        arm = (place - centre.unsqueeze(2)).flatten(0, 2)[there]
        row = torch.arange(problems * objects, device=x.device).repeat_interleave(FEET)[there]
        nothing = torch.zeros_like(arm)
        down = nothing - nothing.new_tensor((0.0, 0.0, 1.0))
        nobody, ground = torch.full_like(row, problems * objects), torch.full_like(row, GROUND)
        return row, nobody, arm, nothing, down, place.flatten(0, 2)[there][:, 2], nothing, ground

    def _alone(self, touch: Touch, spread: Tensor, recent: Tensor) -> Tensor:
        """What stays the same over the rounds, in the frames of the contacts: arms, normal, spread and recent twist of the object, kind."""
        turn = touch.frame
        vectors = torch.cat((torch.stack((touch.arm, touch.other_arm), 1), recent.view(-1, 2, 3)[touch.row]), 1) @ turn.mT
        level = (turn * touch.normal.unsqueeze(1)).sum(-1)
        six = torch.triu_indices(3, 3, device=spread.device)
        seen = (turn @ spread[touch.row] @ turn.mT)[:, six[0], six[1]]
        kinds = torch.nn.functional.one_hot(touch.kind, 3).to(recent)
        return torch.cat((vectors.flatten(1), level[:, ::2], seen, touch.gap.clamp(-LIMIT, LIMIT).unsqueeze(-1), kinds), -1)

    def _tell(self, touch: Touch, twist: Tensor, alone: Tensor) -> Hints:
        padded = torch.cat((twist, twist.new_zeros(1, 6)))

        def motion(row: Tensor, arm: Tensor) -> Tensor:
            mine = padded[row]
            return mine[:, :3] + torch.linalg.cross(mine[:, 3:], arm, dim=-1)

        own = motion(touch.row, touch.arm)
        slide = motion(touch.other, touch.other_arm) + touch.driven - own
        closing = (slide * touch.normal).sum(-1)
        then = touch.gap + closing
        near = torch.minimum(touch.gap, then) * (self.move / self.margin)
        aside = limited(slide - closing.unsqueeze(-1) * touch.normal)
        local = (torch.stack((aside, limited(own)), 1) @ touch.frame.mT).flatten(1)
        numbers = torch.cat((alone, local, then.clamp(-LIMIT, LIMIT).unsqueeze(-1)), -1)
        return Hints(numbers, (1.0 - near.clamp(0.0, 1.0)).square(), then, aside)


def _shape(spread: Tensor) -> Tensor:
    """Of covariances (*B, 3, 3) what does not change when the world is turned about the vertical, (*B, 4)."""
    xx, yy, zz, xy = spread[..., 0, 0], spread[..., 1, 1], spread[..., 2, 2], spread[..., 0, 1]
    long = ((xx - yy).square() / 4 + xy.square() + 1e-12).sqrt()
    tilt = (spread[..., 0, 2].square() + spread[..., 1, 2].square() + 1e-12).sqrt()
    return torch.stack((xx + yy, long, zz, tilt), -1)


def _moments(positions: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Centroids (P, O, 3) and covariances (P, O, 3, 3) of objects' points."""
    count = member.sum(-1, keepdim=True).clamp_min(1.0)
    centre = (member @ positions) / count
    square = (positions.unsqueeze(-1) * positions.unsqueeze(-2)).flatten(-2)
    spread = ((member @ square) / count).unflatten(-1, (3, 3)) - centre.unsqueeze(-1) * centre.unsqueeze(-2)
    return centre, spread
