"""A goal for deformable things: the shape of a point cloud, without saying which point goes where."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from structwm.geometry.set_distances import Direction
from structwm.transition import Trajectory

from .goals import GoalObjective, align_goal

BLOCK = 4_000_000  # squared distances held at once


class ShapeGoal(GoalObjective):
    """Mean chamfer distance between the predicted points and a goal cloud: the mean over one set of the distance to the nearest point of the other [m]; of
    both directions, their average.

    The goal needs no correspondence and may have another number of points than the prediction, as a cloud from cameras. Distances are taken by blocks rather
    than by a tree, which is faster for the few points of a twin. Gradients are those of the pairs that are nearest.

    Args:
        goal: (M, 3) or (B, M, 3) [m].
        mask: (M,) or (B, M) bool, the points of the goal that count; all if not given.
        direction: as of `chamfer`, where a is predicted and b the goal: `both`; `a_to_b`, only from predicted points to the goal, where the goal holds more
            than the thing; `b_to_a`, only from the goal, where it shows a part of the thing.
        norm: `l2` unsquared [m]; `squared` [m^2].
        corners: int64 (Q, K); compare not the predicted points themselves but Q points that are weighted means of K of them, as on the edges of a rope.
        weights: (Q, K) of these.
        stage: weight of the mean over the states before the last.
        terminal: weight of the last state.

    Raises:
        ValueError: on shapes that do not fit, a goal that is not finite or a goal without points.
    """

    needs = frozenset({"points"})
    per_state = True

    def __init__(
        self,
        goal: Tensor,
        *,
        mask: Tensor | None = None,
        direction: Direction = "both",
        norm: Literal["l2", "squared"] = "l2",
        corners: Tensor | None = None,
        weights: Tensor | None = None,
        stage: float = 1.0,
        terminal: float = 1.0,
    ) -> None:
        super().__init__(stage=stage, terminal=terminal)
        if goal.ndim not in (2, 3) or goal.shape[-1] != 3:
            raise ValueError(f"ShapeGoal needs a goal (M, 3) or (B, M, 3) [m], got shape {tuple(goal.shape)}.")
        if mask is not None and (mask.shape != goal.shape[:-1] or mask.dtype != torch.bool):
            raise ValueError(f"ShapeGoal needs a bool mask {tuple(goal.shape[:-1])}, got {mask.dtype} {tuple(mask.shape)}.")
        counted = torch.ones_like(goal[..., 0], dtype=torch.bool) if mask is None else mask
        if not bool(counted.any(-1).all()) or not bool(goal[counted].isfinite().all()):
            raise ValueError("ShapeGoal needs a point in every goal, and finite ones.")
        if direction not in ("both", "a_to_b", "b_to_a") or norm not in ("l2", "squared"):
            raise ValueError(f"ShapeGoal knows the directions both, a_to_b, b_to_a and norms l2, squared, got {direction!r} and {norm!r}.")
        if (corners is None) != (weights is None) or (corners is not None and weights is not None and (corners.ndim != 2 or corners.shape != weights.shape)):
            raise ValueError("ShapeGoal needs corners and weights of one shape (Q, K), or neither.")
        self.goal, self.mask, self.direction, self.norm = torch.where(counted.unsqueeze(-1), goal, 0.0), mask, direction, norm
        self.corners, self.weights = corners, weights

    def error(self, trajectory: Trajectory) -> Tensor:
        points = trajectory.points()
        positions, here = points.positions, points.mask
        if here is not None:
            positions = torch.where(here.unsqueeze(-1), positions, 0.0)  # what does not count may be NaN
        if self.corners is not None and self.weights is not None:
            if here is not None:
                here = here[..., self.corners].all(-1)
            positions = (self.weights.to(positions).unsqueeze(-1) * positions[..., self.corners, :]).sum(-2)
        batch = positions.shape[:-2]
        goal = align_goal("ShapeGoal", self.goal.to(positions), 2, trajectory.batch_shape)
        problems = len(goal) if goal.ndim > 2 else 1
        goal = goal.reshape(problems, *goal.shape[-2:])
        there = None if self.mask is None else self.mask.to(positions.device).reshape(problems, -1)
        flat = positions.reshape(problems, -1, *positions.shape[-2:])
        known = None if here is None else here.reshape(flat.shape[:-1])
        rows = max(1, BLOCK // (problems * flat.shape[-2] * goal.shape[-2]))
        parts = [
            self._chamfer(part, goal, None if known is None else known[:, k * rows : (k + 1) * rows], there) for k, part in enumerate(flat.split(rows, dim=1))
        ]
        return torch.cat(parts, 1).reshape(batch)

    def _chamfer(self, points: Tensor, goal: Tensor, here: Tensor | None, there: Tensor | None) -> Tensor:
        """(B, R) for points (B, R, N, 3), goals (B, M, 3) and masks (B, R, N), (B, M)."""
        problems = len(points)
        squares = _squares(points.detach(), goal)  # (B, R, N, M)
        if here is not None:
            squares = squares.masked_fill(~here.unsqueeze(-1), float("inf"))
        if there is not None:
            squares = squares.masked_fill(~there[:, None, None], float("inf"))
        sides = []
        if self.direction != "b_to_a":
            nearest = squares.argmin(-1).reshape(problems, -1, 1).expand(-1, -1, 3)
            sides.append(self._mean(points - goal.gather(1, nearest).view_as(points), here))
        if self.direction != "a_to_b":
            nearest = squares.argmin(-2).unsqueeze(-1).expand(-1, -1, -1, 3)
            sides.append(self._mean(points.gather(2, nearest) - goal.unsqueeze(1), None if there is None else there.unsqueeze(1)))
        return sum(sides[1:], sides[0]) / len(sides)

    def _mean(self, away: Tensor, mask: Tensor | None) -> Tensor:
        """Over the points (B, R, n, 3) that count."""
        squared = away.square().sum(-1)
        distance = squared if self.norm == "squared" else (squared + 1e-12).sqrt()  # a micrometre keeps the gradient finite where points meet
        if mask is None:
            return distance.mean(-1)
        weight = mask.to(distance).expand_as(distance)
        return (torch.where(mask, distance, 0.0)).sum(-1) / weight.sum(-1)


def _squares(points: Tensor, goal: Tensor) -> Tensor:
    """Squared distances (B, R, N, M), good enough to say which point is nearest."""
    centre = goal.mean(1, keepdim=True)
    a, b = (points - centre.unsqueeze(1)).flatten(1, 2), goal - centre
    found = torch.baddbmm(b.square().sum(-1).unsqueeze(1), a, b.mT, alpha=-2.0)  # but for the square of a, which is alike for all of the goal
    return (found + a.square().sum(-1, keepdim=True)).view(*points.shape[:3], goal.shape[1])
