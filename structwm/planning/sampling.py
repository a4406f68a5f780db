"""The shared loop of sampling planners: init, sample, evaluate, update over immutable parameters."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from structwm.interfaces import Belief, Constraint, Objective, Plan, Planner, require_views
from structwm.noise import Noise, problem_seeds
from structwm.spec import ActionSpec
from structwm.state import State
from structwm.transition import Trajectory, TransitionModel

from .risk import Mean, Risk

EXPECTED = Mean()
STEEP = 10.0  # cost of a unit of violation, for steps along the gradient


@dataclass(frozen=True)
class Gaussian:
    """A sampler's parameters: a normal distribution around an action sequence."""

    mean: Tensor  # (B, H, A)
    std: Tensor  # (B, H, A)
    wide: Tensor  # (B, H, A), the std with which a plan starts


@dataclass(frozen=True)
class Scores:
    """What an evaluation says of S candidates per problem."""

    cost: Tensor  # (B, S) after risk; inf where not finite
    violation: Tensor | None  # (B, S, C) after risk; None without constraints

    @property
    def ranking(self) -> Tensor:
        """(B, S) to be minimised: infeasible candidates count as infinite where any candidate is feasible, else by their total violation."""
        if self.violation is None:
            return self.cost
        excess = self.violation.clamp_min(0).sum(-1)
        feasible = excess <= 0
        return torch.where(feasible.any(-1, keepdim=True), self.cost.masked_fill(~feasible, float("inf")), excess)


