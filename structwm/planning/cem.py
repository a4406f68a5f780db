"""The cross-entropy method."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .gaussian import Gaussian, GaussianPlanner


@dataclass(frozen=True, kw_only=True)
class CEM(GaussianPlanner):
    """Fits the distribution to the cheapest candidates, the elites, and draws again (de Boer et al., Annals of Operations Research, 2005).

    Returned is the cheapest candidate that was seen, around which the next plan is drawn; the last mean is not rolled out.
    """

    iterations: int = 4
    elites: int = 24  # candidates that are kept; fewer converge faster and get stuck sooner
    smoothing: float = 0.1  # share of the old distribution that is kept
    min_std: float = 0.02  # floor of the std, as a fraction of the std with which a plan starts; keeps exploring

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if not 1 <= self.elites <= self.samples:
            raise ValueError(f"{name} needs 1 <= elites <= samples, got {self.elites} elites of {self.samples} samples.")
        if not 0 <= self.smoothing < 1 or not 0 <= self.min_std <= 1:
            raise ValueError(f"{name} needs smoothing in [0, 1) and min_std in [0, 1], got {self.smoothing} and {self.min_std}.")

    def weights(self, scores: Tensor) -> Tensor:
        return elite_shares(scores, self.elites)

    def update(self, sampler: Gaussian, candidates: Tensor, scores: Tensor) -> Gaussian:
        return self.fit(sampler, *cheapest(candidates, scores, self.elites))

    def fit(self, sampler: Gaussian, elite: Tensor, scores: Tensor) -> Gaussian:
        """The distribution of elites (B, K, H, A); those whose scores (B, K) are infinite do not count."""
        known = scores.isfinite().to(elite)[:, :, None, None]
        count = known.sum(1).clamp_min(1.0)
        mean = (elite * known).sum(1) / count
        std = ((elite - mean[:, None]).square() * known).sum(1).div(count).sqrt()
        keep = self.smoothing
        blended = keep * sampler.std + (1 - keep) * std
        return replace(sampler, mean=keep * sampler.mean + (1 - keep) * mean, std=torch.maximum(blended, self.min_std * sampler.wide))


def cheapest(candidates: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The elites (B, count, H, ...) of candidates (B, S, H, ...), the cheapest first, and their scores (B, count)."""
    order = scores.sort(dim=1, stable=True).indices[:, :count]
    return candidates[torch.arange(len(order), device=order.device)[:, None], order], scores.gather(1, order)


def elite_shares(scores: Tensor, count: int) -> Tensor:
    """Weights (B, S) by which so many elites count alike, those that are finite."""
    order = scores.sort(dim=1, stable=True).indices[:, :count]
    chosen = torch.zeros_like(scores).scatter_(1, order, scores.gather(1, order).isfinite().to(scores))
    return chosen / chosen.sum(1, keepdim=True).clamp_min(1.0)
