"""Point clouds as states: points of one or several objects, with a short history, and the points of the robot's own surface."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from structwm.scene import Scene
from structwm.state import Points, State, Tracks, fields_of

FAR = 1e4  # coordinates beyond which a point is taken for a mistake [m]


class PointCloud(State):
    """Points of objects, and of the surface of the robot that moves them. World frame; `point_cloud` fills in what is not given.

    N points of objects, M of the robot, C earlier instants. Ragged clouds are padded to one N and masked; padding holds any finite numbers. What stays the
    same from step to step (`rest`, ids, features, mask) is part of the state, because each problem of a batch may have other objects.
    """

    positions: Tensor  # (*B, N, 3) [m]
    history: Tensor  # (*B, N, C, 3) where they were one step before, two steps before, ... [m]
    robot: Tensor  # (*B, M, 3) points of the robot's surface, in one order throughout [m]
    robot_history: Tensor  # (*B, M, C, 3) [m]
    joints: Tensor  # (*B, J) configuration of the robot where its surface needs one; J may be 0
    rest: Tensor  # (*B, N, 3) where the points of each object are when nothing bends or stretches it, in a frame of its own [m]
    features: Tensor  # (*B, N, F) anything known of a point, such as its colour or stiffness; F may be 0
    object_ids: Tensor  # int64 (*B, N), from 0
    material_ids: Tensor  # int64 (*B, N), from 0
    held: Tensor  # int64 (*B, N), which point of the robot carries it along; -1: none
    mask: Tensor  # bool (*B, N), False where padding


def point_cloud(
    positions: Tensor,
    robot: Tensor,
    *,
    history: Tensor | None = None,
    robot_history: Tensor | None = None,
    context: int = 2,
    joints: Tensor | None = None,
    rest: Tensor | None = None,
    features: Tensor | None = None,
    object_ids: Tensor | None = None,
    material_ids: Tensor | None = None,
    held: Tensor | None = None,
    mask: Tensor | None = None,
) -> PointCloud:
    """A `PointCloud` of batch axes *B.

    Args:
        positions: (*B, N, 3) [m].
        robot: (*B, M, 3) [m]; M may be 0.
        history: (*B, N, C, 3) earlier positions, the newest first; at rest if not given.
        robot_history: (*B, M, C, 3), likewise.
        context: C, where no history is given.
        joints: (*B, J); none if not given.
        rest: (*B, N, 3) or (N, 3); the positions if not given.
        features: (*B, N, F) or (N, F); none if not given.
        object_ids: int (*B, N) or (N,); one object if not given.
        material_ids: int (*B, N) or (N,); one material if not given.
        held: int (*B, N) or (N,), which point of the robot carries each; none (-1) if not given.
        mask: bool (*B, N) or (N,); all count if not given.

    Raises:
        ValueError: in one sentence, on shapes that do not fit, negative ids, or points that count and are not finite or beyond 10 km.
    """
    batch, count = positions.shape[:-2], positions.shape[-2] if positions.ndim > 1 else 0
    if positions.ndim < 2 or positions.shape[-1] != 3 or not positions.is_floating_point():
        raise ValueError(f"A point cloud needs positions (*B, N, 3), got {positions.dtype} {tuple(positions.shape)}.")
    if robot.ndim < 2 or robot.shape[:-2] != batch or robot.shape[-1] != 3:
        raise ValueError(f"A point cloud needs points of the robot ({', '.join(map(str, batch))}, M, 3), got {tuple(robot.shape)}.")
    mask = positions.new_ones((*batch, count), dtype=torch.bool) if mask is None else mask.expand(*batch, count)
    positions = torch.where(mask.unsqueeze(-1), positions, 0.0)

    def filled(name: str, value: Tensor | None, default: Tensor, own: int) -> Tensor:
        if value is None:
            return default
        if value.ndim < own or value.shape[-own] != default.shape[-own]:
            raise ValueError(f"A point cloud of {count} points needs {name} like {tuple(default.shape)}, got {tuple(value.shape)}.")
        try:
            return value.expand(*batch, *value.shape[-own:])
        except RuntimeError:
            raise ValueError(f"A point cloud of batch axes {tuple(batch)} needs {name} that broadcast to them, got {tuple(value.shape)}.") from None

    def ids(name: str, value: Tensor | None, least: int = 0) -> Tensor:
        found = filled(name, value, mask.new_full((*batch, count), least, dtype=torch.int64), 1).to(torch.int64)
        if bool((found < least).any()):
            raise ValueError(f"A point cloud needs {name} from {least} on, got {int(found.min())}.")
        return torch.where(mask, found, least)

    def past(name: str, value: Tensor | None, now: Tensor) -> Tensor:
        still = now.unsqueeze(-2).expand(*now.shape[:-1], context, 3)
        found = filled(name, value, still, 3)
        return found if now is robot else torch.where(mask[..., None, None], found, 0.0)

    state = PointCloud(
        positions=positions,
        history=past("history", history, positions),
        robot=robot,
        robot_history=past("robot_history", robot_history, robot),
        joints=positions.new_zeros((*batch, 0)) if joints is None else joints,
        rest=torch.where(mask.unsqueeze(-1), filled("rest", rest, positions, 2), 0.0),
        features=filled("features", features, positions.new_zeros((*batch, count, 0)), 2),
        object_ids=ids("object_ids", object_ids),
        material_ids=ids("material_ids", material_ids),
        held=ids("held", held, -1),
        mask=mask,
        batch_size=batch,
    )
    check_cloud(state)
    return state


def check_cloud(state: PointCloud) -> None:
    """Refuse clouds that no model can read.

    Raises:
        ValueError: in one sentence, on a number that is not finite or beyond 10 km, a history of another length, or a problem without any point.
    """
    if not bool(state.mask.any(-1).all()):
        raise ValueError("A point cloud needs at least one point that is not masked in every problem.")
    if bool((state.held >= state.robot.shape[-2]).any()):
        raise ValueError(f"A point cloud with {state.robot.shape[-2]} points of a robot cannot hold by number {int(state.held.max())}.")
    if state.history.shape[-2] != state.robot_history.shape[-2] or state.history.shape[-2] < 1:
        raise ValueError(
            f"A point cloud needs as many earlier instants of its points as of the robot's, at least one, got {state.history.shape[-2]} "
            f"and {state.robot_history.shape[-2]}."
        )
    for name, value in fields_of(state).items():
        if value.is_floating_point() and value.numel() and not bool((value.abs() < FAR).all()):
            raise ValueError(f"A point cloud needs {name} that are finite and within {FAR / 1000:g} km; mask or remove points where they are not.")


class PointScene(Scene):
    """Shows the points of objects; its coordinates are the centroids of `objects` objects, 0 for one that is not there.

    Args:
        objects: how many objects have coordinates; states may hold more.
    """

    by_points = True

    def __init__(self, *, objects: int = 1) -> None:
        names = tuple(f"{axis}{number}" for number in range(objects) for axis in ("x", "y", "z"))
        super().__init__(coordinate_names=names, coordinate_units=("m",) * len(names))
        self.objects = objects

    def config(self) -> dict[str, Any]:
        return {"objects": self.objects}

    def points(self, state: PointCloud) -> Points:
        """All points of objects, with mask and object ids."""
        return Points(positions=state.positions, mask=state.mask, ids=state.object_ids, batch_size=state.batch_size)

    def tracks(self, state: PointCloud) -> Tracks:
        """The same points as keypoints in the world frame, all visible."""
        return Tracks(keypoints=state.positions, visibility=state.mask.to(state.positions), mask=state.mask, batch_size=state.batch_size)

    def coordinates(self, state: PointCloud) -> Tensor:
        own = torch.stack([state.mask & (state.object_ids == number) for number in range(self.objects)], -2).to(state.positions)
        centroids: Tensor = own @ state.positions / own.sum(-1, keepdim=True).clamp_min(1.0)
        return centroids.flatten(-2)


def turned(state: PointCloud, angle: Tensor, *, mirrored: Tensor | None = None) -> PointCloud:
    """The same world turned about the vertical by angles (*B) [rad], and mirrored across the plane y = 0 before that where bool (*B) says so."""
    cos, sin = angle.cos(), angle.sin()
    side = torch.ones_like(cos) if mirrored is None else torch.where(mirrored, -1.0, 1.0).to(cos)
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    matrix = torch.stack((cos, sin, zero, -sin * side, cos * side, zero, zero, zero, one), -1).unflatten(-1, (3, 3))  # of row vectors
    moved = {name: _apply(getattr(state, name), matrix, state.batch_dims) for name in ("positions", "history", "robot", "robot_history")}
    found: PointCloud = state.replace(**moved)
    return found


def _apply(vectors: Tensor, matrix: Tensor, depth: int) -> Tensor:
    """Vectors (*B, ..., 3) times matrices (*B, 3, 3)."""
    rows = vectors.reshape(*vectors.shape[:depth], math.prod(vectors.shape[depth:-1]), 3)
    return (rows @ matrix).reshape(vectors.shape)