@dataclass(frozen=True, kw_only=True)
class SamplingPlanner(Planner):
    """Draws S action sequences, rolls them out, and moves a normal distribution towards the cheap ones.

    minimise over a_0..a_{H-1}:  risk_E [ objective( rollout(s_0, a) ) ]   subject to  a in bounds,  constraints <= 0

    Problems B, candidates S and members or particles E are axes of one rollout. Candidates are
    projected into the bounds before they are scored, the current mean is always among them, and what is returned is the cheaper of the final mean and
    the best candidate seen, so that a plan never scores worse than where it began. Subclasses implement `update`.
    """

    horizon: int = 20  # steps looked ahead
    samples: int = 256  # candidates per iteration; more search wider and cost more
    iterations: int = 1  # refinements per plan
    std: float = 0.5  # exploration at the start of a plan, as a fraction of half the action range; larger explores more
    narrow: float = 1.0  # candidates explore with stds from `std` down to this share of it, evenly in the logarithm: below 1 searches far and near at once
    knots: int | None = None  # noise is drawn at so many knots and interpolated; fewer explore smoother sequences; None: one per step
    tail: Literal["hold", "zero"] = "hold"  # last action of a plan that moved up by a step: the one before again, or 0, which stops what velocities command
    polish: int = 0  # steps along the gradient that the cheapest candidates take at the end, where the model gives gradients; more find what sampling misses
    polished: int = 4  # how many of them; more escape from poor ones
    rate: float = 0.1  # of these steps at their start, as a fraction of half the action range
    particles: int = 1  # E for beliefs: how many states are drawn from them (models with members use E = members)
    risk: Risk = EXPECTED  # how the costs of the E members become one
    chunk: int | None = None  # rollouts (B x S x E) computed at once, at least one candidate of every problem; smaller needs less memory; None: all

    def __post_init__(self) -> None:
        for name in ("horizon", "samples", "iterations", "particles"):
            if getattr(self, name) < 1:
                raise ValueError(f"{type(self).__name__}.{name} must be at least 1, got {getattr(self, name)}.")
        if not self.std > 0 or (self.knots is not None and not 1 <= self.knots <= self.horizon):
            raise ValueError(f"{type(self).__name__} needs std > 0 and 1 <= knots <= horizon, got std {self.std} and knots {self.knots}.")
        if not 0 < self.narrow <= 1:
            raise ValueError(f"{type(self).__name__}.narrow is a share above 0 and at most 1, got {self.narrow}.")
        if self.polish < 0 or self.polished < 1 or not self.rate > 0:
            raise ValueError(
                f"{type(self).__name__} needs polish of zero or more, polished of one or more and rate > 0, got {self.polish}, {self.polished} and {self.rate}."
            )
        if self.tail not in ("hold", "zero"):
            raise ValueError(f"{type(self).__name__}.tail is 'hold' or 'zero', got {self.tail!r}.")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"{type(self).__name__}.chunk must be at least 1 or None, got {self.chunk}.")

    @abstractmethod
    def update(self, sampler: Gaussian, candidates: Tensor, scores: Tensor) -> Gaussian:
        """The distribution after candidates (B, S, H, A) with `scores` (B, S) to be minimised, of which some may be infinite but not all."""

    def init(self, spec: ActionSpec, problems: int, like: Tensor) -> Gaussian:
        """The distribution of a first plan: centred in the bounds (0 where unbounded)."""
        shape = (problems, self.horizon, spec.size)
        centre, scale = _centre_and_scale(spec, like)
        wide = (self.std * scale).expand(shape)
        return Gaussian(mean=centre.expand(shape), std=wide, wide=wide)

    def shift(self, sampler: Gaussian) -> Gaussian:
        """The distribution one step later: the mean moves up by a step, `tail` says how it ends, exploration starts anew."""
        last = sampler.mean[:, -1:]
        mean = torch.cat((sampler.mean[:, 1:], last if self.tail == "hold" else torch.zeros_like(last)), 1)
        return replace(sampler, mean=mean, std=sampler.wide)

    def sample(self, sampler: Gaussian, noise: Noise) -> Tensor:
        """Candidates (B, S, H, A); the first is the mean."""
        problems, horizon, size = sampler.mean.shape
        kicks = noise.normal((problems, self.samples, self.knots or horizon, size), like=sampler.mean)
        if self.narrow < 1:
            kicks = kicks * self.narrow ** torch.linspace(0, 1, self.samples).to(kicks)[:, None, None]
        kicks[:, 0] = 0.0
        return sampler.mean[:, None] + sampler.std[:, None] * _interpolate(kicks, horizon)

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
        proposals: Tensor | None = None,
    ) -> Plan:
        """See `Planner.plan`.

        Args:
            model: any transition model with continuous actions.
            state: batch_size (B,), or a belief over (B, E).
            objective: what is to be made small.
            constraints: what must hold; infeasible candidates are rejected while any candidate is feasible.
            previous: the plan of the step before; its distribution is shifted by one step.
            seed: int64 (B,), or an int that means `seed + arange(B)`.
            proposals: action sequences (B, P, H, A) that join the candidates of the first iteration, for example from a policy. P < S.
        """
        start = time.perf_counter()
        spec = model.spec.action
        if spec.kind != "continuous":
            raise ValueError(f"{type(self).__name__} plans continuous actions; {type(model).__name__} takes {spec.kind} ones.")
        if self.polish and not model.spec.traits.differentiable:
            raise ValueError(f"{type(self).__name__}.polish needs gradients, which {type(model).__name__} does not give.")
        require_views(model.scene, objective, *constraints)
        problems, index = _problems(state), 0 if previous is None else previous.index + 1
        noise = Noise(problem_seeds(seed, problems), step=index)
        states = self._spread(model, state, noise.child(1))
        like = next(value for value in states.values() if value.is_floating_point())
        sampler = self.init(spec, problems, like) if previous is None else self.shift(self._check_previous(previous, problems, spec))
        best, best_score = None, None
        evaluate = _Evaluator(model, states, objective, constraints, self.risk, noise.child(2).sharing(1), self.chunk)
        for iteration in range(self.iterations):
            candidates = self.sample(sampler, noise.stream(iteration))
            if proposals is not None and iteration == 0:
                candidates = self._insert(candidates, proposals)
            candidates = spec.project(candidates)
            scores = evaluate(candidates).ranking
            best, best_score = _keep_best(best, best_score, candidates, scores)
            sampler = _where_any_finite(scores, self.update(sampler, candidates, scores), sampler)
        finalists = spec.project(torch.stack((sampler.mean, cast(Tensor, best)), 1))
        if self.polish:
            again = (candidates == finalists[:, 1:]).flatten(2).all(-1)  # the best of all iterations may be of the last
            others = scores.masked_fill(again, torch.inf).topk(min(max(self.polished - 2, 0), self.samples - 1), largest=False).indices
            others = candidates.gather(1, others[:, :, None, None].expand(-1, -1, *candidates.shape[2:]))
            finalists = torch.cat((finalists, self._polish(evaluate, torch.cat((finalists, others), 1)[:, : self.polished], spec)), 1)
        winner, chosen, trajectory = evaluate.choose(finalists)
        actions = finalists[torch.arange(problems, device=winner.device), winner]
        sampler = replace(sampler, mean=actions)  # the next plan starts from what this one returns
        seconds = time.perf_counter() - start
        cost, violation = chosen.cost[:, 0], None if chosen.violation is None else chosen.violation[:, 0]
        return Plan(actions, cost, trajectory, violation, sampler, index, self.iterations, seconds)

    def _polish(self, evaluate: _Evaluator, actions: Tensor, spec: ActionSpec) -> Tensor:
        """The best that each sequence (B, K, H, A) comes by along the gradient (Adam: Kingma and Ba, 2015), with ever smaller steps."""
        centre, scale = _centre_and_scale(spec, actions)
        point = ((actions - centre) / scale).requires_grad_()
        search = torch.optim.Adam([point], lr=self.rate)
        best, lowest = actions, torch.full(actions.shape[:2], float("inf")).to(actions)
        for step in range(self.polish + 1):
            with torch.enable_grad():
                tried = spec.project(centre + scale * point)
                scores = evaluate(tried)
                excess = 0.0 if scores.violation is None else scores.violation.clamp_min(0).sum(-1)
                total = scores.cost + STEEP * excess
                if not total.requires_grad:  # nothing depends on the actions
                    return actions
            now = total.detach()
            better = now < lowest
            best, lowest = torch.where(better[:, :, None, None], tried.detach(), best), torch.where(better, now, lowest)
            if step == self.polish:
                return best
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(torch.where(total.isfinite(), total, 0.0).sum(), point)
            point.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            search.param_groups[0]["lr"] = self.rate * (1 - step / (self.polish + 1))
            search.step()
            point.data = (spec.project(centre + scale * point.detach()) - centre) / scale
        return best

    def _spread(self, model: TransitionModel[Any], state: State | Belief[Any], noise: Noise) -> State:
        """States (B, E): E members, else E particles."""
        members = model.spec.members
        count = members if members > 1 else self.particles
        if isinstance(state, Belief):
            return state.resample(count, noise)
        if members > 1 and len(state.batch_size) == 2:
            return state
        return state.unsqueeze(1).expand(state.batch_size[0], members)

    def _check_previous(self, previous: Plan, problems: int, spec: ActionSpec) -> Gaussian:
        sampler = previous.sampler
        expected = (problems, self.horizon, spec.size)
        if not isinstance(sampler, Gaussian) or tuple(sampler.mean.shape) != expected:
            got = tuple(sampler.mean.shape) if isinstance(sampler, Gaussian) else type(sampler).__name__
            raise ValueError(f"The previous plan does not fit this planner: expected a distribution of shape {expected}, got {got}; pass previous=None.")
        return sampler

    def _insert(self, candidates: Tensor, proposals: Tensor) -> Tensor:
        problems, samples, horizon, size = candidates.shape
        expected = (problems, horizon, size)
        if proposals.ndim != 4 or (proposals.shape[0], *proposals.shape[2:]) != expected or not 0 < proposals.shape[1] < samples:
            raise ValueError(f"proposals must be (B, P, H, A) = ({problems}, P < {samples}, {horizon}, {size}), got {tuple(proposals.shape)}.")
        return torch.cat((candidates[:, : samples - proposals.shape[1]], proposals.to(candidates)), 1)


