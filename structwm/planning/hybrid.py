"""Sampling, then descent: gradients begin where sampling ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from structwm.interfaces import Belief, Constraint, Objective, Planner
from structwm.plan import Plan
from structwm.state import State
from structwm.transition import TransitionModel

from .descent import FIRST, SHARE, descend
from .mppi import MPPI
from .sampling import SamplingPlanner, Search


@dataclass(frozen=True, kw_only=True)
class Hybrid(Planner):
    """Refines the cheapest candidates of a sampling planner by steps along the gradient, for models that give one.

    Sampling finds the valley, also where costs are flat or have many minima; gradients find its bottom in few steps, also in many dimensions (as in Bharadhwaj
    et al., "Model-predictive control via cross-entropy and gradient-based optimization", L4DC 2020).
    """

    search: SamplingPlanner = field(default_factory=MPPI)  # finds where descent begins
    steps: int = 10  # of Adam; each costs about three rollouts of the finalists
    finalists: int = 4  # cheapest candidates that are refined, and what the search returned; more escape from poor valleys
    rate: float = 0.1  # of the steps at their start, as a fraction of half the action range
    penalty: float = 100.0  # cost of half a squared unit of violation of a constraint

    def __post_init__(self) -> None:
        if self.steps < 0 or self.finalists < 1 or not self.rate > 0 or not self.penalty > 0:
            raise ValueError(
                "Hybrid needs steps of zero or more, finalists of one or more, and rate and penalty above zero, "
                f"got {self.steps}, {self.finalists}, {self.rate} and {self.penalty}."
            )

    @property
    def horizon(self) -> int:
        """H, of the search."""
        return self.search.horizon

    @torch.no_grad()
    def plan(
        self,
        model: TransitionModel[Any],
        state: State | Belief[Any],
        objective: Objective,
        *,
        constraints: Sequence[Constraint] = (),
        previous: Plan | None = None,
        seed: int | Tensor = 0,
        active: Tensor | None = None,
        elapsed: int = 1,
        proposals: Tensor | None = None,
    ) -> Plan:
        """See `SamplingPlanner.plan`.

        Raises:
            ValueError: if the model gives no gradients, or takes other than continuous actions.
        """
        self.search.check_model(model)
        if model.spec.action.kind != "continuous":
            raise ValueError(f"Hybrid refines continuous actions; {type(model).__name__} takes {model.spec.action.kind} ones.")
        if self.steps:
            require_gradients(self, model)
        run = self.search.begin(model, state, objective, constraints, previous, seed, active, elapsed, proposals)
        end = run.deadline
        if end is not None and self.steps:
            run.deadline = run.started + SHARE * (end - run.started)
        self.search.iterate(run)
        plan = self.search.conclude(run)
        run.deadline = end
        if not self.steps or run.late(FIRST * run.rollouts.seconds(self.finalists)):
            return plan
        begin = torch.cat((plan.actions.unsqueeze(1), self._others(run, plan.actions)), 1)
        if run.candidates is not None and run.active is not None:
            begin = torch.where(run.active[:, None, None, None], begin, plan.actions.unsqueeze(1))
        actions, scores = descend(run.rollouts, run.spec, begin, steps=self.steps, rate=self.rate, penalty=self.penalty, deadline=run.deadline)
        if not self.search.keeps_best and run.candidates is not None and run.scores is not None:
            run.consider(run.candidates, run.scores)
        run.consider(actions, scores)
        assert run.best is not None
        return self.search.finish(run, run.best, run.lowest)

    def _others(self, run: Search, chosen: Tensor) -> Tensor:
        """The cheapest candidates of the last iteration (B, K, H, A), but for the one that was chosen."""
        assert run.candidates is not None and run.scores is not None
        again = (run.candidates == chosen.unsqueeze(1)).flatten(2).all(-1)
        ranking = run.scores.ranking.masked_fill(again, torch.inf)
        count = min(self.finalists - 1, ranking.shape[1] - 1)
        others = ranking.topk(count, largest=False, sorted=True).indices
        return run.candidates.gather(1, others[:, :, None, None].expand(-1, -1, *run.candidates.shape[2:]))


def require_gradients(planner: Planner, model: TransitionModel[Any]) -> None:
    """Refuse a model without gradients.

    Raises:
        ValueError: names both.
    """
    if not model.spec.traits.differentiable:
        raise ValueError(f"{type(planner).__name__} needs gradients, which {type(model).__name__} does not give; take a sampling planner.")
