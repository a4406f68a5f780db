"""What learned models of point clouds share: what the network is told of each point and each neighbour, and what becomes of its answer.

The network sees differences only: positions from the object's centroid and from neighbours, recent and coming motions, in units read from data
(`fit_scales`). So it does not depend on where in the world things happen; with `ground` it is also told how high each point is.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from structwm.noise import Noise
from structwm.spec import Action, ActionSpec, ModelSpec, Traits
from structwm.state import state_of
from structwm.training.heads import HEADS, Head
from structwm.training.windows import Batch
from structwm.transition import Trajectory, TransitionModel, all_valid, regular_times

from .cloud import PointCloud, PointScene, check_cloud
from .graph import Edges, Material, contacts, material, rows_of, taken
from .parts import as_rigid

CONSTANT = ("joints", "rest", "features", "object_ids", "material_ids", "held", "mask")
MOVING = ("positions", "history", "robot", "robot_history")
EDGE = 11  # numbers that are told of an edge


@dataclass(frozen=True)
class Told:
    """What the network is given of P problems with N points and M points of a robot; Q = N + M nodes, the robot's last."""

    nodes: Tensor  # (P, Q, F)
    within: Edges  # (P or 1, N, K) neighbours in the same object
    within_rows: Tensor
    within_edges: Tensor  # (P, N, K, EDGE)
    across: Edges  # (P, N, L) nodes of other things
    across_weights: Tensor  # (P, N, L) in [0, 1], which fade to 0 where things are out of reach
    across_rows: Tensor
    across_edges: Tensor  # (P, N, L, EDGE)
    member: Tensor  # (P or 1, O, N)


