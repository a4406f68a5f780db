"""The cross-entropy method."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .sampling import Gaussian, SamplingPlanner


@dataclass(frozen=True, kw_only=True)
class CEM(SamplingPlanner):
    """Fits the distribution to the cheapest candidates, the elites, and draws again (de Boer et al., Annals of Operations Research, 2005)."""

    iterations: int = 4
    elites: int = 24  # candidates that are kept; fewer converge faster and get stuck sooner
    smoothing: float = 0.1  # share of the old distribution that is kept
    min_std: float = 0.02  # floor of the std, as a fraction of the std with which a plan starts; keeps exploring

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.elites <= self.samples:
            raise ValueError(f"CEM needs 1 <= elites <= samples, got {self.elites} elites of {self.samples} samples.")
        if not 0 <= self.smoothing < 1 or not 0 <= self.min_std <= 1:
            raise ValueError(f"CEM needs smoothing in [0, 1) and min_std in [0, 1], got {self.smoothing} and {self.min_std}.")

    def update(self, sampler: Gaussian, candidates: Tensor, scores: Tensor) -> Gaussian:
        order = scores.sort(dim=1, stable=True).indices[:, : self.elites]
        rows = torch.arange(candidates.shape[0], device=candidates.device)[:, None]
        elite = candidates[rows, order]
        known = scores.gather(1, order).isfinite().to(elite)[:, :, None, None]
        count = known.sum(1).clamp_min(1.0)
        mean = (elite * known).sum(1) / count
        std = ((elite - mean[:, None]).square() * known).sum(1).div(count).sqrt()
        keep = self.smoothing
        blended = keep * sampler.std + (1 - keep) * std
        return replace(sampler, mean=keep * sampler.mean + (1 - keep) * mean, std=torch.maximum(blended, self.min_std * sampler.wide))
