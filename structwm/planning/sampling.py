"""The shared loop of sampling planners: init, sample, evaluate, update over immutable parameters."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from structwm.interfaces import Belief, Constraint, Objective, Planner, require_views
from structwm.noise import Noise, problem_seeds
from structwm.plan import Candidates, Plan
from structwm.spec import ActionSpec
from structwm.state import State
from structwm.transition import TransitionModel

from .constraints import Valid
from .lagrangian import penalised, updated
from .memory import keep_freed_memory
from .problems import check_again, check_wanted, count_problems, spread
from .risk import Mean, Risk
from .rollouts import Rollouts, Scores, all_finite

EXPECTED = Mean()
RESERVE = 1.2  # by how much the slowest iteration is exceeded when it is asked whether another one fits into the time


@dataclass
class Search:
    """A plan in the making."""

    spec: ActionSpec
    rollouts: Rollouts
    noise: Noise
    sampler: Any
    index: int
    started: float  # of `time.perf_counter` [s]
    deadline: float | None
    proposals: Tensor | None
    kept: Tensor | None  # (B, H, ...) of the previous plan, moved up
    active: Tensor | None
    best: Tensor | None = None  # (B, H, ...) the best candidate so far
    lowest: Tensor | None = None  # (B,) its cost
    excess: Tensor | None = None  # (B,) by how much it breaks constraints
    candidates: Tensor | None = None  # (B, S, H, ...) of the last iteration
    scores: Scores | None = None
    iterations: int = 0
    ranking: Tensor | None = None  # (B, S) by which the last iteration learned
    multipliers: Tensor | None = None  # (B, C) of constraints, where they enter by an augmented Lagrangian
    slowest: float = 0.0  # iteration [s]
    stopped: str = "all iterations were done"

    def late(self, seconds: float) -> bool:
        """Whether something that takes so long would end after the deadline."""
        return self.deadline is not None and time.perf_counter() + seconds > self.deadline

    def consider(self, candidates: Tensor, scores: Scores) -> None:
        """Keep the best candidate of each problem: the cheapest that keeps the constraints, or else of those that break them least."""
        ranking = scores.ranking
        winner = ranking.argmin(1)
        if scores.violation is not None:  # many may break them alike, as where no action changes the next state enough
            least = ranking == ranking.amin(1, keepdim=True)
            winner = scores.cost.clamp_max(torch.finfo(scores.cost.dtype).max).masked_fill(~least, torch.inf).argmin(1)
        rows = torch.arange(len(winner), device=winner.device)
        chosen, cost = candidates[rows, winner], scores.cost[rows, winner]
        over = scores.excess
        excess = None if over is None else over[rows, winner]
        if self.best is None or self.lowest is None:
            self.best, self.lowest, self.excess = chosen, cost, excess
            return
        better = cost < self.lowest
        if excess is not None and self.excess is not None:
            better = (excess < self.excess) | ((excess == self.excess) & better)
            self.excess = torch.where(better, excess, self.excess)
        self.best, self.lowest = torch.where(like_rows(better, chosen), chosen, self.best), torch.where(better, cost, self.lowest)


@dataclass(frozen=True, kw_only=True)
class SamplingPlanner(Planner):
    """Draws S action sequences, rolls them out, and moves a distribution towards the cheap ones.

    minimise over a_0..a_{H-1}:  risk_E [ objective( rollout(s_0, a) ) ]   subject to  a in bounds,  constraints <= 0

    Problems B, candidates S and members or particles E are axes of one rollout. Candidates lie inside the bounds before they are scored, the plan so far is
    always among them, and what is returned never scores worse than where the plan began. Subclasses implement the steps of the loop; those of continuous
    actions start from `GaussianPlanner`.
    """

    horizon: int = 20  # steps looked ahead
    samples: int = 256  # candidates per iteration; more search wider and cost more
    iterations: int = 1  # refinements per plan
    particles: int | None = None  # E: how many states are drawn of a belief (None: all), or futures of a state by a stochastic model (None: 1)
    risk: Risk = EXPECTED  # how the costs of the E members become one
    constraint_risk: Risk | None = None  # how their violations become one, `WorstCase()` where no member may break a constraint; None: as the costs
    chunk: int | None = None  # rollouts (B x S x E) computed at once, at least one candidate of each problem; None: what suits the device
    budget: float | None = None  # wall time of a plan [s] that is kept: what would not fit, iterations or late candidates of the first, is left out
    rule: Literal["rejection", "augmented_lagrangian"] = "rejection"  # how constraints enter: the latter also learns from candidates that break them
    penalty: float = 100.0  # cost of half a squared unit of violation, for the augmented Lagrangian

    def __post_init__(self) -> None:
        name = type(self).__name__
        for key in ("horizon", "samples", "iterations", "particles"):
            value = getattr(self, key)
            if value is not None and (value < 1 or not isinstance(value, int)):
                raise ValueError(f"{name}.{key} must be a whole number of at least 1, got {value}.")
        for key, risk in (("risk", self.risk), ("constraint_risk", self.constraint_risk or EXPECTED)):
            if not isinstance(risk, Risk):
                raise TypeError(f"{name}.{key} needs to be a Risk such as Mean(), got {risk!r}.")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"{name}.chunk must be at least 1 or None, got {self.chunk}.")
        if self.budget is not None and not self.budget > 0:
            raise ValueError(f"{name}.budget is a time above 0 s or None, got {self.budget}.")
        if self.rule not in ("rejection", "augmented_lagrangian") or not self.penalty > 0:
            raise ValueError(f"{name} needs rule 'rejection' or 'augmented_lagrangian' and penalty > 0, got {self.rule!r} and {self.penalty}.")

    @abstractmethod
    def init(self, spec: ActionSpec, problems: int, like: Tensor) -> Any:
        """The parameters of a first plan: a frozen object with `around(actions)` and `where(problems, other)`, as `Gaussian` has."""

    @abstractmethod
    def shift(self, sampler: Any) -> Any:
        """The parameters one step later."""

    @abstractmethod
    def moved_up(self, actions: Tensor) -> Tensor:
        """Actions (B, H, ...) one step later, with something at their end."""

    @abstractmethod
    def sample(self, sampler: Any, noise: Noise, iteration: int = 0) -> Tensor:
        """Candidates (B, S, H, ...), of which the first is the plan so far."""

    @abstractmethod
    def weights(self, scores: Tensor) -> Tensor:
        """The share (B, S) of each candidate in the update, of sum 1, by its score (B, S); 0 for infinite ones."""

    @abstractmethod
    def update(self, sampler: Any, candidates: Tensor, scores: Tensor) -> Any:
        """The parameters after candidates (B, S, H, ...) with `scores` (B, S) to be minimised, of which some may be infinite."""

    @property
    def keeps_best(self) -> bool:
        """Whether the best candidate that was seen is wanted at the end."""
        return True

    @abstractmethod
    def check_model(self, model: TransitionModel[Any]) -> None:
        """Refuse models that this planner cannot plan with.

        Raises:
            ValueError: says why.
        """

    @abstractmethod
    def check_previous(self, previous: Plan, problems: int, spec: ActionSpec) -> Any:
        """The sampler of a previous plan.

        Raises:
            ValueError: if it is of another planner or other problems.
        """

    def project(self, spec: ActionSpec, candidates: Tensor) -> Tensor:
        """Candidates inside the bounds; may write in place."""
        return candidates

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
        """See `Planner.plan`.

        Args:
            model: any transition model whose actions are of the planner's kind.
            state: batch_size (B,), or a belief over (B, E).
            objective: what is to be made small.
            constraints: what must hold; infeasible candidates are rejected while any candidate is feasible.
            previous: the plan before; its distribution moves up by `elapsed` steps.
            seed: int64 (B,), or an int that means `seed + arange(B)`.
            active: bool (B,), the problems that are planned anew; the others go on with the previous plan. None: all.
            elapsed: steps since the previous plan.
            proposals: action sequences (B, P, H, A) that join the candidates of the first iteration, for example from a policy. P < S.
        """
        search = self.begin(model, state, objective, constraints, previous, seed, active, elapsed, proposals)
        self.iterate(search)
        return self.conclude(search)

    def begin(
        self,
        model: TransitionModel[Any],
        state: State | Belief[Any],
        objective: Objective,
        constraints: Sequence[Constraint],
        previous: Plan | None,
        seed: int | Tensor,
        active: Tensor | None,
        elapsed: int,
        proposals: Tensor | None,
    ) -> Search:
        """Check what `plan` was given, and set the search up."""
        started = time.perf_counter()
        keep_freed_memory()
        spec = model.spec.action
        self.check_model(model)
        check_wanted(objective, constraints)
        if model.overrides("applicable"):
            constraints = (*constraints, Valid())
        require_views(model.scene, objective, *constraints)
        problems, index = count_problems(state), 0 if previous is None else previous.index + 1
        check_again(problems, previous, active, elapsed)
        noise = Noise(problem_seeds(seed, problems), step=index)
        kind, fields = spread(model, state, self.particles, noise)
        device = next(iter(fields.values())).device
        if previous is None:
            like = next(filter(torch.is_floating_point, fields.values()), None)
            sampler, kept = self.init(spec, problems, torch.empty(0, device=device) if like is None else like), None
        else:
            sampler, kept = self.check_previous(previous, problems, spec), previous.actions
            for _ in range(elapsed):
                sampler, kept = self.shift(sampler), self.moved_up(kept)
        active = None if active is None else active.to(device)
        inner = noise.child(2).sharing(1) if model.spec.traits.stochastic else None
        rollouts = Rollouts(model, kind, fields, objective, constraints, self.risk, inner, self.chunk, active, self.constraint_risk)
        deadline = None if self.budget is None else started + self.budget
        rollouts.pace = None if previous is None else previous.pace
        multipliers = None if previous is None else previous.multipliers
        return Search(spec, rollouts, noise, sampler, index, started, deadline, proposals, kept, active, multipliers=multipliers)

    def iterate(self, search: Search) -> None:
        """All iterations, or those for which there is time."""
        for iteration in range(self.iterations):
            begun = time.perf_counter()
            if iteration and search.late(RESERVE * search.slowest):
                search.stopped = f"time was up after {iteration} of {self.iterations} iterations"
                return
            candidates = self.sample(search.sampler, search.noise.stream(iteration), iteration)
            if search.proposals is not None and iteration == 0:
                candidates = self._insert(search.spec, candidates, search.proposals)
            candidates = self.project(search.spec, candidates)
            scores = search.rollouts(candidates, deadline=search.deadline)
            if self.keeps_best:
                search.consider(candidates, scores)
            search.candidates, search.scores = candidates, scores
            ranking = self.rank(search, scores)
            sampler = self.update(search.sampler, candidates, ranking)
            known = scores.finite and ranking is scores.cost
            search.sampler = sampler if known or all_finite(ranking) else sampler.where(ranking.isfinite().any(1), search.sampler)
            search.ranking, search.iterations = ranking, iteration + 1
            search.slowest = max(search.slowest, time.perf_counter() - begun)
            if scores.tried is not None:
                search.stopped = f"time was up after {scores.tried} of {candidates.shape[1]} candidates of iteration {iteration + 1} of {self.iterations}"

    def rank(self, search: Search, scores: Scores) -> Tensor:
        """What the update is to make small, (B, S); multipliers rise where what it favours breaks constraints."""
        if scores.violation is None or self.rule == "rejection":
            return scores.ranking
        if search.multipliers is None or search.multipliers.shape != scores.violation[:, 0].shape:
            search.multipliers = scores.violation.new_zeros(scores.violation[:, 0].shape)
        ranking = penalised(scores.cost, scores.violation, search.multipliers.unsqueeze(1), self.penalty)
        expected = (self.weights(ranking).unsqueeze(-1) * scores.violation.nan_to_num(posinf=0.0)).sum(1)
        risen = updated(search.multipliers, expected, self.penalty)
        search.multipliers = risen if search.active is None else torch.where(search.active[:, None], risen, search.multipliers)
        return ranking

    def conclude(self, search: Search) -> Plan:
        """The best candidate that was seen."""
        assert search.best is not None
        return self.finish(search, search.best, search.lowest)

    def finish(self, search: Search, actions: Tensor, cost: Tensor | None) -> Plan:
        """The plan to do `actions` (B, H, A) of known cost (B,)."""
        assert search.scores is not None
        if search.active is not None and search.kept is not None and not bool(search.active.all()):
            actions, cost = torch.where(like_rows(search.active, actions), actions, self.project(search.spec, search.kept.clone())), None
        scores, ranking = search.scores, search.ranking if search.ranking is not None else search.scores.ranking
        candidates = Candidates(scores.cost, lambda: self.weights(ranking), scores.violation, search.rollouts.conditions, scores.tried)
        sampler = search.sampler.around(actions)  # the next plan starts from what this one returns
        seconds = time.perf_counter() - search.started
        return Plan(
            actions,
            sampler,
            search.index,
            search.iterations,
            seconds,
            search.stopped,
            search.rollouts.predict,
            candidates=candidates,
            found=cost,
            multipliers=search.multipliers,
            pace=search.rollouts.pace,
        )

    def _insert(self, spec: ActionSpec, candidates: Tensor, proposals: Tensor) -> Tensor:
        problems, samples, *rest = candidates.shape
        if proposals.ndim != candidates.ndim or (proposals.shape[0], *proposals.shape[2:]) != (problems, *rest) or not 0 < proposals.shape[1] < samples:
            axes = ", ".join(map(str, rest))
            raise ValueError(
                f"proposals must be (B, P, {'H, A' if len(rest) == 2 else 'H'}) = ({problems}, P < {samples}, {axes}), got {tuple(proposals.shape)}."
            )
        if proposals.is_floating_point() and not bool(proposals.isfinite().all()):
            raise ValueError("proposals must be finite, and some are not.")
        if spec.kind == "discrete":
            spec.check(proposals)
        count = proposals.shape[1]
        return torch.cat((candidates[:, :1], proposals.to(candidates), candidates[:, 1 : samples - count]), 1)


def like_rows(problems: Tensor, like: Tensor) -> Tensor:
    """(B,) with axes of size one behind it, to broadcast against `like` (B, ...)."""
    return problems.reshape(-1, *(1,) * (like.ndim - 1))
