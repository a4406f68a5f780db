"""What moves the points: how the surface of a robot moves under a command of few numbers, so that one learned model serves several embodiments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.noise import Noise
from structwm.spec import Action, ActionSpec
from structwm.transition import Trajectory, TransitionModel
from structwm.wrappers import ModelWrapper

from .cloud import PointCloud

AXES = ("vx", "vy", "vz", "wx", "wy", "wz")


class RobotSurface(ABC):
    """Sampled points of a robot's surface, and how they move.

    `action` says what is commanded. The points are those of the state, `PointCloud.robot`, in one order throughout.
    """

    action: ActionSpec
    points: int  # M

    @abstractmethod
    def move(self, robot: Tensor, joints: Tensor, action: Tensor, dt: float) -> tuple[Tensor, Tensor]:
        """Where points (*B, M, 3) [m] and joints (*B, J) are after an action (*B, A) was held for `dt` [s]."""


class HeldPoints(RobotSurface):
    """Points that are each moved by a velocity of their own: what grippers hold of a cable or a cloth.

    Args:
        points: M.
        max_speed: bound of each component [m/s].
    """

    def __init__(self, points: int, *, max_speed: float = 2.0) -> None:
        names = tuple(f"{axis}{number}" for number in range(points) for axis in AXES[:3])
        self.points, self.max_speed = points, max_speed
        self.action = ActionSpec.box(-max_speed, max_speed, 3 * points, names=names, units=("m/s",) * len(names), convention="velocity")

    def config(self) -> dict[str, Any]:
        return {"points": self.points, "max_speed": self.max_speed}

    def move(self, robot: Tensor, joints: Tensor, action: Tensor, dt: float) -> tuple[Tensor, Tensor]:
        return robot + dt * action.unflatten(-1, (-1, 3)), joints


class RigidTools(RobotSurface):
    """One or several rigid tools, such as pushers or fingers, each moved by components of a twist in the world frame, about the centroid of its points.

    Args:
        points: how many points each tool has; they stand one tool after another.
        axes: which components are commanded of each tool, of vx, vy, vz [m/s], wx, wy, wz [rad/s].
        max_speed: bound of linear velocities [m/s].
        max_rate: bound of angular velocities [rad/s].
    """

    def __init__(self, points: Sequence[int], *, axes: Sequence[str] = ("vx", "vy"), max_speed: float = 0.5, max_rate: float = 2.0) -> None:
        unknown = [axis for axis in axes if axis not in AXES]
        if unknown or not axes or not points or min(points) < 1:
            raise ValueError(f"RigidTools needs tools of at least one point and axes among {', '.join(AXES)}, got {list(points)} and {list(axes)}.")
        self.sizes, self.axes, self.max_speed, self.max_rate = tuple(int(size) for size in points), tuple(axes), max_speed, max_rate
        self.points = sum(self.sizes)
        bounds = [max_speed if axis.startswith("v") else max_rate for _ in self.sizes for axis in axes]
        names = tuple(f"tool{number}_{axis}" if len(self.sizes) > 1 else f"tool_{axis}" for number in range(len(self.sizes)) for axis in axes)
        units = tuple("m/s" if axis.startswith("v") else "rad/s" for _ in self.sizes for axis in axes)
        self.action = ActionSpec.box([-bound for bound in bounds], bounds, names=names, units=units, convention="velocity")

    def config(self) -> dict[str, Any]:
        return {"points": self.sizes, "axes": self.axes, "max_speed": self.max_speed, "max_rate": self.max_rate}

    def move(self, robot: Tensor, joints: Tensor, action: Tensor, dt: float) -> tuple[Tensor, Tensor]:
        places = [AXES.index(axis) for axis in self.axes]
        twist = action.new_zeros(*action.shape[:-1], len(self.sizes), 6)
        twist[..., places] = action.unflatten(-1, (len(self.sizes), -1))
        moved = []
        for part, motion in zip(robot.split(self.sizes, -2), twist.unbind(-2), strict=True):
            shifted = part + dt * motion[..., None, :3]
            if any(axis.startswith("w") for axis in self.axes):
                turn = quaternion_to_matrix(rotation_vector_to_quaternion(dt * motion[..., 3:]))
                centre = part.mean(-2, keepdim=True)
                shifted = centre + (part - centre) @ turn.mT + dt * motion[..., None, :3]
            moved.append(shifted)
        return torch.cat(moved, -2), joints


class Embodied(ModelWrapper[PointCloud]):
    """A point model whose actions are commands of a robot: an `ActionTransform` that also keeps the robot's joints.

    Args:
        model: takes the motion of each point of the robot's surface, (*B, 3 M) [m] a step.
        surface: of this robot.
    """

    def __init__(self, model: TransitionModel[PointCloud], surface: RobotSurface) -> None:
        super().__init__(model, action=surface.action)
        self.surface = surface

    def config(self) -> dict[str, Any]:
        return {"model": self.model, "surface": self.surface}

    def step(self, state: PointCloud, action: Action, *, noise: Noise | None = None) -> PointCloud:
        assert isinstance(action, Tensor) and self.spec.dt is not None
        robot, joints = self.surface.move(state.robot, state.joints, action, self.spec.dt)
        following = self.model.step(state, (robot - state.robot).flatten(-2), noise=noise)
        found: PointCloud = following.replace(joints=joints) if joints.shape[-1] else following
        return found

    def roll_fields(self, kind: type[PointCloud], fields: dict[str, Tensor], batch: torch.Size, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        assert isinstance(actions, Tensor) and self.spec.dt is not None
        robot, joints, motions, angles = fields["robot"], fields["joints"], [], [fields["joints"]]
        for action in actions.unbind(-2):
            following, joints = self.surface.move(robot, joints, action, self.spec.dt)
            motions.append((following - robot).flatten(-2))
            angles.append(joints)
            robot = following
        found = self.model.roll_fields(kind, fields, batch, torch.stack(motions, -2), noise=noise)
        states = found.states.replace(joints=torch.stack(angles, len(batch))) if joints.shape[-1] else found.states
        return replace(found, states=states, actions=actions)
