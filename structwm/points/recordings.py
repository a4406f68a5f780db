"""Recorded motion of points, and windows of it to train and judge on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.training.windows import Batch

from .cloud import PointCloud, point_cloud


@dataclass(frozen=True, eq=False)
class CloudRecording:
    """R runs of T instants, of the same points throughout a run. World frame; what is not given is as of `point_cloud`.

    Runs that are shorter are padded behind their end, and `steps` says how long each is; runs of fewer points are padded and masked.

    Raises:
        ValueError: in one sentence, on shapes that do not fit, or runs without a step.
    """

    positions: Tensor  # (R, T, N, 3) [m]
    robot: Tensor  # (R, T, M, 3) points of the robot's surface [m]
    dt: float  # between instants [s]
    rest: Tensor | None = None  # (R, N, 3) or (N, 3) [m]; the first instant if not given
    features: Tensor | None = None  # (R, N, F) or (N, F)
    object_ids: Tensor | None = None  # int (R, N) or (N,)
    material_ids: Tensor | None = None  # int (R, N) or (N,)
    held: Tensor | None = None  # int (R, N) or (N,)
    mask: Tensor | None = None  # bool (R, N) or (N,)
    joints: Tensor | None = None  # (R, T, J)
    steps: Tensor | None = None  # int (R,) instants of each run; T if not given

    def __post_init__(self) -> None:
        if self.positions.ndim != 4 or self.positions.shape[-1] != 3 or self.robot.ndim != 4 or self.robot.shape[:2] != self.positions.shape[:2]:
            raise ValueError(
                f"CloudRecording needs positions (R, T, N, 3) and the robot (R, T, M, 3), got {tuple(self.positions.shape)} and {tuple(self.robot.shape)}."
            )
        if self.positions.shape[1] < 2 or not self.dt > 0:
            raise ValueError(f"CloudRecording needs at least two instants and dt above 0 s, got {self.positions.shape[1]} and {self.dt}.")

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, runs: Any) -> CloudRecording:
        """Some of the runs, by a slice, a mask or indices."""
        own = {"rest": 2, "features": 2, "object_ids": 1, "material_ids": 1, "held": 1, "mask": 1, "joints": 2, "steps": 0}
        parts: dict[str, Any] = {"positions": self.positions[runs], "robot": self.robot[runs]}
        for name, axes in own.items():
            value = getattr(self, name)
            parts[name] = value[runs] if value is not None and value.ndim == axes + 1 else value
        return replace(self, **parts)

    @property
    def lengths(self) -> Tensor:
        """int64 (R,) instants of each run."""
        return torch.full((len(self),), self.positions.shape[1]) if self.steps is None else self.steps.to(torch.int64)

    def states(self, runs: Tensor, instants: Tensor, context: int) -> PointCloud:
        """States of batch size (W, K) at instants (W, K) of runs (W,); before the first instant everything is taken to go on as it does there."""
        run = runs[:, None]
        back = instants.unsqueeze(-1) - torch.arange(1, context + 1)  # (W, K, C)
        pasts = [self._past(value, run.unsqueeze(-1), back).movedim(2, -2) for value in (self.positions, self.robot)]
        rest = self.positions[:, 0] if self.rest is None else self.rest

        def constant(value: Tensor | None, axes: int) -> Tensor | None:
            return None if value is None else (value[runs].unsqueeze(1) if value.ndim == axes + 1 else value)

        return point_cloud(
            self.positions[run, instants],
            self.robot[run, instants],
            history=pasts[0],
            robot_history=pasts[1],
            joints=None if self.joints is None else self.joints[run, instants],
            rest=constant(rest, 2),
            features=constant(self.features, 2),
            object_ids=constant(self.object_ids, 1),
            material_ids=constant(self.material_ids, 1),
            held=constant(self.held, 1),
            mask=constant(self.mask, 1),
        )

    def _past(self, values: Tensor, run: Tensor, back: Tensor) -> Tensor:
        """Values (R, T, N, 3) at instants (W, K, C), some of which are before 0."""
        known = values[run, back.clamp_min(0)]
        early = back.clamp_max(0)[..., None, None].to(values)
        return known + early * (values[run, torch.ones_like(back)] - values[run, torch.zeros_like(back)])

    def windows(self, horizon: int, *, stride: int = 1, context: int = 2, first: int = 0) -> CloudWindows:
        """All windows of `horizon` steps that start `stride` apart, from instant `first` on.

        Raises:
            ValueError: if no run is long enough.
        """
        return CloudWindows(self, horizon, stride=stride, context=context, first=first)


class CloudWindows(Sequence[Batch]):
    """Windows of a recording, made when they are asked for; the actions are the motions of the robot's points, (N, H, 3 M) [m]."""

    def __init__(self, recording: CloudRecording, horizon: int, *, stride: int, context: int, first: int) -> None:
        self.recording, self.horizon, self.context = recording, horizon, context
        self.places = [(run, start) for run, length in enumerate(recording.lengths.tolist()) for start in range(first, length - horizon, stride)]
        if horizon < 1 or stride < 1 or not self.places:
            longest = int(recording.lengths.max()) - 1 if len(recording) else 0
            raise ValueError(f"No run holds a window of {horizon} steps from instant {first} on, at a stride of {stride}; the longest has {longest} steps.")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        """Some windows as one batch."""
        if isinstance(index, int | np.integer):
            return self.__getitems__([int(index)])
        return self.__getitems__(list(range(len(self))[index]) if isinstance(index, slice) else np.arange(len(self))[np.asarray(index)].tolist())

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """One batch of the windows at some indices."""
        places = torch.tensor([self.places[int(i)] for i in indices])
        instants = places[:, 1:] + torch.arange(self.horizon + 1)
        states = self.recording.states(places[:, 0], instants, self.context)
        return Batch(states, states.robot.diff(dim=1).flatten(-2), torch.ones(instants.shape, dtype=torch.bool))