class _Evaluator:
    """Scores candidates by rolling the model out over (B, S, E), in chunks."""

    def __init__(
        self,
        model: TransitionModel[Any],
        states: State,
        objective: Objective,
        constraints: Sequence[Constraint],
        risk: Risk,
        noise: Noise,
        chunk: int | None,
    ) -> None:
        self.model, self.states, self.objective, self.constraints, self.risk = model, states, objective, constraints, risk
        self.noise = noise if model.spec.traits.stochastic else None
        self.problems, self.members = states.batch_size
        self.chunk = chunk

    def __call__(self, actions: Tensor) -> Scores:
        """Scores of actions (B, S, H, A)."""
        samples = actions.shape[1]
        if self.chunk is None or self.problems * samples * self.members <= self.chunk:
            return self._score(self._rollout(actions))
        width = max(1, self.chunk // (self.problems * self.members))
        parts = [self._score(self._rollout(part)) for part in actions.split(width, dim=1)]
        violations = [part.violation for part in parts if part.violation is not None]
        return Scores(torch.cat([part.cost for part in parts], 1), torch.cat(violations, 1) if violations else None)

    def choose(self, actions: Tensor) -> tuple[Tensor, Scores, Trajectory]:
        """The best of few candidates (B, S, H, A): its index (B,), scores (B, 1) and trajectory (B, E)."""
        trajectory = self._rollout(actions)
        scores = self._score(trajectory)
        winner, rows = scores.ranking.argmin(1), torch.arange(self.problems, device=actions.device)
        violation = None if scores.violation is None else scores.violation[rows, winner][:, None]
        return winner, Scores(scores.cost[rows, winner][:, None], violation), trajectory[rows, winner]

    def _rollout(self, actions: Tensor) -> Trajectory:
        """A trajectory of batch axes (B, S, E)."""
        problems, samples = actions.shape[:2]
        states = self.states.unsqueeze(1).expand(problems, samples, self.members)
        if self.model.spec.members > 1:
            return self.model.rollout(states, actions, noise=self.noise)
        if self.members == 1:
            return self.model.rollout(states[:, :, 0], actions, noise=self.noise).unsqueeze(2)
        return self.model.rollout(states, actions[:, :, None].expand(-1, -1, self.members, -1, -1), noise=self.noise)

    def _score(self, trajectory: Trajectory) -> Scores:
        cost = torch.zeros(trajectory.batch_shape[:2], device=trajectory.times.device)
        for weight, term in self.objective.terms:
            value = term(trajectory)
            cost = cost + weight * (value if term.reads_members else self.risk(value))
        cost = torch.where(cost.isfinite(), cost, float("inf"))
        if not self.constraints:
            return Scores(cost, None)
        values = torch.cat([constraint(trajectory) for constraint in self.constraints], dim=-1)  # (B, S, E, C)
        violation = self.risk(values.transpose(-1, -2).flatten(1, 2)).unflatten(1, (cost.shape[1], values.shape[-1]))
        return Scores(cost, violation.nan_to_num(nan=float("inf")))


def _centre_and_scale(spec: ActionSpec, like: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half range of each action, (A,); 0 and 1 where unbounded."""
    low, high = spec.low.to(like), spec.high.to(like)
    bounded = low.isfinite() & high.isfinite()
    return torch.where(bounded, (low + high) / 2, 0.0).nan_to_num(), torch.where(bounded, (high - low) / 2, 1.0).nan_to_num(posinf=1.0)


def _interpolate(knots: Tensor, instants: int) -> Tensor:
    """Piecewise linear reading of knots (..., J, A), spread evenly over the horizon, at `instants` even times."""
    count = knots.shape[-2]
    if count == instants:
        return knots
    position = torch.linspace(0, count - 1, instants, dtype=torch.float64)
    lower = position.floor().long().clamp(max=max(count - 2, 0))
    weight = (position - lower).to(knots).unsqueeze(-1)
    upper = (lower + 1).clamp(max=count - 1)
    return knots.index_select(-2, lower.to(knots.device)) * (1 - weight) + knots.index_select(-2, upper.to(knots.device)) * weight


def _problems(state: State | Belief[Any]) -> int:
    batch = state.states.batch_size if isinstance(state, Belief) else state.batch_size
    if len(batch) < 1:
        raise ValueError("A planner needs states of batch_size (B,), got one without batch axes; use state.unsqueeze(0).")
    return int(batch[0])


def _keep_best(best: Tensor | None, best_score: Tensor | None, candidates: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    lowest, winner = scores.min(1)
    chosen = candidates[torch.arange(candidates.shape[0], device=candidates.device), winner]
    if best is None or best_score is None:
        return chosen, lowest
    better = lowest < best_score
    return torch.where(better[:, None, None], chosen, best), torch.where(better, lowest, best_score)


def _where_any_finite(scores: Tensor, updated: Gaussian, old: Gaussian) -> Gaussian:
    """Keep the old distribution in problems where no candidate has a finite score."""
    known = scores.isfinite().any(1)[:, None, None]
    return replace(updated, mean=torch.where(known, updated.mean, old.mean), std=torch.where(known, updated.std, old.std))
