"""Goals for tracked keypoints, in an image or in space, seen or hidden."""

from __future__ import annotations

from copy import copy
from typing import Literal

import torch
from torch import Tensor

from structwm.transition import Trajectory

from .goals import GoalObjective, align_goal, at_instants, norm_of, square_sum


class TrackGoal(GoalObjective):
    """Mean distance of keypoints from where they should be, over those that the goal shows, weighted by its visibility.

    A goal is one arrangement of the keypoints, or, with `follow`, a track of them: entry t is the arrangement after t steps of the prediction, entry 0 that at
    its start, and the last holds on where the track is shorter than the horizon. An instant at which the goal shows no keypoint adds nothing.

    Args:
        keypoints: (N, D) or (B, N, D); with `follow`, (T, N, D) or (B, T, N, D). D = 2 [px] or 3 [m].
        visibility: as `keypoints` without D, in [0, 1] or bool; all seen if not given. Keypoints that are not seen may be NaN.
        follow: the goal has a time axis.
        hidden: distance [px or m] with which a keypoint counts that is predicted to be hidden, in proportion to how sure the prediction is; if not given, the
            predicted visibility does not matter.
        norm: `squared` or `l2`, the distance unsquared.

    Raises:
        ValueError: on shapes that do not fit, a goal that shows nothing, or visible keypoints that are not finite.
    """

    needs = frozenset({"tracks"})

    def __init__(
        self,
        keypoints: Tensor,
        *,
        visibility: Tensor | None = None,
        follow: bool = False,
        hidden: float | None = None,
        norm: Literal["squared", "l2"] = "squared",
        stage: float = 1.0,
        terminal: float = 1.0,
    ) -> None:
        super().__init__(stage=stage, terminal=terminal)
        self.rank = 3 if follow else 2
        if keypoints.ndim not in (self.rank, self.rank + 1) or keypoints.shape[-1] not in (2, 3):
            form = "(T, N, D) or (B, T, N, D)" if follow else "(N, D) or (B, N, D)"
            raise ValueError(f"TrackGoal needs keypoints {form} with D = 2 or 3, got shape {tuple(keypoints.shape)}.")
        seen = torch.ones_like(keypoints[..., 0]) if visibility is None else visibility.to(keypoints)
        if seen.shape != keypoints.shape[:-1] or not bool(((seen >= 0) & (seen <= 1)).all()):
            raise ValueError(f"TrackGoal needs visibility {tuple(keypoints.shape[:-1])} in [0, 1], got shape {tuple(seen.shape)}.")
        shown = seen > 0
        if not bool(shown.flatten(1 if seen.ndim == self.rank else 0).any(-1).all()) or not bool(keypoints[shown].isfinite().all()):
            raise ValueError("TrackGoal needs a visible keypoint in every goal, and finite ones.")
        if norm not in ("squared", "l2") or (hidden is not None and not hidden >= 0):
            raise ValueError(f"TrackGoal knows the norms squared and l2 and a distance hidden of zero or more, got {norm!r} and {hidden}.")
        self.keypoints, self.visibility = torch.where(shown.unsqueeze(-1), keypoints, 0.0), seen
        self.per_state, self.norm, self.hidden = not follow, norm, hidden

    def error(self, trajectory: Trajectory) -> Tensor:
        tracks = trajectory.tracks()
        predicted = tracks.keypoints
        goal, seen = self._at(trajectory, self.keypoints.to(predicted), self.rank), self._at(trajectory, self.visibility.to(predicted), self.rank - 1)
        if predicted.shape[-2:] != goal.shape[-2:]:
            raise ValueError(f"TrackGoal has keypoints {tuple(goal.shape[-2:])}, got a prediction of {tuple(predicted.shape[-2:])}.")
        if tracks.mask is not None:
            seen = seen * tracks.mask
        counted = seen > 0
        if self.hidden is not None:
            counted = counted & (tracks.visibility > 0)  # what is surely hidden may be anywhere
        away = torch.where(counted.unsqueeze(-1), predicted - goal, 0.0)
        distance = square_sum(away) if self.norm == "squared" else norm_of(away)
        if self.hidden is not None:
            sure = tracks.visibility.to(distance)
            distance = sure * distance + (1 - sure) * (self.hidden**2 if self.norm == "squared" else self.hidden)
        weight = seen.sum(-1)
        return (distance * seen).sum(-1) / torch.where(weight > 0, weight, 1.0)

    def _at(self, trajectory: Trajectory, goal: Tensor, rank: int) -> Tensor:
        if self.rank == 3:
            goal = at_instants(goal, trajectory.states.batch_size[-1], goal.ndim - rank)
        return align_goal("TrackGoal", goal, rank, trajectory.batch_shape, timed=self.rank == 3)

    def later(self, steps: int) -> TrackGoal:
        """The same track to follow as seen `steps` steps later; a goal that does not change is the same."""
        if self.rank == 2:
            return self
        first = min(steps, self.keypoints.shape[-3] - 1)
        found = copy(self)
        found.keypoints, found.visibility = self.keypoints[..., first:, :, :], self.visibility[..., first:, :]
        return found
