"""Goals for points that are paired with the prediction, by index or by the cheapest matching."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from structwm.geometry.set_distances import emd
from structwm.geometry.transport import sinkhorn
from structwm.state import Points
from structwm.transition import Trajectory

from .goals import GoalObjective, align_goal, by_blocks, mean_where, norm_of, square_sum

BLOCK = 4_000_000  # costs of pairs held at once
SHARP = 0.02  # blur over the size of the goal, where it is not given


class _CloudGoal(GoalObjective):
    """A goal of points, of which some may be masked.

    Raises:
        ValueError: on shapes that do not fit, or a goal without points or with counted ones that are not finite.
    """

    needs = frozenset({"points"})
    per_state = True

    def __init__(self, positions: Tensor, mask: Tensor | None, *, stage: float, terminal: float) -> None:
        super().__init__(stage=stage, terminal=terminal)
        name = type(self).__name__
        if positions.ndim not in (2, 3) or positions.shape[-1] != 3 or not positions.is_floating_point():
            raise ValueError(f"{name} needs positions (N, 3) or (B, N, 3) [m], got shape {tuple(positions.shape)}.")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != positions.shape[:-1]):
            raise ValueError(f"{name} needs a bool mask {tuple(positions.shape[:-1])}, got {mask.dtype} {tuple(mask.shape)}.")
        counted = torch.ones_like(positions[..., 0], dtype=torch.bool) if mask is None else mask
        if not bool(counted.any(-1).all()) or not bool(positions[counted].isfinite().all()):
            raise ValueError(f"{name} needs a point that counts in every goal, and finite ones.")
        self.mask, self.positions = mask, torch.where(counted.unsqueeze(-1), positions, 0.0)

    def _aligned(self, points: Points, trajectory: Trajectory) -> tuple[Tensor, Tensor | None]:
        """Positions ([B, ...] N, 3) and mask ([B, ...] N) that broadcast against the points (*B, T, N, 3)."""
        name, batch = type(self).__name__, trajectory.batch_shape
        goal = align_goal(name, self.positions.to(points.positions), 2, batch)
        return goal, None if self.mask is None else align_goal(name, self.mask.to(goal.device), 1, batch)


class PointGoal(_CloudGoal):
    """Mean distance of points from their goal positions, paired by index, over those that count in goal and prediction; NaN where none does.

    Args:
        positions: (N, 3) or (B, N, 3) [m].
        mask: (N,) or (B, N) bool, the points of the goal that count; all if not given.
        norm: `squared` [m^2]; `l2` unsquared [m].
    """

    def __init__(
        self, positions: Tensor, *, mask: Tensor | None = None, norm: Literal["squared", "l2"] = "squared", stage: float = 1.0, terminal: float = 1.0
    ) -> None:
        super().__init__(positions, mask, stage=stage, terminal=terminal)
        if norm not in ("squared", "l2"):
            raise ValueError(f"PointGoal knows the norms squared and l2, got {norm!r}.")
        self.norm = norm

    def error(self, trajectory: Trajectory) -> Tensor:
        points = trajectory.points()
        goal, counted = self._aligned(points, trajectory)
        if points.positions.shape[-2] != goal.shape[-2]:
            raise ValueError(f"PointGoal has positions of {goal.shape[-2]} points, got a prediction of {points.positions.shape[-2]}.")
        if points.mask is not None:
            counted = points.mask if counted is None else counted & points.mask
        if counted is None and self.norm == "squared":
            return by_blocks(lambda part: (part - goal).square().sum((-2, -1)), points.positions, 2) / goal.shape[-2]
        away = points.positions - goal
        if counted is not None:
            away = torch.where(counted.unsqueeze(-1), away, 0.0)
        return mean_where(square_sum(away) if self.norm == "squared" else norm_of(away), counted)


class EarthMoverGoal(_CloudGoal):
    """Earth mover's distance of the predicted points from a goal cloud: the mean distance under the one-to-one matching for which it is least [m].

    Where points have no index in common, but density matters, which chamfer (`ShapeGoal`) does not see.

    Two methods. `exact` matches by `scipy.optimize.linear_sum_assignment`, set by set on CPU; its gradient is that of the matched pairs. `sinkhorn` is entropic
    transport on torch (`structwm.geometry.transport`), for clouds of different sizes, GPUs and smooth gradients; it is an upper bound, above the exact distance
    by about the blur where `marginal_error` is small, so `blur` should be well below the distance between points. On CPU `exact` is the faster. Both cost more
    than chamfer; `stage=0` compares the last state alone.

    Args:
        positions: (M, 3) or (B, M, 3) [m]; of `exact`, as many that count as in the prediction.
        mask: (M,) or (B, M) bool, the points of the goal that count; all if not given.
        method: `exact` or `sinkhorn`.
        blur: of `sinkhorn` [m]; if not given, a fiftieth of the goal's size, the root mean square distance of its points from their mean.
        iterations: of `sinkhorn`.
    """

    def __init__(
        self,
        positions: Tensor,
        *,
        mask: Tensor | None = None,
        method: Literal["exact", "sinkhorn"] = "exact",
        blur: float | None = None,
        iterations: int = 100,
        stage: float = 1.0,
        terminal: float = 1.0,
    ) -> None:
        super().__init__(positions, mask, stage=stage, terminal=terminal)
        if method not in ("exact", "sinkhorn") or (blur is not None and not blur > 0) or iterations < 1:
            raise ValueError(f"EarthMoverGoal needs the method exact or sinkhorn, a blur above 0 and an iteration, got {method!r}, {blur} and {iterations}.")
        self.method, self.iterations = method, iterations
        self.blur = self._size() * SHARP if blur is None else torch.full(self.positions.shape[:-2], blur)

    def _size(self) -> Tensor:
        """Root mean square distance from the mean, () or (B,) [m]; of a single point, a millimetre."""
        counted = torch.ones_like(self.positions[..., 0], dtype=torch.bool) if self.mask is None else self.mask
        share = (counted / counted.sum(-1, keepdim=True)).unsqueeze(-1).to(self.positions)
        middle = (share * self.positions).sum(-2, keepdim=True)
        size = (share * (self.positions - middle).square()).sum((-2, -1)).sqrt()
        return torch.where(size > 0, size, 1e-3 / SHARP)

    def error(self, trajectory: Trajectory) -> Tensor:
        return self._compare(trajectory)[0]

    def marginal_error(self, trajectory: Trajectory) -> Tensor:
        """The share of mass (*B, H+1) in [0, 1] that `sinkhorn` had left in a wrong place before its last correction; 0 of `exact`."""
        with torch.no_grad():
            return self._compare(trajectory)[1]

    def _compare(self, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
        points, batch = trajectory.points(), trajectory.batch_shape
        goal, there = self._aligned(points, trajectory)
        shape = points.positions.shape[:-2]
        positions = points.positions if points.mask is None else torch.where(points.mask.unsqueeze(-1), points.positions, 0.0)
        known = positions.isfinite().flatten(-2).all(-1)  # a candidate that diverged has no distance
        positions = torch.where(known[..., None, None], positions, 0.0)
        masks = [None if mask is None else mask.expand(*shape, mask.shape[-1]).flatten(0, -2) for mask in (points.mask, there)]
        clouds = [value.expand(*shape, *value.shape[-2:]).flatten(0, -3) for value in (positions, goal)]
        if self.method == "exact":
            found = emd(*clouds, mask_a=masks[0], mask_b=masks[1]).view(shape)
            return torch.where(known, found, float("nan")), torch.zeros_like(found)
        blur = align_goal("EarthMoverGoal", self.blur.to(goal), 0, batch).expand(shape).flatten()
        rows = max(1, BLOCK // (clouds[0].shape[-2] * clouds[1].shape[-2]))
        parts = [self._sinkhorn(*part) for part in zip(*(_split(value, rows, len(blur)) for value in (*clouds, *masks, blur)), strict=True)]
        found, lost = (torch.cat(part).view(shape) for part in zip(*parts, strict=True))
        return torch.where(known, found, float("nan")), lost

    def _sinkhorn(self, points: Tensor, goal: Tensor, here: Tensor | None, there: Tensor | None, blur: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (R,) and marginal errors of points (R, N, 3) and goals (R, M, 3)."""
        costs = torch.cdist(points, goal, compute_mode="donot_use_mm_for_euclid_dist")
        if here is not None:
            costs = torch.where(here.unsqueeze(-1), costs, 0.0)
        if there is not None:
            costs = torch.where(there.unsqueeze(-2), costs, 0.0)
        plan, lost = sinkhorn(costs, blur, mask_a=here, mask_b=there, iterations=self.iterations)
        return (plan * costs).sum((-2, -1)), lost


def _split(value: Tensor | None, rows: int, total: int) -> tuple[Tensor | None, ...]:
    return (None,) * -(-total // rows) if value is None else value.split(rows)
