"""Planning along gradients alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structwm.plan import Plan
from structwm.transition import TransitionModel

from .descent import FIRST, SHARE, descend
from .gaussian import Gaussian, GaussianPlanner, best_alone
from .hybrid import require_gradients
from .sampling import Search

FEW = 4  # steps of each start for which there should be time


@dataclass(frozen=True, kw_only=True)
class GradientPlanner(GaussianPlanner):
    """Adam through the model, from several starts at once: the plan before, and sequences drawn around it; the best point of any path is returned.

    With several iterations, starts are drawn again around the best so far; the descent is from those of the last.

    Where costs are smooth few rollouts suffice, also for long horizons and many actions, where sampling does not scale. Costs that are flat, or full of
    valleys, want `Hybrid`.
    """

    samples: int = 8  # starts
    steps: int = 30  # of Adam; each costs about three rollouts of all starts
    rate: float = 0.1  # of the steps at their start, as a fraction of half the action range

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or not self.rate > 0:
            raise ValueError(f"GradientPlanner needs steps of one or more and rate > 0, got {self.steps} and {self.rate}.")

    def check_model(self, model: TransitionModel[Any]) -> None:
        super().check_model(model)
        require_gradients(self, model)

    def weights(self, scores: Tensor) -> Tensor:
        return best_alone(scores)

    def update(self, sampler: Gaussian, candidates: Tensor, scores: Tensor) -> Gaussian:
        return sampler.around(candidates[torch.arange(len(scores), device=scores.device), scores.argmin(1)])

    def iterate(self, search: Search) -> None:
        end = search.deadline
        if end is not None:
            search.deadline = search.started + SHARE * (end - search.started)
        super().iterate(search)
        search.deadline = end

    def conclude(self, search: Search) -> Plan:
        assert search.candidates is not None and search.ranking is not None
        starts, count = search.candidates, self._in_time(search)
        if not count:
            search.stopped = "time was up before a step along the gradient"
            return super().conclude(search)
        if count < starts.shape[1]:
            places = search.ranking.topk(count, largest=False, sorted=True).indices
            starts = starts[torch.arange(len(places), device=places.device)[:, None], places]
        actions, scores = descend(search.rollouts, search.spec, starts, steps=self.steps, rate=self.rate, penalty=self.penalty, deadline=search.deadline)
        search.candidates, search.scores, search.ranking = actions, scores, scores.ranking
        search.consider(actions, scores)
        return super().conclude(search)

    def _in_time(self, search: Search) -> int:
        """For how many of the starts there is time: for a few steps from some, or else for one from the best."""
        if search.deadline is None:
            return self.samples
        if search.late(FIRST * search.rollouts.seconds(1)):
            return 0
        left = search.deadline - time.perf_counter()
        each = (search.rollouts.seconds(self.samples) * FIRST * FEW) / self.samples
        return min(max(int(left / each), 1), self.samples)
