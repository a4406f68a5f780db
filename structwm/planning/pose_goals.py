"""Goals for rigid bodies: poses and twists."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structwm.geometry.rotations import quaternion_conjugate, quaternion_multiply, quaternion_to_rotation_vector
from structwm.transition import Trajectory

from .goals import GoalObjective, align_goal, by_blocks, norm_of, of_bodies, root_of, short_sum, square_sum

Body = int | str


class _BodyGoal(GoalObjective):
    """A goal of `size` numbers for one body or for several, whose errors are added.

    Raises:
        ValueError: on another shape, numbers that are not finite, or weights that do not fit.
    """

    per_state = True
    what = ""

    def __init__(
        self,
        goal: Tensor,
        size: int,
        *,
        body: Body,
        bodies: Sequence[Body] | None,
        weights: Tensor | Sequence[float] | None,
        length: float,
        root: bool,
        stage: float,
        terminal: float,
    ) -> None:
        super().__init__(stage=stage, terminal=terminal)
        name = type(self).__name__
        expected = f"({size},) or (B, {size})" if bodies is None else f"({len(bodies)}, {size}) or (B, {len(bodies)}, {size})"
        own = (size,) if bodies is None else (len(bodies), size)
        if tuple(goal.shape[goal.ndim - len(own) :]) != own or goal.ndim > len(own) + 1 or (bodies is not None and not bodies):
            raise ValueError(f"{name} needs a {self.what} {expected}; got shape {tuple(goal.shape)}.")
        if not goal.is_floating_point() or not bool(goal.isfinite().all()):
            raise ValueError(f"{name} needs a finite {self.what}.")
        if not length >= 0:
            raise ValueError(f"{name} needs a length of zero or more [m], got {length}.")
        self.goal = goal.unsqueeze(-2) if bodies is None else goal  # ([B,] K, size)
        self.bodies = (body,) if bodies is None else tuple(bodies)
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if self.weights is not None and (self.weights.shape[-1:] != (6,) or self.weights.ndim > 2 or not bool((self.weights >= 0).all())):
            raise ValueError(f"{name} needs weights (6,) or (K, 6) that are not negative, got shape {tuple(self.weights.shape)}.")
        self.length, self.root = length, root

    def _total(self, linear: Tensor, angular: Tensor) -> Tensor:
        """Of differences (*B, T, K, 3), or of the length (*B, T, K, 1) of the angular one."""
        if self.weights is not None:
            scale = self.weights.sqrt().to(linear)
            linear, angular = linear * scale[..., :3], angular * scale[..., 3:]
        total = short_sum(square_sum(linear) + self.length**2 * square_sum(angular))
        return root_of(total) if self.root else total


class PoseGoal(_BodyGoal):
    """Distance of bodies from goal poses: squared position error plus squared `length` times rotation angle, [m^2], added over bodies.

    Args:
        pose: `world_from_body`, (7,) or (B, 7): position [m], quaternion wxyz; with `bodies`, (K, 7) or (B, K, 7).
        body: number or name of the body in the poses view.
        bodies: several bodies, in place of `body`.
        length: metres that weigh as much as one radian; about the radius of the body.
        weights: (6,) or (K, 6), of the squared errors along the world's x, y, z and of the squared rotation vector from goal to prediction in the goal's
            frame, for goals that leave some directions free; all 1 if not given.
        root: take the square root, an error [m] whose pull does not fade near the goal.
    """

    needs = frozenset({"poses"})
    what = "pose"

    def __init__(
        self,
        pose: Tensor,
        *,
        body: Body = 0,
        bodies: Sequence[Body] | None = None,
        length: float = 0.1,
        weights: Tensor | Sequence[float] | None = None,
        root: bool = False,
        stage: float = 1.0,
        terminal: float = 1.0,
    ) -> None:
        super().__init__(pose, 7, body=body, bodies=bodies, weights=weights, length=length, root=root, stage=stage, terminal=terminal)
        norm = self.goal[..., 3:].norm(dim=-1, keepdim=True)
        if bool((norm < 1e-6).any()):
            raise ValueError("PoseGoal needs a finite pose with a quaternion that is not zero.")
        self.goal = torch.cat((self.goal[..., :3], self.goal[..., 3:] / norm), -1)

    def error(self, trajectory: Trajectory) -> Tensor:
        poses = of_bodies(trajectory.poses(), trajectory.scene, self.bodies)
        goal = align_goal("PoseGoal", self.goal.to(poses), 2, trajectory.batch_shape)
        return by_blocks(lambda part: self._between(part, goal), poses, 2)

    def _between(self, poses: Tensor, goal: Tensor) -> Tensor:
        away, turned, wanted = poses[..., :3] - goal[..., :3], poses[..., 3:], goal[..., 3:]
        if self.weights is not None:
            turned, wanted = torch.broadcast_tensors(turned, wanted)
            return self._total(away, quaternion_to_rotation_vector(quaternion_multiply(quaternion_conjugate(wanted), turned)))
        inner = short_sum(turned * wanted).unsqueeze(-1)
        outer = norm_of(turned - torch.where(inner < 0, -1.0, 1.0) * wanted).unsqueeze(-1)
        return self._total(away, 4.0 * torch.atan2(0.5 * outer, (0.5 * (1.0 + inner.abs())).sqrt()))  # |log(q1^-1 q2)|, well conditioned near 0


class TwistGoal(_BodyGoal):
    """Distance of bodies from goal twists: squared linear velocity error plus squared `length` times angular one, [m^2/s^2], added over bodies.

    `TwistGoal()` asks a body to be at rest.

    Args:
        twist: in the world frame, (6,) or (B, 6): linear [m/s], angular [rad/s]; with `bodies`, (K, 6) or (B, K, 6). At rest if not given.
        body: number or name of the body in the twists view.
        bodies: several bodies, in place of `body`.
        length: metres that weigh as much as one radian; about the radius of the body.
        weights: (6,) or (K, 6), of the squared errors in the order of the twist; all 1 if not given.
        root: take the square root, an error [m/s] whose pull does not fade near the goal.
    """

    needs = frozenset({"twists"})
    what = "twist"

    def __init__(
        self,
        twist: Tensor | None = None,
        *,
        body: Body = 0,
        bodies: Sequence[Body] | None = None,
        length: float = 0.1,
        weights: Tensor | Sequence[float] | None = None,
        root: bool = False,
        stage: float = 1.0,
        terminal: float = 1.0,
    ) -> None:
        rest = torch.zeros(6) if bodies is None else torch.zeros(len(bodies), 6)
        super().__init__(
            rest if twist is None else twist, 6, body=body, bodies=bodies, weights=weights, length=length, root=root, stage=stage, terminal=terminal
        )

    def error(self, trajectory: Trajectory) -> Tensor:
        twists = of_bodies(trajectory.twists(), trajectory.scene, self.bodies)
        away = twists - align_goal("TwistGoal", self.goal.to(twists), 2, trajectory.batch_shape)
        return self._total(away[..., :3], away[..., 3:])
