"""Model predictive path integral control."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .sampling import Gaussian, SamplingPlanner


@dataclass(frozen=True, kw_only=True)
class MPPI(SamplingPlanner):
    """Moves the mean to the average of all candidates, weighted by `w_s ~ exp(-(J_s - min J) / (temperature * spread))`.

    `spread` is the standard deviation of the candidates' finite costs, so that one temperature serves costs of any size; with `absolute=True` it is 1 and the
    temperature is in units of the cost, as in Williams et al., "Information theoretic MPC for model-based reinforcement learning", ICRA 2017.
    """

    temperature: float = 0.1  # lower follows the best candidates more greedily
    absolute: bool = False  # temperature in units of the cost
    anneal: float = 1.0  # the std is multiplied by this after each iteration; below 1 refines

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 or not 0 < self.anneal <= 1:
            raise ValueError(f"MPPI needs temperature > 0 and 0 < anneal <= 1, got {self.temperature} and {self.anneal}.")

    def update(self, sampler: Gaussian, candidates: Tensor, scores: Tensor) -> Gaussian:
        weights = self.weights(scores)
        mean = (weights[:, :, None, None] * candidates).sum(1)
        return replace(sampler, mean=mean, std=sampler.std * self.anneal)

    def weights(self, scores: Tensor) -> Tensor:
        """The weights of candidates with scores (B, S), which sum to one; 0 for infinite scores."""
        finite = scores.isfinite()
        count = finite.sum(1, keepdim=True).clamp_min(1)
        known = scores.masked_fill(~finite, 0.0)
        above = (scores - scores.masked_fill(~finite, float("inf")).amin(1, keepdim=True)).masked_fill(~finite, float("inf"))
        scale = torch.full_like(known[:, :1], self.temperature)
        if not self.absolute:
            mean = known.sum(1, keepdim=True) / count
            spread = ((known - mean).masked_fill(~finite, 0.0).square().sum(1, keepdim=True) / count).sqrt()
            scale = self.temperature * spread.clamp_min(1e-12)
        return (-above / scale).nan_to_num(nan=-float("inf"), neginf=-float("inf")).softmax(1).nan_to_num(nan=0.0)
