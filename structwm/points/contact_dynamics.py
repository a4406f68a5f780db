"""A network over rigid pieces and the places where they touch: each round, contacts say what they need, and pieces answer with how they move.

Where things touch is found on their surfaces (`skin`), not between sampled points, as in the face interactions of Allen et al., "Learning rigid dynamics with
face interaction graph networks", ICLR 2023. A round is told the gap that the present estimate would leave at each contact, and may correct it, as an
iteration of a contact solver does. What bends is divided into pieces that hang together, as in the shape matching of Mueller et al., "Meshless deformations
based on shape matching", SIGGRAPH 2005, and its points follow the pieces around them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structwm.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.noise import Noise
from structwm.training.windows import Batch

from .bonds import bonds_of, members, parts_of
from .cloud import PointCloud
from .cloud_model import CloudModel
from .contact_rounds import BOND, SPEEDS, Round, speeds
from .contact_touch import Surfaces, Units, hints, lasting, touch_of
from .graph import Material
from .graph_dynamics import perceptron
from .parts import FLAT, rigid_motion
from .skin import Things, skin_of

FEW = 0.02  # as `FLAT`, of pieces, which may have few points


class ContactDynamics(CloudModel):
    """Learned motion of objects that a robot pushes and that push each other, from where and how they touch.

    Objects are rigid, or with `parts` chains, ropes and soft bodies, made of pieces that are. Nodes are pieces, however many points they have: points only say
    where surfaces are, and those of the robot likewise, so more points cost little. The ground is the plane z = 0. An object does not touch itself.

    Args:
        width: numbers of each piece.
        rounds: of contacts and pieces.
        margin: [m] how near surfaces are, now or after a step, that act on each other.
        ground: whether pieces stand on z = 0.
        momentum: whether recent motion is told. Without, motion follows from contacts alone, and errors do not feed on themselves: for tables, where what
            is not pushed stops.
        parts: [m] how large the pieces are that every object is divided into; None: objects are rigid.
        options: as of `CloudModel`.
    """

    move: Tensor
    size: Tensor

    def __init__(
        self,
        *,
        width: int = 64,
        rounds: int = 4,
        margin: float = 0.01,
        ground: bool = True,
        momentum: bool = True,
        parts: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if width < 1 or rounds < 1 or not margin > 0 or not (parts is None or parts > 0):
            given = f"{width}, {rounds}, {margin} and {parts}"
            raise ValueError(f"ContactDynamics needs width and rounds of at least 1, a margin above 0 m, and parts above 0 m or None, got {given}.")
        self.width, self.margin, self.ground, self.momentum, self.parts = width, margin, ground, momentum, parts
        self.kinds = self.materials if self.materials > 1 else 0
        told = SPEEDS * self.context + 4 + 2 + self.features + self.kinds  # recent twists, spread, height and half height, what is known of it
        self.encoder = perceptron(told, width, width, norm=True)
        self.rounds = nn.ModuleList(Round(width, BOND if parts is None else BOND + 1) for _ in range(rounds))
        self.register_buffer("move", torch.tensor(0.005))
        self.register_buffer("size", torch.tensor(0.04))

    def config(self) -> dict[str, Any]:
        keys = ("width", "margin", "ground", "momentum", "parts")
        return super().config() | {"rounds": len(self.rounds)} | {key: getattr(self, key) for key in keys}

    def fit_scales(self, windows: Batch) -> None:
        """Take the units of motion and size from windows."""
        states: PointCloud = windows.states
        counted = states.mask & windows.valid[..., None]
        step = states.positions.diff(dim=1).norm(dim=-1)[counted[:, 1:]]
        fast = step[step > 0.1 * step.max()] if step.numel() else step
        if fast.numel():
            self.move.copy_(fast.mean().clamp_min(1e-6))
        start = states[:, 0]
        piece = start.object_ids if self.parts is None else parts_of(start.rest, start.object_ids, start.mask, self.parts)
        own = members(piece, start.mask).to(start.positions)
        self.size.copy_(_moments(start.positions, own)[1].diagonal(dim1=-2, dim2=-1).sum(-1)[own.any(-1)].mean().sqrt().clamp_min(1e-4))

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
        things = Things.of(thing, mask, objects + 1)
        few = len(graph.member)
        rest, ids, there = (fields[name].reshape(batch.numel(), *fields[name].shape[len(batch) :])[:few] for name in ("rest", "object_ids", "mask"))
        piece, member, bonds = ids, graph.member, None
        if self.parts is not None:
            piece = parts_of(rest, ids, there, self.parts)
            member = members(piece, there).to(rest)
            bonds = bonds_of(rest, piece, ids, member, graph.edges, self.parts)
        return Surfaces(graph.edges, graph.distances, member, skin, things, graph.member, piece, bonds)

    def moves(self, flat: dict[str, Tensor], graph: Material, motion: Tensor, batch: torch.Size, noise: Noise | None) -> Tensor:
        assert isinstance(graph, Surfaces)
        x, member = flat["positions"], graph.member
        problems, pieces = len(x), member.shape[1]
        centre, spread = _moments(x, member)
        past = torch.cat((x.unsqueeze(2), flat["history"]), 2).movedim(2, 1)  # (P, C + 1, N, 3)
        steps = (past[:, :-1] - past[:, 1:]).flatten(0, 1)
        alike = member if len(member) == 1 else member.repeat_interleave(self.context, 0)
        _, shift, turn = rigid_motion(past[:, :-1].flatten(0, 1), steps, alike, FLAT if self.parts is None else FEW)
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
        speed = (member.mT @ recent[:, 0]).detach()
        arms = x - member.mT @ centre
        drift = self.move * speed[..., :3] + torch.linalg.cross((self.move / self.size) * speed[..., 3:], arms, dim=-1)
        units = Units(self.move, self.size, self.margin)
        touch = touch_of(flat, graph, centre, spread, drift, motion, units, ground=self.ground)
        bulk = spread.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        eye = torch.eye(3, dtype=x.dtype, device=x.device)
        mobility = torch.linalg.inv((bulk * (1.0 + FLAT) * eye - spread) / self.size.square() + 1e-4 * eye).flatten(0, 1)
        newest, twist = told_of[:, 0].flatten(0, 1), torch.zeros_like(nodes[:, :6])
        alone = lasting(touch, (spread / self.size.square()).flatten(0, 1), newest, self.rounds[0].kinds)  # type: ignore[arg-type]
        bonds = graph.bonds
        for each in self.rounds:
            nodes, twist = each(nodes, twist, newest, touch, hints(touch, twist, alone, units), mobility, None if bonds is None else bonds.family)
        twist = twist.view(problems, pieces, 6)
        shift, matrix = twist[..., :3] * self.move, quaternion_to_matrix(rotation_vector_to_quaternion(twist[..., 3:] * (self.move / self.size)))
        say = member.mT if bonds is None else bonds.say.mT
        own = (say @ matrix.flatten(-2)).unflatten(-1, (3, 3))
        if bonds is None:
            return (own @ arms.unsqueeze(-1)).squeeze(-1) - arms + say @ shift  # type: ignore[no-any-return]
        return (own @ x.unsqueeze(-1)).squeeze(-1) - x + say @ (centre + shift - (matrix @ centre.unsqueeze(-1)).squeeze(-1))  # type: ignore[no-any-return]


def _shape(spread: Tensor) -> Tensor:
    """Of covariances (*B, 3, 3) what does not change when the world is turned about the vertical, (*B, 4)."""
    xx, yy, zz, xy = spread[..., 0, 0], spread[..., 1, 1], spread[..., 2, 2], spread[..., 0, 1]
    long = ((xx - yy).square() / 4 + xy.square() + 1e-12).sqrt()
    tilt = (spread[..., 0, 2].square() + spread[..., 1, 2].square() + 1e-12).sqrt()
    return torch.stack((xx + yy, long, zz, tilt), -1)


def _moments(positions: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Centroids (P, K, 3) and covariances (P, K, 3, 3) of the points of pieces, to one of which each point belongs at most."""
    count = member.sum(-1, keepdim=True).clamp_min(1.0)
    centre = (member @ positions) / count
    arms = positions - member.mT @ centre
    return centre, ((member @ (arms.unsqueeze(-1) * arms.unsqueeze(-2)).flatten(-2)) / count).unflatten(-1, (3, 3))
