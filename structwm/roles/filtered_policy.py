"""Policies whose actions pass an action filter: the next best candidate, or a named safe action, takes the place of what is rejected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structwm.interfaces import Belief, Objective, Policy, Task
from structwm.noise import Noise, problem_seeds
from structwm.planning.mpc import MPC
from structwm.planning.problems import count_problems
from structwm.state import State
from structwm.transition import Trajectory

from .action_filter import ActionFilter
from .verdict import Verdict

Propose = Callable[[Any, Task], Tensor]
"""From a belief and a task to candidates (B, S, H, A), the best first."""


@dataclass(frozen=True)
class SafeAction:
    """What is done when every candidate is rejected. It is not screened: choose one that is safe in itself, such as to stop."""

    name: str
    action: Tensor | Callable[[Any], Tensor]  # (A,), or from states (B,) or a belief to (B, A); held over the horizon

    def sequence(self, state: Any, problems: int, horizon: int, like: Tensor) -> Tensor:
        """(B, H, A)."""
        action = self.action if isinstance(self.action, Tensor) else self.action(state)
        return action.to(like).unsqueeze(-2).expand(problems, horizon, like.shape[-1])


@dataclass(frozen=True)
class Decision:
    """What to do in each of B problems, and why."""

    actions: Tensor  # (B, H, A)
    chosen: Tensor  # int64 (B,), which candidate; -1 where the safe action is taken
    verdict: Verdict
    safe: str  # name of the safe action

    def explain(self, problem: int) -> str:
        """What was chosen, and why not what was proposed first."""
        chosen = int(self.chosen[problem])
        if chosen == 0:
            return "the first candidate is accepted"
        instead = f"candidate {chosen} is taken" if chosen > 0 else f"{self.safe!r} is done, as no candidate is accepted"
        return f"{instead}; the first was {self.verdict.explain(problem, 0)}"


def decide(
    screen: ActionFilter, state: State | Belief[Any], candidates: Tensor, safe: SafeAction, *, objective: Objective | None = None, seed: int = 0
) -> Decision:
    """The best accepted candidate of each problem, else the safe action.

    Args:
        screen: judges.
        state: batch_size (B,), or a belief.
        candidates: (B, S, H, A), the best first.
        safe: the fallback.
        objective: in whose order, by the filter's model, candidates behind the first are tried; by default that in which they come.
        seed: of the draw from a belief.

    Raises:
        ValueError: on an objective beside a filter that judges in chunks, which keeps no predictions.
    """
    if objective is not None and screen.chunk is not None:
        raise ValueError("An objective orders candidates by the filter's predictions, which a filter with chunk= does not keep; leave one of them out.")
    verdict = screen(state, candidates, seed=seed)
    rank = torch.arange(candidates.shape[1], device=candidates.device).expand(candidates.shape[:2]).to(torch.float64)
    if objective is not None and verdict.trajectory is not None:
        cost = expected_cost(objective, verdict.trajectory).nan_to_num(nan=torch.inf)
        rank = cost.argsort(dim=1, stable=True).argsort(1).to(rank)
        rank[:, 0] = -1.0
    rank = rank.masked_fill(~verdict.accepted, torch.inf)
    best, chosen = rank.min(1)
    none = best.isinf()
    picked = candidates[torch.arange(len(chosen), device=chosen.device), chosen]
    fallback = safe.sequence(state, len(chosen), candidates.shape[2], candidates)
    return Decision(torch.where(none[:, None, None], fallback, picked), torch.where(none, -1, chosen), verdict, safe.name)


@torch.no_grad()
def expected_cost(objective: Objective, trajectory: Trajectory) -> Tensor:
    """Cost (B, S) of a trajectory of batch axes (B, S, E), the mean over members."""
    total = torch.zeros(trajectory.batch_shape[:2], device=trajectory.times.device)
    for weight, term in objective.terms:
        value = term(trajectory)
        total = total + weight * (value if term.reads_members else value.mean(-1))
    return total


class FilteredPolicy(Policy[Any]):
    """A policy whose candidates are screened.

    Args:
        propose: a `Policy`, which proposes one candidate, or a function that gives several, the best first.
        screen: the filter.
        safe: what is done when every candidate is rejected.
    """

    def __init__(self, propose: Policy[Any] | Propose, screen: ActionFilter, safe: SafeAction) -> None:
        self.propose, self.screen, self.safe = propose, screen, safe

    def act(self, belief: Belief[Any], task: Task) -> Tensor:
        return self.decide(belief, task).actions

    def decide(self, belief: Belief[Any], task: Task, *, seed: int = 0) -> Decision:
        """What to do, with the reasons."""
        candidates = self.propose.act(belief, task).unsqueeze(1) if isinstance(self.propose, Policy) else self.propose(belief, task)
        return decide(self.screen, belief, candidates, self.safe, seed=seed)


class FilteredMPC:
    """MPC whose plans are screened before their first action is sent; alternatives are drawn around a rejected plan.

    Args:
        mpc: plans, and learns what was sent in place of its action.
        screen: the filter, on the model that plans or a better one.
        safe: what is done when every candidate is rejected.
        alternatives: candidates beside the plan; more find an accepted one more often.
        std: of the alternatives around the plan, as a fraction of half the action range.
        steps: of a plan that are screened; None: all. Far predictions reject what would be planned anew.

    Raises:
        ValueError: if actions are not continuous, or on numbers that cannot be.
    """

    def __init__(self, mpc: MPC, screen: ActionFilter, safe: SafeAction, *, alternatives: int = 31, std: float = 0.5, steps: int | None = None) -> None:
        if alternatives < 0 or not std > 0:
            raise ValueError(f"FilteredMPC needs alternatives >= 0 and std > 0, got {alternatives} and {std}.")
        if mpc.model.spec.action.kind != "continuous":
            kind = mpc.model.spec.action.kind
            raise ValueError(f"FilteredMPC draws alternatives to continuous actions; {type(mpc.model).__name__} takes {kind} ones.")
        self.mpc, self.screen, self.safe = mpc, screen, safe
        self.alternatives, self.std, self.steps = alternatives, std, steps

    def act(self, state: State | Belief[Any], *, time: float | None = None) -> Tensor:
        """The action (B, A) to send now, for a state or belief as `MPC.act` takes them."""
        decision = self.decide(state, time=time)
        return decision.actions[:, 0]

    def decide(self, state: State | Belief[Any], *, time: float | None = None) -> Decision:
        """What to do now, with the reasons."""
        self.mpc.act(state, time=time)
        plan = self.mpc.plan
        assert plan is not None and self.mpc.start is not None
        start = self.mpc.start
        noise = Noise(problem_seeds(self.mpc.seed, count_problems(start)), step=plan.index).child(7)
        candidates = self._around(self.mpc.ahead, noise)[:, :, : self.steps]
        decision = decide(self.screen, start, candidates, self.safe, objective=self.mpc.objective)
        self.mpc.replace_last(decision.actions[:, 0])
        return decision

    def _around(self, actions: Tensor, noise: Noise) -> Tensor:
        """Candidates (B, 1 + alternatives, H, A), the plan first, the others shifted by one random constant each and jittered."""
        spec, shape = self.screen.model.spec.action, (actions.shape[0], self.alternatives, *actions.shape[1:])
        half = ((spec.high - spec.low) / 2).to(actions)
        shift = noise.normal((*shape[:2], 1, shape[-1]), like=actions) + 0.3 * noise.child(1).normal(shape, like=actions)
        others = actions.unsqueeze(1) + self.std * torch.where(half.isfinite(), half, 1.0) * shift
        return torch.cat((actions.unsqueeze(1), spec.project(others)), 1)
