"""The surface of a jointed robot as what moves points: forward kinematics of points that are fixed to its links."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structwm.geometry.kinematics import KinematicTree
from structwm.geometry.rotations import quaternion_rotate
from structwm.spec import ActionSpec

from .robot_surface import RobotSurface


class ArmSurface(RobotSurface):
    """Points on the links of an arm or hand; the action is the velocity of each joint, and the state's `joints` are its angles and displacements.

    Args:
        tree: of the robot.
        points: (M, 3) of its surface, each in the frame of its link [m].
        owners: int (M,), the link of each.
        base: (7,) `world_from_base` [m, wxyz]; the world's frame if not given.
        max_rate: bound of each joint's velocity, (J,) or one for all [rad/s] or [m/s].

    Raises:
        ValueError: on shapes that do not fit, or links that are not there.
    """

    def __init__(self, tree: KinematicTree, points: Tensor, owners: Tensor, *, base: Tensor | None = None, max_rate: Tensor | float = 1.0) -> None:
        if points.ndim != 2 or points.shape[-1] != 3 or owners.shape != points.shape[:1] or not len(points):
            raise ValueError(f"ArmSurface needs points (M, 3) and the link of each (M,), got {tuple(points.shape)} and {tuple(owners.shape)}.")
        if not bool(((owners >= 0) & (owners < len(tree.links))).all()):
            raise ValueError(f"ArmSurface needs links from 0 to {len(tree.links) - 1}, got {owners.min()} to {owners.max()}.")
        self.tree, self.local, self.owners, self.base = tree, points.float(), owners.to(torch.int64), base
        self.max_rate = torch.as_tensor(max_rate, dtype=torch.float32).expand(tree.joints).clone()
        self.points = len(points)
        units = tuple("m/s" if tree.kinds[link] == "slide" else "rad/s" for link in tree.moving)
        bounds = self.max_rate.tolist()
        self.action = ActionSpec.box([-bound for bound in bounds], bounds, names=tree.joint_names, units=units, convention="velocity")

    def config(self) -> dict[str, Any]:
        """The arguments it was made with."""
        return {"tree": self.tree, "points": self.local, "owners": self.owners, "base": self.base, "max_rate": self.max_rate}

    def at(self, joints: Tensor) -> Tensor:
        """The points (*B, M, 3) [m] in the world where the joints are (*B, J)."""
        poses = self.tree.poses(joints, self.base).index_select(-2, self.owners.to(joints.device))
        local = self.local.to(joints).expand(*joints.shape[:-1], -1, -1)
        return quaternion_rotate(poses[..., 3:], local) + poses[..., :3]

    def move(self, robot: Tensor, joints: Tensor, action: Tensor, dt: float) -> tuple[Tensor, Tensor]:
        """Where points and joints are after joint velocities (*B, J) were held for `dt` [s]; joints stop at their bounds."""
        following = (joints + dt * action).clamp(self.tree.low.to(joints), self.tree.high.to(joints))
        return self.at(following), following
