"""Which of a policy's candidates is best: ranked by what a model predicts, and judged beside a random choice and an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structwm.interfaces import Belief, Constraint, Objective, require_views
from structwm.noise import Noise, problem_seeds
from structwm.planning.constraints import Valid
from structwm.planning.problems import check_wanted, count_problems, spread
from structwm.planning.risk import Mean, Risk
from structwm.planning.rollouts import Rollouts, Scores
from structwm.spec import Action, HybridAction
from structwm.state import State
from structwm.transition import TransitionModel

from .ranking import Ranking, rank


@dataclass(frozen=True)
class Ranked:
    """Candidates in the order in which a model would choose them."""

    scores: Scores  # cost (B, S) and violation (B, S, C) as predicted
    order: Tensor  # int64 (B, S), the best first
    conditions: tuple[str, ...]  # names of the C conditions

    @property
    def best(self) -> Tensor:
        """int64 (B,)"""
        return self.order[:, 0]


class CandidateEvaluator:
    """Ranks candidates of any policy by any model.

    Candidates that break a constraint rank behind all that keep them, by how much they break it; that every action is applicable is one, where the model says
    which are.

    Args:
        model: predicts what candidates do.
        objective: what is to be small.
        constraints: what must hold.
        risk: how the costs of the E members, or belief particles, become one.
        particles: E, how many are drawn of a belief where the model has no members, or futures of a state by a stochastic model; None: all that the belief has.
        chunk: rollouts (B x S x E) computed at once; None: all.

    Raises:
        ViewMissing: if the model's scene lacks a view that is needed.
    """

    def __init__(
        self,
        model: TransitionModel[Any],
        objective: Objective,
        *,
        constraints: Sequence[Constraint] = (),
        risk: Risk = Mean(),
        particles: int | None = None,
        chunk: int | None = None,
    ) -> None:
        check_wanted(objective, constraints)
        require_views(model.scene, objective, *constraints)
        self.model, self.objective = model, objective
        self.constraints = (*constraints, Valid()) if model.overrides("applicable") else tuple(constraints)
        self.risk, self.particles, self.chunk = risk, particles, chunk

    @torch.no_grad()
    def __call__(self, state: State | Belief[Any], candidates: Action, *, seed: int | Tensor = 0) -> Ranked:
        """Rank candidates for B problems.

        Args:
            state: batch_size (B,), or a belief over (B, E).
            candidates: (B, S, H, A), int64 (B, S, H), or HybridAction of batch_size (B, S, H), inside the action space.
            seed: of a belief's draw and of a stochastic model, as planners take it.

        Raises:
            ValueError: on candidates outside the action space, or of other problems.
        """
        problems = count_problems(state)
        self.model.spec.action.check(candidates)
        axes = candidates.batch_size if isinstance(candidates, HybridAction) else candidates.shape[: 3 if self.model.spec.action.kind == "discrete" else -1]
        if len(axes) != 3:
            raise ValueError(f"CandidateEvaluator needs candidates (B, S, H, ...), got shape {tuple(candidates.shape)}.")
        if axes[0] != problems:
            raise ValueError(f"CandidateEvaluator needs candidates for {problems} problems, got {axes[0]}.")
        noise = Noise(problem_seeds(seed, problems))
        kind, fields = spread(self.model, state, self.particles, noise)
        inner = noise.child(2).sharing(1) if self.model.spec.traits.stochastic else None
        rollouts = Rollouts(self.model, kind, fields, self.objective, self.constraints, self.risk, inner, self.chunk)
        scores = rollouts(candidates)
        key = scores.cost if scores.excess is None else torch.where(scores.excess > 0, torch.inf, scores.cost)
        order = key.argsort(dim=1, stable=True)
        if scores.excess is not None:
            worse = scores.excess.gather(1, order).argsort(dim=1, stable=True)
            order = order.gather(1, worse)
        return Ranked(scores, order, rollouts.conditions)

    def judge(self, state: State | Belief[Any], candidates: Action, true: Tensor, *, seed: int | Tensor = 0) -> Ranking:
        """How well the ranking chooses: Kendall's tau, and regret beside a random choice and an oracle.

        Args:
            state: as of a call.
            candidates: as of a call.
            true: (B, S) what each candidate cost when it was carried out, NaN where it was not.
            seed: as of a call.

        Raises:
            ValueError: if `true` has another shape.
        """
        found = self(state, candidates, seed=seed)
        place = found.order.argsort(dim=1).double()
        predicted = place if found.scores.violation is not None else found.scores.cost.double()
        return rank(predicted.cpu().numpy(), true.double().cpu().numpy())
