"""The frame of every model of point clouds: actions are motions of the robot's surface, what is held goes with it, history moves along."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from structwm.noise import Noise
from structwm.spec import Action, ActionSpec, ModelSpec, Traits
from structwm.state import state_of
from structwm.transition import Trajectory, TransitionModel, all_valid, regular_times

from .cloud import PointCloud, PointScene, check_cloud
from .graph import Edges, Material, material

CONSTANT = ("joints", "rest", "features", "object_ids", "material_ids", "held", "mask")
MOVING = ("positions", "history", "robot", "robot_history")


class CloudModel(TransitionModel[PointCloud]):
    """A model that says in `moves` how far each point goes in a step.

    The action is the motion of each point of the robot's surface over the step, (*B, 3 M) [m]; `Embodied` offers commands of few numbers instead. Points that
    the robot holds (`PointCloud.held`) go with it.

    Args:
        robot_points: M.
        dt: duration of a step [s].
        context: C, earlier instants that the state carries.
        features: F, numbers known of each point.
        materials: how many kinds of material are told apart.
        objects: how many objects the scene names coordinates of; states may hold any number.
        neighbours: K, points of the same object that act on a point.
    """

    def __init__(self, *, robot_points: int, dt: float, context: int = 2, features: int = 0, materials: int = 1, objects: int = 1, neighbours: int = 8) -> None:
        super().__init__()
        for key, value, least in (("robot_points", robot_points, 0), ("context", context, 1), ("neighbours", neighbours, 1), ("materials", materials, 1)):
            if value < least:
                raise ValueError(f"{type(self).__name__} needs {key} of at least {least}, got {value}.")
        self.robot_points, self.dt, self.context, self.features, self.materials, self.objects = robot_points, dt, context, features, materials, objects
        self.neighbours = neighbours
        self.spec = self._spec(robot_points)
        self.scene = PointScene(objects=objects)

    def _spec(self, robot_points: int) -> ModelSpec:
        size = 3 * robot_points
        names = tuple(f"d{axis}{number}" for number in range(robot_points) for axis in "xyz")
        action = ActionSpec.box([-float("inf")] * size, [float("inf")] * size, names=names, units=("m",) * size, convention="delta")
        return ModelSpec(PointCloud, action, self.dt, context=self.context + 1, traits=Traits(stochastic=self.stochastic))

    stochastic = False

    def config(self) -> dict[str, Any]:
        keys = ("robot_points", "dt", "context", "features", "materials", "objects", "neighbours")
        return {key: getattr(self, key) for key in keys}

    def with_robot(self, points: int) -> Self:
        """The same model, weights shared, for a robot with another number of points."""
        other = copy.copy(self)
        other.robot_points, other.spec = points, self._spec(points)
        return other

    @abstractmethod
    def moves(self, flat: dict[str, Tensor], graph: Material, motion: Tensor, batch: torch.Size, noise: Noise | None) -> Tensor:
        """How far points go, (P, N, 3) [m].

        Args:
            flat: fields of P problems, (P, ...).
            graph: within their objects.
            motion: of the robot's points (P, M, 3) [m].
            batch: axes *B of which P is the product.
            noise: of this step, or None for the mean.
        """

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
        flat = flat_fields(fields, batch)
        moved = self._advance(flat, self._graph(fields, batch), action.reshape(len(flat["positions"]), -1, 3), batch, noise)
        return fields | {name: value.reshape(*batch, *value.shape[1:]) for name, value in moved.items()}

    def roll_fields(self, kind: type[PointCloud], fields: dict[str, Tensor], batch: torch.Size, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        assert isinstance(actions, Tensor)
        horizon, depth = actions.shape[-2], len(batch)
        graph, flat = self._graph(fields, batch), flat_fields(fields, batch)
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
        x, robot, held = flat["positions"], flat["robot"], flat["held"]
        moves = torch.where(flat["mask"].unsqueeze(-1), self.moves(flat, graph, motion, batch, noise), 0.0)
        moves = torch.where((held >= 0).unsqueeze(-1), carried(held, motion), moves)
        return {
            "positions": x + moves,
            "history": torch.cat((x.unsqueeze(-2), flat["history"][..., :-1, :]), -2),
            "robot": robot + motion,
            "robot_history": torch.cat((robot.unsqueeze(-2), flat["robot_history"][..., :-1, :]), -2),
        }


def carried(held: Tensor, motion: Tensor) -> Tensor:
    """The motion (P, N, 3) of the robot's point that carries each; 0 where there is none. Of `held` (P, N) and motions (P, M, 3)."""
    if not motion.shape[1]:
        return motion.new_zeros(*held.shape, 3)
    found = motion.gather(1, held.clamp_min(0).unsqueeze(-1).expand(-1, -1, 3))
    return torch.where((held >= 0).unsqueeze(-1), found, 0.0)


def flat_fields(fields: dict[str, Tensor], batch: torch.Size) -> dict[str, Tensor]:
    """Fields (*B, ...) as (P, ...)."""
    return {name: value.reshape(batch.numel(), *value.shape[len(batch) :]) for name, value in fields.items()}