class PointDynamics(TransitionModel[PointCloud]):
    """Predicts how every point of a cloud moves, given how the robot's surface does. Subclasses are the networks: `encode` and what they need.

    The action is the motion of each point of the robot's surface over the step, (*B, 3 M) [m]; `Embodied` offers commands of few numbers instead. A step is
    `x' = x + inertia * (x - x_before) + scale * network`, or for rigid objects the rigid motion nearest to it.

    Args:
        robot_points: M.
        dt: duration of a step [s].
        context: C, earlier instants that the state carries and the network sees.
        features: F, numbers known of each point.
        materials: how many kinds of material are told apart.
        objects: how many objects the scene names coordinates of; states may hold any number.
        neighbours: K, points of the same object that act on a point.
        touching: L, points of other things that act on a point.
        reach: [m] how near those are; None: read from data, with the scales.
        rigid: which objects keep their shape: none, all, or those of these materials (an object is of the material of its first point).
        inertia: 1: the network says how motion changes; 0: it says the motion.
        ground: whether the network is told heights above z = 0.
        head: `mean`, or `gaussian` for a predicted spread; of rigid objects all points err together.
    """

    length: Tensor
    move: Tensor
    change: Tensor
    near: Tensor

    def __init__(
        self,
        *,
        robot_points: int,
        dt: float,
        context: int = 2,
        features: int = 0,
        materials: int = 1,
        objects: int = 1,
        neighbours: int = 8,
        touching: int = 6,
        reach: float | None = None,
        rigid: Literal["none", "all"] | Sequence[int] = "none",
        inertia: float = 1.0,
        ground: bool = False,
        head: Literal["mean", "gaussian"] = "mean",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        for key, value, least in (("robot_points", robot_points, 0), ("context", context, 1), ("neighbours", neighbours, 1), ("touching", touching, 1)):
            if value < least:
                raise ValueError(f"{name} needs {key} of at least {least}, got {value}.")
        if head not in ("mean", "gaussian") or (isinstance(rigid, str) and rigid not in ("none", "all")):
            raise ValueError(f"{name} knows the heads mean and gaussian, and rigid='none', 'all' or materials, got {head!r} and {rigid!r}.")
        self.robot_points, self.dt, self.context, self.features, self.materials, self.objects = robot_points, dt, context, features, materials, objects
        self.neighbours, self.touching, self.reach, self.inertia, self.ground, self.head_name = neighbours, touching, reach, inertia, ground, head
        self.rigid = rigid if isinstance(rigid, str) else tuple(int(number) for number in rigid)
        self.told = 3 * context + 3 + 3 + 2 + int(ground) + features + (materials if materials > 1 else 0)  # numbers that are told of a node
        self.head: Head = HEADS[head](3)
        self.spec = self._spec(robot_points)
        self.scene = PointScene(objects=objects)
        for key, number in (("length", 0.02), ("move", 0.005), ("change", 0.005), ("near", reach or 0.04)):
            self.register_buffer(key, torch.tensor(number))

    def _spec(self, robot_points: int) -> ModelSpec:
        size = 3 * robot_points
        names = tuple(f"d{axis}{number}" for number in range(robot_points) for axis in "xyz")
        action = ActionSpec.box([-float("inf")] * size, [float("inf")] * size, names=names, units=("m",) * size, convention="delta")
        return ModelSpec(PointCloud, action, self.dt, context=self.context + 1, traits=Traits(stochastic=HEADS[self.head_name].stochastic))

    def config(self) -> dict[str, Any]:
        keys = ("robot_points", "dt", "context", "features", "materials", "objects", "neighbours", "touching", "reach", "rigid", "inertia", "ground")
        return {key: getattr(self, key) for key in keys} | {"head": self.head_name}

    def with_robot(self, points: int) -> Self:
        """The same network, weights shared, for a robot with another number of points."""
        other = copy.copy(self)
        other.robot_points, other.spec = points, self._spec(points)
        return other

    def fit_scales(self, windows: Batch) -> None:
        """Take the units of length, motion and its change from windows."""
        states: PointCloud = windows.states
        counted = states.mask & windows.valid[..., None]
        step = states.positions.diff(dim=1)[counted[:, 1:]]
        before = (states.positions - states.history[..., 0, :])[:, :-1][counted[:, 1:]]
        start = states[:, 0]
        graph = material(start.rest, start.object_ids, start.mask, min(3, self.neighbours))
        spacing = graph.distances[graph.edges.valid]
        if len(spacing):
            self.length.copy_(spacing.mean())
        self.move.copy_(step.square().mean().sqrt().clamp_min(1e-6))
        self.change.copy_((step - self.inertia * before).square().mean().sqrt().clamp_min(1e-7))
        if self.reach is None:
            robot = states.robot.diff(dim=1).norm(dim=-1)
            self.near.copy_(2.0 * self.length + 2.0 * (robot.max() if robot.numel() else 0.0))

    # the contract

    def prepare(self, state: PointCloud, actions: Action) -> tuple[PointCloud, Action]:
        state, actions = super().prepare(state, actions)
        check_cloud(state)
        sizes = (state.robot.shape[-2], state.history.shape[-2], state.features.shape[-1])
        if sizes != (self.robot_points, self.context, self.features):
            raise ValueError(
                f"{type(self).__name__} reads clouds of {self.robot_points} points of a robot, {self.context} earlier instants and {self.features} features, "
                f"got {', '.join(map(str, sizes))}."
            )
        if bool((state.material_ids >= self.materials).any()):
            raise ValueError(f"{type(self).__name__} knows {self.materials} materials, got a point of number {int(state.material_ids.max())}.")
        return state, actions

    def step_fields(self, fields: dict[str, Tensor], action: Action, *, noise: Noise | None = None) -> dict[str, Tensor]:
        batch = fields["positions"].shape[:-2]
        flat = _flat(fields, batch)
        moved = self._advance(flat, self._graph(fields, batch), action.reshape(len(flat["positions"]), -1, 3), batch, noise)
        return fields | {name: value.reshape(*batch, *value.shape[1:]) for name, value in moved.items()}

    def roll_fields(self, kind: type[PointCloud], fields: dict[str, Tensor], batch: torch.Size, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        assert isinstance(actions, Tensor)
        horizon, depth = actions.shape[-2], len(batch)
        graph, flat = self._graph(fields, batch), _flat(fields, batch)
        motions, moments = actions.reshape(batch.numel(), horizon, -1, 3), [{name: flat[name] for name in MOVING}]
        for t in range(horizon):
            at = None if noise is None else noise.at(noise.step + t)
            moved = self._advance(flat, graph, motions[:, t], batch, at)
            flat = flat | moved
            moments.append(moved)
        instants = (*batch, horizon + 1)
        found = {name: torch.stack([moment[name] for moment in moments], 1) for name in MOVING}
        states = {name: value.view(*instants, *value.shape[2:]) for name, value in found.items()}
        states |= {name: fields[name].unsqueeze(depth).expand(*instants, *fields[name].shape[depth:]) for name in CONSTANT}
        times = regular_times(batch, horizon, self.dt, actions.device)
        return Trajectory(self.scene, state_of(kind, states, instants), actions, times, all_valid(instants, actions.device))

    # a step

    def _graph(self, fields: dict[str, Tensor], batch: torch.Size) -> Material:
        """The graph within objects, of as few problems as differ: planners repeat a start over their candidates."""
        names = ("rest", "object_ids", "mask")
        alike = [all(fields[name].stride(axis) == 0 for name in names) for axis in range(len(batch))]
        few = [1 if same else size for same, size in zip(alike, batch, strict=True)]
        rest, ids, mask = (fields[name][tuple(slice(0, size) for size in few)].flatten(0, len(batch) - 1) if batch else fields[name][None] for name in names)
        if len(rest) > 1 and bool((rest == rest[:1]).all()) and bool((ids == ids[:1]).all()) and bool((mask == mask[:1]).all()):
            rest, ids, mask = rest[:1], ids[:1], mask[:1]
        graph = material(rest, ids, mask, self.neighbours)
        if len(rest) == 1:
            return graph
        shape = torch.Size(few)

        def spread(value: Tensor) -> Tensor:
            return value.view(*shape, *value.shape[1:]).expand(*batch, *value.shape[1:]).flatten(0, len(batch) - 1)

        return Material(Edges(spread(graph.edges.index), spread(graph.edges.valid)), spread(graph.distances), spread(graph.member))

    def _advance(self, flat: dict[str, Tensor], graph: Material, motion: Tensor, batch: torch.Size, noise: Noise | None) -> dict[str, Tensor]:
        """What moves, one step later: `MOVING` of P problems under motions (P, M, 3) of the robot."""
        x, before = flat["positions"], flat["history"]
        told = self._tell(flat, graph, motion)
        raw = self.encode(told)  # (P, N, head inputs)
        out = self.head.mean(raw)
        moves = self.inertia * (x - before[..., 0, :]) + self.change * out
        if noise is not None and self.head.stochastic:
            moves = moves + self.change * self._noise(raw, graph.member, batch, noise)
        moves = torch.where(flat["mask"].unsqueeze(-1), moves, 0.0)
        stiff = self._stiff(flat, graph)
        if stiff is not None:
            of_object = (stiff.sum(1) > 0).unsqueeze(-1)
            moves = torch.where(of_object, as_rigid(x, moves, stiff), moves)
        moves = torch.where((flat["held"] >= 0).unsqueeze(-1), _carried(flat["held"], motion), moves)
        robot = flat["robot"]
        return {
            "positions": x + moves,
            "history": torch.cat((x.unsqueeze(-2), before[..., :-1, :]), -2),
            "robot": robot + motion,
            "robot_history": torch.cat((robot.unsqueeze(-2), flat["robot_history"][..., :-1, :]), -2),
        }

    def _stiff(self, flat: dict[str, Tensor], graph: Material) -> Tensor | None:
        """Membership (P or 1, O, N) in rigid objects; None where there are none."""
        if self.rigid == "none":
            return None
        if self.rigid == "all":
            return graph.member
        first = graph.member.argmax(-1)  # (P or 1, O)
        kind = flat["material_ids"].gather(1, first.expand(len(flat["material_ids"]), -1))
        return graph.member * torch.isin(kind, torch.tensor(self.rigid, device=kind.device)).unsqueeze(-1)

    def _noise(self, raw: Tensor, member: Tensor, batch: torch.Size, noise: Noise) -> Tensor:
        """Draws (P, N, 3) of the head's spread around its mean."""
        drawn = noise.normal((*batch, *raw.shape[1:2], 3), like=raw).reshape(*raw.shape[:2], 3)
        if self.rigid != "none":  # all points of an object err as one of them does
            drawn = member.transpose(-1, -2) @ drawn.gather(1, member.argmax(-1).expand(len(drawn), -1).unsqueeze(-1).expand(-1, -1, 3))
        return self.head.std(raw) * drawn

    def _tell(self, flat: dict[str, Tensor], graph: Material, motion: Tensor) -> Told:
        x, robot, mask, ids = flat["positions"], flat["robot"], flat["mask"], flat["object_ids"]
        problems, count, width = len(x), x.shape[1], x.shape[1] + robot.shape[1]
        where = torch.cat((x, robot), 1)
        past = torch.cat((flat["history"], flat["robot_history"]), 1)
        recent = torch.cat((where.unsqueeze(2), past), 2)
        speeds = (recent[:, :, :-1] - recent[:, :, 1:]) / self.move  # (P, Q, C, 3)
        coming = torch.cat((_carried(flat["held"], motion), motion), 1) / self.move
        centre = graph.member.transpose(-1, -2) @ ((graph.member @ x) / graph.member.sum(-1, keepdim=True).clamp_min(1.0))
        middle = robot.mean(1, keepdim=True) if robot.shape[1] else robot
        arms = torch.cat((x - centre, robot - middle), 1) / (4.0 * self.length)
        robotic = torch.cat((x.new_zeros(count), x.new_ones(width - count))).expand(problems, -1).unsqueeze(-1)
        carried = torch.nn.functional.pad((flat["held"] >= 0).to(x), (0, width - count), value=1.0).unsqueeze(-1)
        parts = [speeds.flatten(2), coming, arms, robotic, carried]
        if self.ground:
            parts.append((where[..., 2:] / (4.0 * self.length)).clamp(-4.0, 4.0))
        if self.features:
            parts.append(torch.nn.functional.pad(flat["features"], (0, 0, 0, width - count)))
        if self.materials > 1:
            kinds = torch.nn.functional.one_hot(flat["material_ids"], self.materials).to(x)
            parts.append(torch.nn.functional.pad(kinds, (0, 0, 0, width - count)))
        seen = torch.cat((mask, mask.new_ones(problems, width - count)), 1)
        owner = torch.nn.functional.pad(ids, (0, width - count), value=-1)
        across = contacts(where, owner, seen, self.touching, float(self.near), count)
        both = torch.cat((where, speeds[:, :, 0], coming), -1)
        within_rows, across_rows = rows_of(graph.edges, width, problems), rows_of(across, width, problems)
        return Told(
            torch.cat(parts, -1),
            graph.edges,
            within_rows,
            self._edges(both, within_rows, graph.edges, graph.distances),
            across,
            self._fading(where, across_rows, across),
            across_rows,
            self._edges(both, across_rows, across, None),
            graph.member,
        )

    def _fading(self, where: Tensor, rows: Tensor, edges: Edges) -> Tensor:
        """Weights (P, R, L) of edges: 1 at touch, 0 at `near`, so that nothing jumps as things come near."""
        receivers, k = edges.index.shape[1:]
        distance = (taken(where, rows, receivers, k) - where[:, :receivers, None]).square().sum(-1).add(1e-18).sqrt()
        weights: Tensor = (1.0 - (distance / self.near).square()).clamp_min(0.0).square() * edges.valid
        return weights

    def _edges(self, both: Tensor, rows: Tensor, edges: Edges, rest: Tensor | None) -> Tensor:
        """What is told of edges, (P, R, K, EDGE): where the sender is, how far, how much farther than at rest, and how it moves and will move from there."""
        receivers, k = edges.index.shape[1:]
        apart = taken(both, rows, receivers, k) - both[:, :receivers, None]
        offset = apart[..., :3] / self.length
        distance = offset.square().sum(-1, keepdim=True).add(1e-12).sqrt()
        strain = torch.zeros_like(distance) if rest is None else 4.0 * (distance - (rest / self.length).unsqueeze(-1))
        return torch.cat((offset, distance, strain, apart[..., 3:]), -1) * edges.valid.unsqueeze(-1)

    @abstractmethod
    def encode(self, told: Told) -> Tensor:
        """Raw numbers (P, N, head inputs) of every point."""


def _carried(held: Tensor, motion: Tensor) -> Tensor:
    """The motion (P, N, 3) of the robot's point that carries each; 0 where there is none. Of `held` (P, N) and motions (P, M, 3)."""
    if not motion.shape[1]:
        return motion.new_zeros(*held.shape, 3)
    found = motion.gather(1, held.clamp_min(0).unsqueeze(-1).expand(-1, -1, 3))
    return torch.where((held >= 0).unsqueeze(-1), found, 0.0)


def _flat(fields: dict[str, Tensor], batch: torch.Size) -> dict[str, Tensor]:
    """Fields (*B, ...) as (P, ...)."""
    return {name: value.reshape(batch.numel(), *value.shape[len(batch) :]) for name, value in fields.items()}
