"""Model predictive path integral control."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from structwm.plan import Plan

from .gaussian import Gaussian, GaussianPlanner, weighted_mean
from .rollouts import Scores, all_finite
from .sampling import Search


@dataclass(frozen=True, kw_only=True)
class MPPI(GaussianPlanner):
    """Moves the mean to the average of all candidates, weighted by `w_s ~ exp(-(J_s - min J) / (temperature * spread))`.

    `spread` is the standard deviation of the candidates' finite costs, so that one temperature serves costs of any size; with `absolute=True` it is 1 and the
    temperature is in units of the cost, as in Williams et al., "Information theoretic MPC for model-based reinforcement learning", ICRA 2017.
    """

    temperature: float = 0.1  # lower follows the best candidates more greedily
    absolute: bool = False  # temperature in units of the cost
    anneal: float = 1.0  # the std is multiplied by this after each iteration; below 1 refines
    control_cost: float = 0.0  # weight of `mean^T covariance^-1 kick` (in units of the temperature), by which Williams et al. make large commands dear
    covariance: tuple[tuple[float, ...], ...] | None = None  # (A, A) by which the noise of the axes of an action hangs together, of ones on its diagonal
    verify: bool = True  # roll the average out and return it only where it is cheaper than the best candidate: a rollout more, and no plan worse than its start

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 or not 0 < self.anneal <= 1:
            raise ValueError(f"MPPI needs temperature > 0 and 0 < anneal <= 1, got {self.temperature} and {self.anneal}.")
        if self.control_cost < 0:
            raise ValueError(f"MPPI.control_cost must not be negative, got {self.control_cost}.")
        if self.covariance is not None:
            _factor(self.covariance)

    def kicks(self, like: Tensor, noise: object) -> Tensor:
        kicks = super().kicks(like, noise)  # type: ignore[arg-type]
        if self.covariance is None:
            return kicks
        if len(self.covariance) != like.shape[-1]:
            raise ValueError(f"MPPI.covariance is of {len(self.covariance)} axes, and an action has {like.shape[-1]}.")
        return kicks @ _factor(self.covariance).to(kicks).T

    def rank(self, search: Search, scores: Scores) -> Tensor:
        ranking, mean = super().rank(search, scores), search.sampler.mean
        if not self.control_cost:
            return ranking
        assert search.candidates is not None
        std = search.sampler.std.clamp_min(1e-12)
        pull = mean / std if self.covariance is None else mean / std @ torch.tensor(self.covariance, dtype=torch.float64).inverse().to(mean)
        cost = ((pull / std).unsqueeze(1) * (search.candidates - mean.unsqueeze(1))).sum((-1, -2))
        scale = self.temperature if self.absolute else self.temperature * _spread(ranking - ranking.amin(1, keepdim=True).nan_to_num(posinf=0.0))
        return ranking + self.control_cost * scale * cost

    def update(self, sampler: Gaussian, candidates: Tensor, scores: Tensor) -> Gaussian:
        mean = weighted_mean(self.weights(scores), candidates)
        return Gaussian(mean, sampler.std if self.anneal == 1.0 else sampler.std * self.anneal, sampler.wide)

    def weights(self, scores: Tensor) -> Tensor:
        if all_finite(scores):  # what is the same for all candidates of a problem does not matter
            if not self.absolute:
                return layer_norm(scores, scores.shape[1:], _slope(scores.shape[1], self.temperature, scores.dtype, scores.device), eps=1e-24).softmax(1)
            standard = scores
        else:
            above = (scores - scores.amin(1, keepdim=True)).nan_to_num(nan=0.0, posinf=torch.inf)  # where no candidate of a problem is finite: all alike
            standard = above if self.absolute else above / _spread(above)
        return (standard * (-1.0 / self.temperature)).softmax(1)

    @property
    def keeps_best(self) -> bool:
        return self.verify

    def conclude(self, search: Search) -> Plan:
        """The average, or where it is verified and dearer, or there is no time to verify it, the best candidate."""
        mean = self.project(search.spec, search.sampler.mean)  # of the last update, so nobody else's
        if not self.verify:
            return self.finish(search, mean, None)
        if search.late(search.rollouts.quickest):
            return super().conclude(search)
        search.consider(mean.unsqueeze(1), search.rollouts(mean.unsqueeze(1)))
        return super().conclude(search)


@lru_cache(maxsize=32)
def _slope(count: int, temperature: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(count,) minus one over the temperature; kept, so never to be written to."""
    with torch.inference_mode(False):
        return torch.full((count,), -1.0 / temperature, dtype=dtype, device=device)


def _spread(above: Tensor) -> Tensor:
    """Standard deviation (B, 1) of the costs (B, S) that are finite."""
    finite = above.isfinite()
    count = finite.sum(1, keepdim=True)
    mean = above.masked_fill(~finite, 0.0).sum(1, keepdim=True) / count
    return ((above - mean).masked_fill(~finite, 0.0).square().sum(1, keepdim=True) / count).sqrt().clamp_min(1e-12)


def _factor(covariance: tuple[tuple[float, ...], ...]) -> Tensor:
    """The Cholesky factor (A, A), float64.

    Raises:
        ValueError: if the numbers are no correlation matrix.
    """
    matrix = torch.tensor(covariance, dtype=torch.float64)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    if square and torch.equal(matrix, matrix.T) and bool((matrix.diagonal() == 1).all()):
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            return factor
    raise ValueError(f"MPPI.covariance needs a positive definite matrix (A, A) with ones on its diagonal (the std scales each axis), got {covariance}.")
