"""Costs of trajectories that read one view each; they add and scale.

Every goal objective sums its error over the horizon with a weight per instant: `stage` on the states after steps 1..H-1 (averaged over them, so that the
balance does not change with the horizon) and `terminal` on the last one. The start state is not counted: no action changes it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from structwm.geometry.planar import wrap_angle
from structwm.interfaces import Objective
from structwm.spec import HybridAction
from structwm.transition import Trajectory


def align_left(goal: Tensor, batch: int) -> Tensor:
    """A goal (B, ...) or () with `batch` axes of size one inserted behind its problem axis, so that it broadcasts against a trajectory."""
    return goal.reshape(*goal.shape[:1], *(1,) * batch, *goal.shape[1:])


class GoalObjective(Objective):
    """An error (*B, H+1) at every instant, summed with the weights described at the top of this module.

    Args:
        stage: weight of the mean error over the states before the last.
        terminal: weight of the error of the last state.
    """

    def __init__(self, *, stage: float = 1.0, terminal: float = 1.0) -> None:
        if stage < 0 or terminal < 0 or stage + terminal == 0:
            raise ValueError(f"A goal needs stage and terminal weights that are not negative and not both 0, got {stage} and {terminal}.")
        self.stage, self.terminal = stage, terminal

    @abstractmethod
    def error(self, trajectory: Trajectory) -> Tensor:
        """The error at every instant, (*B, H+1)."""

    def __call__(self, trajectory: Trajectory) -> Tensor:
        error = self.error(trajectory)
        cost = self.terminal * error[..., -1]
        if self.stage and error.shape[-1] > 2:
            cost = cost + self.stage * error[..., 1:-1].mean(-1)
        elif self.stage:
            cost = cost + self.stage * error[..., -1]
        return cost


class CoordinateGoal(GoalObjective):
    """Weighted squared distance of named coordinates from their targets.

    Args:
        targets: by coordinate name, a number or (B,), in the coordinate's unit.
        weights: by coordinate name; 1 where left out.
        periodic: names of angles [rad] that wrap at 2 pi, beside those that the scene knows to.
        root: take the square root, an error whose pull does not fade near the goal.
    """

    needs = frozenset({"coordinates"})

    def __init__(
        self,
        targets: Mapping[str, float | Tensor],
        *,
        weights: Mapping[str, float] | None = None,
        periodic: Sequence[str] = (),
        root: bool = False,
        stage: float = 1.0,
        terminal: float = 1.0,
    ) -> None:
        super().__init__(stage=stage, terminal=terminal)
        self.root = root
        unknown = sorted((set(weights or {}) | set(periodic)) - set(targets))
        if not targets or unknown:
            raise ValueError(f"CoordinateGoal needs targets, and weights only for them; without a target: {', '.join(unknown) or 'all'}.")
        self.targets = {name: torch.as_tensor(value) for name, value in targets.items()}
        self.weights = dict.fromkeys(targets, 1.0) | dict(weights or {})
        self.periodic = frozenset(periodic)

    def error(self, trajectory: Trajectory) -> Tensor:
        names = trajectory.scene.coordinate_names(trajectory.states)
        coordinates = trajectory.coordinates()
        total = torch.zeros_like(coordinates[..., 0])
        for name, target in self.targets.items():
            if name not in names:
                raise ValueError(f"There is no coordinate {name!r}; this scene has {', '.join(names)}.")
            value = coordinates[..., names.index(name)]
            delta = value - align_left(target.to(value), value.ndim - target.ndim)
            if name in self.periodic or name in trajectory.scene.periodic:
                delta = wrap_angle(delta)
            total = total + self.weights[name] * delta.square()
        return (total + 1e-12).sqrt() if self.root else total


class PoseGoal(GoalObjective):
    """Distance of one body from a goal pose: squared position error plus squared `length` times rotation angle, [m^2].

    Args:
        pose: `world_from_body`, (7,) or (B, 7): position [m], quaternion wxyz.
        body: index of the body in the poses view.
        length: metres that weigh as much as one radian; about the radius of the body.
        root: take the square root, an error [m] whose pull does not fade near the goal.
    """

    needs = frozenset({"poses"})

    def __init__(self, pose: Tensor, *, body: int = 0, length: float = 0.1, root: bool = False, stage: float = 1.0, terminal: float = 1.0) -> None:
        super().__init__(stage=stage, terminal=terminal)
        if pose.shape[-1] != 7 or pose.ndim > 2:
            raise ValueError(f"PoseGoal needs a pose (7,) or (B, 7): position [m], quaternion wxyz; got shape {tuple(pose.shape)}.")
        norm = pose[..., 3:].norm(dim=-1, keepdim=True)
        if not bool(torch.isfinite(pose).all()) or bool((norm < 1e-6).any()):
            raise ValueError("PoseGoal needs a finite pose with a quaternion that is not zero.")
        self.pose = torch.cat((pose[..., :3], pose[..., 3:] / norm), -1)
        self.body, self.length, self.root = body, length, root

    def error(self, trajectory: Trajectory) -> Tensor:
        poses = trajectory.poses()[..., self.body, :]
        goal = self.pose.to(poses)
        if goal.ndim == 2:
            goal = align_left(goal, poses.ndim - 2)
        inner = (poses[..., 3:] * goal[..., 3:]).sum(-1).abs()
        outer = (poses[..., 3:] - torch.where((poses[..., 3:] * goal[..., 3:]).sum(-1, keepdim=True) < 0, -1.0, 1.0) * goal[..., 3:]).norm(dim=-1)
        angle = 4.0 * torch.atan2(0.5 * outer, (0.5 * (1.0 + inner)).sqrt())  # |log(q1^-1 q2)|, well conditioned near 0
        error = (poses[..., :3] - goal[..., :3]).square().sum(-1) + (self.length * angle).square()
        return (error + 1e-12).sqrt() if self.root else error


class PointGoal(GoalObjective):
    """Mean squared distance of points from their goal positions, paired by index [m^2].

    Args:
        positions: (N, 3) or (B, N, 3) [m].
    """

    needs = frozenset({"points"})

    def __init__(self, positions: Tensor, *, stage: float = 1.0, terminal: float = 1.0) -> None:
        super().__init__(stage=stage, terminal=terminal)
        if positions.ndim not in (2, 3) or positions.shape[-1] != 3:
            raise ValueError(f"PointGoal needs positions (N, 3) or (B, N, 3) [m], got shape {tuple(positions.shape)}.")
        self.positions = positions

    def error(self, trajectory: Trajectory) -> Tensor:
        points = trajectory.points()
        goal = self.positions.to(points.positions)
        if goal.ndim == 3:
            goal = align_left(goal, points.positions.ndim - 3)
        squared = (points.positions - goal).square().sum(-1)
        if points.mask is None:
            return squared.mean(-1)
        weight = points.mask.to(squared)
        return (squared * weight).sum(-1) / weight.sum(-1)


class ActionCost(Objective):
    """Mean squared action over the horizon; keeps effort small."""

    def __call__(self, trajectory: Trajectory) -> Tensor:
        return _parameters(trajectory).square().sum(-1).mean(-1)


class ActionSmoothness(Objective):
    """Mean squared change between consecutive actions; 0 for a horizon of one."""

    def __call__(self, trajectory: Trajectory) -> Tensor:
        actions = _parameters(trajectory)
        if actions.shape[-2] < 2:
            return torch.zeros_like(actions[..., 0, 0])
        return actions.diff(dim=-2).square().sum(-1).mean(-1)


class PredictedReturn(Objective):
    """The negative of the return that the model predicts: discounted rewards, weighted by the probability to get that far, plus the last value where given.

    Args:
        discount: per step, in (0, 1].
    """

    def __init__(self, discount: float = 1.0) -> None:
        if not 0.0 < discount <= 1.0:
            raise ValueError(f"discount lies in (0, 1], got {discount}.")
        self.discount = discount

    def __call__(self, trajectory: Trajectory) -> Tensor:
        reward = trajectory.reward
        if reward is None:
            raise ValueError("PredictedReturn needs a model that predicts a reward; spec.traits.predicts of this one does not name it.")
        odds = torch.ones_like(reward) if trajectory.continue_probability is None else trajectory.continue_probability
        reach = torch.cat((torch.ones_like(odds[..., :1]), odds.cumprod(-1)), -1)  # (*B, H+1)
        weight = reach * self.discount ** torch.arange(reach.shape[-1], device=reach.device, dtype=reach.dtype)
        total = (reward * weight[..., :-1]).sum(-1)
        if trajectory.value is not None:
            total = total + trajectory.value[..., -1] * weight[..., -1]
        return -total


def _parameters(trajectory: Trajectory) -> Tensor:
    actions = trajectory.actions
    return actions.parameters if isinstance(actions, HybridAction) else actions
