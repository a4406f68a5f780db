"""Plans: actions, with what was expected of them and how they were found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .spec import Action
from .transition import Trajectory


@dataclass(frozen=True)
class Prediction:
    """What a model expects of the actions of a plan."""

    trajectory: Trajectory  # batch axes (B, E)
    cost: Tensor  # (B,) after risk
    terms: Mapping[
        str, Tensor
    ]  # by name of the objective's term, its weighted part of the cost (B,), after risk, which need not add up where that is not the mean
    violation: Tensor | None  # (B, C) after risk; None without constraints
    conditions: tuple[str, ...] = ()  # names of the C conditions
    breaking: Tensor | None = None  # int64 (B, C), how many of the E members break each by themselves


@dataclass(frozen=True)
class CostHistogram:
    """How the costs of the candidates were spread; those that are infinite are counted apart."""

    edges: Tensor  # (B, K + 1)
    counts: Tensor  # (B, K) int64
    infinite: Tensor  # (B,) int64


@dataclass(frozen=True)
class Candidates:
    """The candidates of the last iteration of a search."""

    cost: Tensor  # (B, S) after risk; inf where it is not finite, or where time ran out before it was known
    weigh: Callable[[], Tensor] = field(repr=False)  # gives `weights`
    violation: Tensor | None = None  # (B, S, C) after risk
    conditions: tuple[str, ...] = ()  # names of the C conditions
    tried: int | None = None  # how many of the S, the first, there was time to score; None: all

    @cached_property
    def weights(self) -> Tensor:
        """(B, S) the share of each in what the planner took from them, of sum 1."""
        return self.weigh()

    @property
    def effective_sample_size(self) -> Tensor:
        """(B,) how many candidates share in the update, `1 / sum w^2` (Kish, 1965): 1 where one decides, S where all count alike."""
        return 1.0 / self.weights.square().sum(-1).clamp_min(1e-30)

    @property
    def rejected(self) -> dict[str, Tensor]:
        """By condition, how many of the candidates that were scored break it, (B,) int64."""
        if self.violation is None:
            return {}
        return dict(zip(self.conditions, (self.violation[:, : self.tried] > 0).sum(1).unbind(-1), strict=True))

    def histogram(self, bins: int = 20) -> CostHistogram:
        """How the finite costs of each problem are spread over `bins` equal intervals from the lowest to the highest."""
        known = self.cost.isfinite()
        low = self.cost.masked_fill(~known, torch.inf).amin(1, keepdim=True).nan_to_num(posinf=0.0)
        high = self.cost.masked_fill(~known, -torch.inf).amax(1, keepdim=True).nan_to_num(neginf=0.0)
        share = torch.linspace(0, 1, bins + 1, device=self.cost.device, dtype=self.cost.dtype)
        place = ((self.cost - low) / (high - low).clamp_min(1e-30) * bins).nan_to_num(0.0, 0.0, 0.0).long().clamp(0, bins - 1)
        counts = torch.zeros(len(self.cost), bins, dtype=torch.int64, device=self.cost.device).scatter_add_(1, place, known.long())
        return CostHistogram(low + share * (high - low), counts, (~known).sum(1))


@dataclass(frozen=True)
class Plan:
    """Actions with what was expected of them and how they were found.

    What the model expects of the actions is computed when it is first asked for, with the model as it is then: a controller that only wants the actions does
    not pay for it.
    """

    actions: Action  # (B, H, A), inside the bounds; int64 (B, H) for discrete actions
    sampler: Any  # the planner's parameters, from which the next plan starts
    index: int  # how many plans came before this one; keys the noise
    iterations: int  # that were done
    seconds: float  # wall time [s]
    stopped: str  # why the search stopped, in words
    predict: Callable[[Action], Prediction] = field(repr=False)
    candidates: Candidates | None = field(default=None, repr=False)  # of the last iteration
    found: Tensor | None = field(default=None, repr=False)  # (B,) cost of `actions`, where the search has computed it
    multipliers: Tensor | None = field(default=None, repr=False)  # (B, C) of constraints in an augmented Lagrangian; the next plan goes on from them
    pace: tuple[int, float] | None = field(default=None, repr=False)  # candidates of a rollout and its time [s], where time is short

    @cached_property
    def prediction(self) -> Prediction:
        """What the model expects."""
        with torch.no_grad():
            return self.predict(self.actions)

    @property
    def trajectory(self) -> Trajectory:
        """The predicted trajectory, batch axes (B, E)."""
        return self.prediction.trajectory

    @property
    def cost(self) -> Tensor:
        """(B,) of `actions`, after risk."""
        return self.prediction.cost if self.found is None else self.found

    @property
    def terms(self) -> Mapping[str, Tensor]:
        """By name of the objective's term, its weighted part of the cost (B,), after risk, which need not add up where that is not the mean."""
        return self.prediction.terms

    @property
    def violation(self) -> Tensor | None:
        """(B, C) of `actions`, after risk; None without constraints."""
        return self.prediction.violation

    @property
    def feasible(self) -> Tensor:
        """(B,) bool: every constraint is satisfied by the prediction."""
        violation = self.violation
        return torch.ones_like(self.cost, dtype=torch.bool) if violation is None else (violation <= 0).all(-1)

    @property
    def effective_sample_size(self) -> Tensor | None:
        """(B,) as of `Candidates`; None of planners that draw none."""
        return None if self.candidates is None else self.candidates.effective_sample_size

    def with_actions(self, actions: Action) -> Plan:
        """The plan that does something else, and from which the next one starts."""
        return replace(self, actions=actions, sampler=self.sampler.around(actions), found=None)

    def explain(self, problem: int = 0) -> str:
        """In words, for one of the B problems: what the actions cost and why, how they were found, and what stood in the way."""
        expected, lines = self.prediction, []
        parts = ", ".join(f"{name} {float(value[problem]):.4g}" for name, value in expected.terms.items())
        lines.append(f"cost {float(self.cost[problem]):.4g}: {parts}")
        if expected.violation is not None:
            broken = [
                f"{name} by {float(value):.4g}" for name, value in zip(expected.conditions, expected.violation[problem], strict=True) if not float(value) <= 0
            ]
            lines.append(f"breaks {', '.join(broken)}" if broken else f"keeps every constraint{self._but_for(problem)}")
        if self.candidates is not None:
            lines += self._of_candidates(self.candidates, problem)
        lines.append(f"{1000 * self.seconds:.3g} ms; stopped: {self.stopped}")
        return "\n".join(lines)

    def _but_for(self, problem: int) -> str:
        """Which members break constraints that the risk of all keeps."""
        expected = self.prediction
        members = expected.trajectory.batch_shape[1]
        if expected.breaking is None or members == 1 or not bool(expected.breaking[problem].any()):
            return ""
        some = zip(expected.conditions, expected.breaking[problem].tolist(), strict=True)
        return " by the risk over members, of which " + ", ".join(f"{count} of {members} break that {name}" for name, count in some if count)

    def _of_candidates(self, seen: Candidates, problem: int) -> list[str]:
        """How the candidates of a problem fared; of one that was not planned anew, none has a cost."""
        costs, begin = seen.cost[problem], f"last of {self.iterations} iterations: "
        finite, count = costs[costs.isfinite()], len(costs) if seen.tried is None else seen.tried
        if not len(finite):
            return [f"{begin}no candidate has a finite cost"]
        share = f"{count} candidates" if count == len(costs) else f"{count} of {len(costs)} candidates, as many as there was time for,"
        known = "of cost" if len(finite) == count else f"of which {len(finite)} have a finite cost,"
        spread = f"{share} {known} {float(finite.min()):.4g} to {float(finite.max()):.4g}"
        words = f"{begin}{spread}, effective sample size {float(seen.effective_sample_size[problem]):.3g}"
        return [words, *(f"{name} rejected {int(broken[problem])} of {count}" for name, broken in seen.rejected.items())]
