"""What candidates cost: rollouts over problems, candidates and members, and scores of them."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from structwm.interfaces import Constraint, Objective
from structwm.noise import Noise
from structwm.plan import Prediction
from structwm.spec import Action, HybridAction
from structwm.state import State, state_of
from structwm.transition import Trajectory, TransitionModel

from .risk import Risk

CACHED = 8192  # rollouts that a thread of the processor computes at once, where nothing else is asked for: more would fall out of its caches
PARTS = 8  # share of the candidates that is tried first where time is short, and says how many more there is time for
CAUTION = 0.7  # share of that time that is filled


@dataclass(frozen=True)
class Scores:
    """What an evaluation says of S candidates per problem."""

    cost: Tensor  # (B, S) after risk; inf where not finite
    violation: Tensor | None  # (B, S, C) after risk; None without constraints
    tried: int | None = None  # how many of the S, the first, there was time for; the others cost infinity. None: all
    finite: bool = False  # no cost is infinite, as far as is known

    @property
    def excess(self) -> Tensor | None:
        """(B, S) by how much conditions are broken, in sum; None without constraints."""
        return None if self.violation is None else self.violation.clamp_min(0).sum(-1)

    @property
    def ranking(self) -> Tensor:
        """(B, S) to be minimised: infeasible candidates count as infinite where any candidate is feasible, else by their total violation."""
        excess = self.excess
        if excess is None:
            return self.cost
        feasible = excess <= 0
        return torch.where(feasible.any(-1, keepdim=True), self.cost.masked_fill(~feasible, torch.inf), excess)


def all_finite(values: Tensor) -> bool:
    """Whether no number is infinite or NaN, by the sum alone: False also where finite numbers overflow it."""
    return math.isfinite(float(values.detach().sum()))


class Rollouts:
    """Scores candidates by rolling a model out over (B, S, E), in chunks.

    Args:
        model: any transition model.
        kind: class of its states.
        fields: of the start states, (B, E, ...): E members, or particles, or one.
        objective: what is to be made small.
        constraints: what must hold.
        risk: how the costs of members become one.
        noise: of the model, drawn alike for all candidates; None where it is not stochastic.
        chunk: rollouts computed at once; None: all, or on the processor what its caches take.
        active: (B,) bool, the problems that are computed; None: all. Others get the trajectories of some other problem, and cost infinity.
        constraint_risk: how the violations of members become one; None: as their costs.
    """

    def __init__(
        self,
        model: TransitionModel[Any],
        kind: type[State],
        fields: Mapping[str, Tensor],
        objective: Objective,
        constraints: Sequence[Constraint],
        risk: Risk,
        noise: Noise | None,
        chunk: int | None,
        active: Tensor | None = None,
        constraint_risk: Risk | None = None,
    ) -> None:
        self.model, self.objective, self.constraints, self.risk, self.noise, self.chunk = model, objective, tuple(constraints), risk, noise, chunk
        self.constraint_risk = constraint_risk or risk
        self.kind, self.fields = kind, dict(fields)
        self.problems, self.members = next(iter(self.fields.values())).shape[:2]
        self.axes = 3 if model.spec.members == 1 else 2  # of actions before the time axis, as the model takes them
        self.conditions: tuple[str, ...] = ()  # names of the C conditions, once they were seen
        self.idle: Tensor | None = None  # (B,) bool
        self.rows: Tensor | None = None
        self.back: Tensor | None = None
        self.quickest = math.inf  # time of the fastest rollout, where time is short [s]
        self.pace: tuple[int, float] | None = None  # candidates of a rollout and its time [s], where time is short
        self._all: Rollouts | None = None
        if active is not None and not bool(active.all()):
            self._all = copy.copy(self)
            self.idle = ~active
            self.rows = active.nonzero().squeeze(-1) if bool(active.any()) else active.new_zeros(1, dtype=torch.int64)
            self.back = (active.cumsum(0) - 1).clamp_min(0)
            self.fields = {name: value[self.rows] for name, value in self.fields.items()}
            self.noise = None if noise is None else Noise(noise.seeds[self.rows.cpu()], noise.step, noise.draw, noise.common)

    @property
    def whole(self) -> Rollouts:
        """The same of all problems, where not all are active."""
        return self._all or self

    @property
    def device(self) -> torch.device:
        """Where the states are."""
        return next(iter(self.fields.values())).device

    def __call__(self, actions: Action, *, deadline: float | None = None) -> Scores:
        """Scores of actions (B, S, H, A), int64 (B, S, H) or hybrid ones.

        Args:
            actions: inside the bounds.
            deadline: of `time.perf_counter` [s]; candidates are scored in their order, at least some of them, and those that time does not suffice for cost
                infinity.
        """
        samples = actions.shape[1]
        limit, count = self.chunk, self.problems * samples * self.members
        if deadline is None and count <= (limit or CACHED):
            return self.score(self.trajectory(actions))
        if limit is None and self.device.type == "cpu":
            limit = CACHED * torch.get_num_threads()
        width = samples if limit is None else min(samples, max(1, limit // (self.problems * self.members)))
        width = -(-samples // -(-samples // width))  # parts that are alike
        if width >= samples and deadline is None:
            return self.score(self.trajectory(actions))
        parts: list[Scores] = []
        begin, count = 0, width if deadline is None else min(width, self._first(samples, deadline))
        while begin < samples:
            count = min(count, samples - begin)
            started = time.perf_counter()
            parts.append(self.score(self.trajectory(actions[:, begin : begin + count])))
            begin += count
            if deadline is not None:
                now = time.perf_counter()
                self.quickest = min(self.quickest, now - started)
                self.pace = (count, now - started)
                count = min(width, int(CAUTION * count * (deadline - self.quickest - now) / (now - started)))
                if count < 1:
                    break
        return self._joined(parts, samples)

    def seconds(self, count: int) -> float:
        """How long a rollout of so many candidates takes at most, by those that were timed, where time is short [s]."""
        return self.quickest if self.pace is None else max(self.quickest, self.pace[1] * count / self.pace[0])

    def _first(self, samples: int, deadline: float) -> int:
        """How many candidates to try first: as many as there is time for, by what is known, or else a small share."""
        if self.pace is None:
            return -(-samples // PARTS)
        count, seconds = self.pace
        return max(1, int(CAUTION * count * (deadline - min(self.quickest, seconds) - time.perf_counter()) / seconds))

    def _joined(self, parts: Sequence[Scores], samples: int) -> Scores:
        """Scores of the first candidates in parts, and of those of `samples` for which there was no time."""
        cost = torch.cat([part.cost for part in parts], 1)
        tried = cost.shape[1]
        violation = None if parts[0].violation is None else torch.cat([part.violation for part in parts if part.violation is not None], 1)
        missing = samples - tried
        if missing:
            cost = torch.cat((cost, cost.new_full((len(cost), missing), torch.inf)), 1)
            violation = None if violation is None else torch.cat((violation, violation.new_full((len(cost), missing, violation.shape[-1]), torch.inf)), 1)
        return Scores(cost, violation, tried if missing else None)

    def trajectory(self, actions: Action) -> Trajectory:
        """A trajectory of batch axes (B, S, E)."""
        samples = actions.shape[1]
        if self.rows is not None:
            actions = actions[self.rows]
        problems = actions.shape[0]
        batch = torch.Size((problems, samples, self.members))
        fields = {name: value.unsqueeze(1).expand(problems, samples, *value.shape[1:]) for name, value in self.fields.items()}
        if self.axes == 3:
            actions = actions.unsqueeze(2)
            if self.members > 1:
                tail = () if isinstance(actions, HybridAction) else actions.shape[3:]
                actions = actions.expand(*batch, *(tail or actions.batch_size[3:]))
        if type(self.model).roll is not TransitionModel.roll:
            found = self.model.roll(state_of(self.kind, fields, batch), actions, noise=self.noise)
        else:
            found = self.model.roll_fields(self.kind, fields, batch, actions, noise=self.noise)
        return found if self.back is None else found[self.back]

    def score(self, trajectory: Trajectory) -> Scores:
        """Costs and violations of a trajectory of batch axes (B, S, E)."""
        cost = self.cost(trajectory)
        finite = self.idle is None and all_finite(cost)
        return Scores(cost if finite else self.tamed(cost), self.violation(self.violations(trajectory)), finite=finite)

    def violations(self, trajectory: Trajectory) -> Tensor | None:
        """By how much each member breaks each condition, (B, S, E, C); None without constraints."""
        if not self.constraints:
            return None
        found = [constraint(trajectory) for constraint in self.constraints]
        for constraint, part in zip(self.constraints, found, strict=True):
            if part.shape[:-1] != trajectory.batch_shape:
                form = ", ".join(map(str, trajectory.batch_shape))
                raise ValueError(f"{type(constraint).__name__} needs to give violations ({form}, C), got {tuple(part.shape)}.")
        self.conditions = _conditions(self.constraints, [part.shape[-1] for part in found])
        return torch.cat(found, dim=-1)

    def violation(self, values: Tensor | None) -> Tensor | None:
        """Those of members (B, S, E, C) as one (B, S, C); those of problems that are not active are 0."""
        if values is None:
            return None
        violation: Tensor = self.constraint_risk(values.transpose(-1, -2).flatten(1, 2)).unflatten(1, (values.shape[1], values.shape[-1]))
        if self.idle is not None:
            violation = violation.masked_fill(self.idle[:, None, None], 0.0)
        return violation.nan_to_num(nan=torch.inf, posinf=torch.inf)

    def tamed(self, cost: Tensor) -> Tensor:
        """Costs (B, S), infinite where they are not finite or their problem is not active."""
        cost = cost.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
        return cost if self.idle is None else cost.masked_fill(self.idle[:, None], torch.inf)

    def cost(self, trajectory: Trajectory) -> Tensor:
        """What the objective says of a trajectory, (B, S): the risk of the members' costs, plus what terms say that see all members at once."""
        each: Any = None  # of every member, (B, S, E): the risk of a sum is not the sum of risks, nor that of a negative cost the negative risk
        joint: Any = None
        for weight, term in self.objective.terms:
            value = self.part(weight, term, trajectory)
            if term.reads_members:
                joint = value if joint is None else joint + value
            else:
                each = value if each is None else each + value
        if each is None:
            return cast(Tensor, joint)
        cost: Tensor = self.over_members(each)
        return cost if joint is None else cost + joint

    def part(self, weight: float, term: Objective, trajectory: Trajectory) -> Tensor:
        """The weighted cost by one term: of every member (B, S, E), or (B, S) where it sees all members at once."""
        value = term(trajectory)
        expected = trajectory.batch_shape[:2] if term.reads_members else trajectory.batch_shape
        if value.shape != expected:
            raise ValueError(f"{type(term).__name__} needs to give one cost a trajectory, {tuple(expected)}, got {tuple(value.shape)}.")
        return value if weight == 1.0 else weight * value

    def over_members(self, value: Tensor) -> Tensor:
        """Costs of members (B, S, E) as one (B, S)."""
        return value.squeeze(-1) if self.members == 1 else self.risk(value)

    def predict(self, actions: Action) -> Prediction:
        """What is expected of one action sequence (B, H, A) of each problem."""
        whole = self.whole
        trajectory = whole.trajectory(actions.unsqueeze(1))
        cost, each = whole.tamed(whole.cost(trajectory)), whole.violations(trajectory)
        terms: dict[str, Tensor] = {}
        for weight, term in self.objective.terms:
            name = _fresh(type(term).__name__, terms)
            value = self.part(weight, term, trajectory)
            terms[name] = (value if term.reads_members else self.over_members(value)).squeeze(1)
        violation = whole.violation(each)
        if each is None or violation is None:
            return Prediction(trajectory[:, 0], cost.squeeze(1), terms, None)
        breaking = (~(each[:, 0] <= 0)).sum(1)  # NaN breaks
        return Prediction(trajectory[:, 0], cost.squeeze(1), terms, violation.squeeze(1), whole.conditions, breaking)


def _conditions(constraints: Sequence[Constraint], counts: Sequence[int]) -> tuple[str, ...]:
    """Names of all conditions, of which each constraint has so many."""
    names: dict[str, None] = {}
    for constraint, count in zip(constraints, counts, strict=True):
        for name in constraint.conditions(count):
            names[_fresh(name, names)] = None
    return tuple(names)


def _fresh(name: str, taken: Any) -> str:
    """A name that is not taken: with a number where it would be."""
    return name if name not in taken else next(fresh for k in range(2, 10_000) if (fresh := f"{name} {k}") not in taken)
