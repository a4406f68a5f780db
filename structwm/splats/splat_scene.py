"""`SplatScene`: what moves in a scene of splats, and how it is packed from the state of the model that drives it and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.render.rendering import Rendering, render
from structwm.scene import Scene
from structwm.state import Splats, State, state_of

from .driven import DrivenScene, cast_tensors, given_fields

STATIC, ROBOT = -1, -2  # object ids of splats that never move, and of those on the robot's surface


class SplatScene(State):
    """What moves in a scene of splats, world frame: the nodes that carry them, the robot's points, and what else the driving model goes by.

    What does not change (the splats themselves, which node each follows, and the constants of the driving model's state) is part of the model.
    """

    positions: Tensor  # (*B, N, 3) of the nodes, the driving model's points [m]
    robot: Tensor  # (*B, M, 3) points of the robot's surface [m]; M is 0 where the driving model knows of none
    memory: Tensor  # (*B, D) the other fields of the driving model's state that may change, flattened in their order: earlier positions, velocities


@dataclass(frozen=True, eq=False)
class Packing:
    """How states of a driving model become `SplatScene`, and back.

    Raises:
        ValueError: in one sentence, if the start is not one state.
    """

    scene: Scene  # of the driving model
    kind: type[State]
    start: Mapping[str, Tensor]  # fields of a state without batch axes
    constant: tuple[str, ...]  # floating fields of it that no step changes; integers never change

    @cached_property
    def nodes_are_field(self) -> bool:
        """Whether the nodes are the state's own `positions`, rather than something that is computed from it."""
        seen = self.scene.points(self.state()).positions
        return "positions" in self.start and self.start["positions"].shape == seen.shape and bool((self.start["positions"] == seen).all())

    def state(self) -> Any:
        """The start, as a state of the driving model."""
        return state_of(self.kind, self.start, [])

    @cached_property
    def names(self) -> tuple[list[str], list[str]]:
        """Names of fields in `memory`, and of those that are constant."""
        constant = [name for name, value in self.start.items() if name in self.constant or not value.is_floating_point()]
        own = ["positions"] if self.nodes_are_field else []
        own += ["robot"] if _is_robot(self.start) else []
        return [name for name in self.start if name not in (*own, *constant)], constant

    def pack(self, state: Any) -> SplatScene:
        """A state (*B) of the driving model as a scene of splats."""
        batch, positions = state.batch_size, self.scene.points(state).positions
        robot = state.robot if _is_robot(self.start) else positions.new_zeros(*batch, 0, 3)
        parts = [getattr(state, name).reshape(*batch, -1) for name in self.names[0]]
        memory = torch.cat(parts, -1) if parts else positions.new_zeros(*batch, 0)
        return state_of(SplatScene, {"positions": positions, "robot": robot, "memory": memory}, batch)

    def unpack(self, state: SplatScene) -> Any:
        """A scene of splats (*B) as a state of the driving model."""
        batch, (carried, constant) = state.batch_size, self.names
        found = {name: self.start[name].expand(*batch, *self.start[name].shape) for name in constant}
        if self.nodes_are_field:
            found["positions"] = state.positions
        if _is_robot(self.start):
            found["robot"] = state.robot
        sizes = [self.start[name].numel() for name in carried]
        parts = state.memory.split(sizes, -1) if sizes else ()
        found |= {name: part.reshape(*batch, *self.start[name].shape) for name, part in zip(carried, parts, strict=True)}
        return state_of(self.kind, {name: found[name] for name in self.start}, batch)

    def check_constant(self, state: Any) -> None:
        """Refuse a prediction that changed what is taken to be constant.

        Raises:
            ValueError: in one sentence.
        """
        for name in self.names[1]:
            value = getattr(state, name)
            if not bool((value == self.start[name]).all()):
                raise ValueError(
                    f"The driving model changes {name!r} of its {self.kind.__name__}, which SplatDynamics takes to be constant; leave it out of them."
                )


def _is_robot(start: Mapping[str, Tensor]) -> bool:
    return "robot" in start and start["robot"].ndim == 2 and start["robot"].shape[-1] == 3


class SplatReader(DrivenScene):
    """Reads `SplatScene`: splats that follow nodes of their own object or the robot's points, and static ones; other views are the driving model's.

    Args:
        packing: of the driving model's states.
        splats: of one world, all of them, or its fields by name.
        ids: int (S,), the object of each: `STATIC` stays where it is, `ROBOT` follows the robot's points.
        nodes: (N, 3) or, with the robot's points behind, (N + M, 3) [m].
        options: as of `DrivenScene`, of the splats that move.
    """

    def __init__(self, packing: Packing, splats: Splats | Mapping[str, Tensor], ids: Tensor, nodes: Tensor, **options: Any) -> None:
        whole = given_fields(splats) if isinstance(splats, Splats) else dict(splats)
        still = ids == STATIC
        self.packing, self.ids, self.whole = packing, ids, whole
        self.background = {name: value[still] for name, value in whole.items()}
        self.order = torch.cat(((~still).nonzero()[:, 0], still.nonzero()[:, 0])).argsort()
        super().__init__(packing.scene, {name: value[~still] for name, value in whole.items()}, nodes, **options)

    def config(self) -> dict[str, Any]:
        own = {"packing": self.packing, "splats": self.whole, "ids": self.ids}
        return {name: value for name, value in super().config().items() if name not in ("scene", "splats")} | own

    def cast(self, fn: Callable[[Tensor], Tensor]) -> SplatReader:
        """As `DrivenScene.cast`."""
        packing = Packing(self.packing.scene, self.packing.kind, cast_tensors(dict(self.packing.start), fn), self.packing.constant)
        return SplatReader(**cast_tensors(self.config() | {"packing": packing}, fn))

    def inner(self, state: SplatScene) -> Any:
        return self.packing.unpack(state)

    def carriers(self, state: SplatScene) -> Tensor:
        moved = state.positions
        return moved if len(self.nodes) == moved.shape[-2] else torch.cat((moved, state.robot), -2)

    def splats(self, state: SplatScene, *, deformed: bool = False) -> Splats:
        """All splats (*B, S), in the order in which they were given."""
        moved = super().splats(state, deformed=deformed)
        if not len(self.background["means"]):
            return moved
        batch, fields = moved.batch_size, {}
        for name, value in given_fields(moved).items():
            still = self.background.get(name)
            if still is None:  # deformations, which drawing alone asks for
                still = torch.eye(3).to(value).expand(len(self.background["means"]), 3, 3)
            fields[name] = torch.cat((value, still.expand(*batch, *still.shape)), len(batch))[(slice(None),) * len(batch) + (self.order,)]
        return Splats(**fields, batch_size=batch)  # type: ignore[arg-type]

    def average(self, states: SplatScene, dim: int) -> SplatScene:
        return self.packing.pack(self.scene.average(self.inner(states), dim))


def render_states(scene: Scene, states: Any, camera: Camera, *, chunk: int = 8, **options: Any) -> Rendering:
    """What cameras see of states, for any scene with a splats view; gradients reach the states.

    Args:
        scene: reads the states.
        states: (*B).
        camera: of any axes *V; every state is seen by each.
        chunk: states that are drawn at once; fewer take less memory.
        options: as of `structwm.render.render`, such as `background`.

    Returns:
        Images (*B, *V, height, width, 3) and so on.
    """
    batch, views = tuple(states.batch_size), tuple(camera.batch_size)
    flat, parts = states.reshape(-1), []
    shared = Camera(camera.intrinsics.expand(*views, 3, 3).unsqueeze(0), camera.world_from_camera.unsqueeze(0), camera.width, camera.height)
    for first in range(0, flat.batch_size[0], chunk):
        some = flat[first : first + chunk]
        splats = scene.splats(some, deformed=True) if isinstance(scene, DrivenScene) else scene.splats(some)
        parts.append(render(splats, shared, **options))

    def joined(values: Sequence[Tensor | None]) -> Any:
        return None if values[0] is None else torch.cat([value for value in values if value is not None]).unflatten(0, batch)

    if not batch:
        return Rendering(*(None if value is None else value[0] for value in (parts[0].image, parts[0].depth, parts[0].alpha, parts[0].features)))  # type: ignore[arg-type]
    return Rendering(*(joined([getattr(part, name) for part in parts]) for name in ("image", "depth", "alpha", "features")))
