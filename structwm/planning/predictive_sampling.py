"""Predictive sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .gaussian import Gaussian, GaussianPlanner, best_alone, knots_within
from .shapes import Spline


@dataclass(frozen=True, kw_only=True)
class PredictiveSampling(GaussianPlanner):
    """Draws candidates around the plan before, on a spline, and takes the best (Howell et al., "Predictive sampling: real-time behaviour synthesis with
    MuJoCo", 2022)."""

    knots: int | None = 6  # no more than there are steps
    spline: Spline = "cubic"

    def __post_init__(self) -> None:
        knots_within(self)
        super().__post_init__()

    def weights(self, scores: Tensor) -> Tensor:
        return best_alone(scores)

    def update(self, sampler: Gaussian, candidates: Tensor, scores: Tensor) -> Gaussian:
        return sampler.around(candidates[torch.arange(len(scores), device=scores.device), scores.argmin(1)])
