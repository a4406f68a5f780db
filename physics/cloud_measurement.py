"""Point clouds of what deforms: each measured point beside the nearest predicted one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from structwm.geometry import knn
from structwm.transition import Trajectory

from .measurements import Measurement, chosen_points


@dataclass(frozen=True)
class CloudMeasurement(Measurement):
    """Point clouds without correspondence of a body that deforms: from each measured point the way to the nearest point of the points view [m].

    Their mean length is the one-sided chamfer distance from what was seen to what is predicted: what nobody saw is not missed (as in PhysTwin, Jiang
    et al., 2025, section 3.3). For rigid bodies `PointMeasurement` says more with fewer numbers.
    """

    points: Tensor  # (N, H+1, Q, 3) world frame [m], NaN where there is none; the entry at 0 is not used
    among: tuple[int, ...] | None = None  # which of the scene's points may be nearest, such as those on the surface; None: all
    scale: float = 0.005  # [m]
    corners: Tensor | None = None  # int64 (S, K) the scene's points of which each point of the surface is a mean, where the scene's are far apart
    weights: Tensor | None = None  # (S, K) of the corners

    def __post_init__(self) -> None:
        if self.among is not None:
            object.__setattr__(self, "among", tuple(int(k) for k in self.among))
        if self.points.ndim != 4 or self.points.shape[-1] != 3:
            raise ValueError(f"CloudMeasurement needs points (N, H+1, Q, 3), got {tuple(self.points.shape)}.")
        if (self.corners is None) != (self.weights is None) or (self.corners is not None and self.among is not None):
            raise ValueError("CloudMeasurement takes among, or corners with their weights.")
        if not bool(self.points[:, 1:].isfinite().all(-1).any()):
            raise ValueError("CloudMeasurement holds no finite point after the start.")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"CloudMeasurement.scale must be above zero [m], got {self.scale}.")

    @classmethod
    def of_clouds(cls, points: Tensor, count: int, *, seed: int = 0, **options: Any) -> Self:
        """Of clouds (N, H+1, Q, 3) of any size `count` points each, drawn at random; `options` are the other fields."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(points.shape[:-1], generator=generator).to(points.device)
        chosen = torch.where(points.isfinite().all(-1), order, 2.0).argsort(-1)[..., :count]
        return cls(points.gather(-2, chosen.unsqueeze(-1).expand(*chosen.shape, 3)), **options)

    @property
    def scales(self) -> Mapping[str, float]:
        return {"cloud": self.scale}

    @property
    def weight(self) -> int:
        return max(1, self.points.shape[2] // 4)

    def residual(self, trajectory: Trajectory) -> dict[str, Tensor]:
        self.check(trajectory.scene)
        predicted = trajectory.points().positions[..., 1:, :, :]
        predicted = chosen_points(predicted, self.among, self.corners, self.weights)
        measured = self.points[:, 1:].to(predicted)
        if len(trajectory.batch_shape) > 1:
            measured = measured.unsqueeze(1)
        measured = measured.expand(*predicted.shape[:-2], -1, -1)
        there, sane = measured.isfinite().all(-1), predicted.isfinite().flatten(-2).all(-1)
        filled = torch.where(there.unsqueeze(-1), measured, 0.0)
        known = torch.where(sane[..., None, None], predicted, 0.0)
        nearest = knn(filled, known.detach(), 1, query_mask=there).indices.clamp_min(0)
        way = known.gather(-2, nearest.expand(*nearest.shape[:-1], 3)) - filled
        way = torch.where(sane[..., None, None], way, math.inf)
        return {"cloud": torch.where(there.unsqueeze(-1), way, math.nan).flatten(-2)}

    def magnitude(self, residual: Tensor) -> Tensor:
        """Mean distance of the points that were seen: the one-sided chamfer distance."""
        return residual.unflatten(-1, (-1, 3)).square().sum(-1).sqrt().nanmean(-1)

    def needs(self) -> frozenset[str]:
        return frozenset({"points"})
