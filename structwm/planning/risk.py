"""Risk measures: from the costs of E members to one cost per candidate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Risk(ABC):
    """Maps costs (B, S, E) to (B, S). On one member every measure is the identity.

    Members weigh alike unless weights say otherwise. A member whose cost is infinite makes the mean, and whatever looks at the worst, infinite; NaN makes them
    NaN. All are monotone (what is cheaper for every member has no higher risk) and follow a shift of the costs; all but `EntropicRisk` follow their scale.
    """

    @abstractmethod
    def __call__(self, costs: Tensor, weights: Tensor | None = None) -> Tensor:
        """The risk of each candidate, (B, S).

        Args:
            costs: (B, S, E).
            weights: (E,) or (B, E), not negative, with a sum above 0, of any scale; equal if not given.
        """


@dataclass(frozen=True)
class Mean(Risk):
    """The expected cost."""

    def __call__(self, costs: Tensor, weights: Tensor | None = None) -> Tensor:
        return costs.mean(-1) if weights is None else _weighted(costs, _shares(weights, costs))


@dataclass(frozen=True)
class WorstCase(Risk):
    """The highest cost of any member, of those that have weight."""

    def __call__(self, costs: Tensor, weights: Tensor | None = None) -> Tensor:
        return (costs if weights is None else torch.where(_shares(weights, costs) > 0, costs, -math.inf)).amax(-1)


@dataclass(frozen=True)
class ValueAtRisk(Risk):
    """The cost that a fraction `level` of the members does not exceed: the highest such quantile."""

    level: float = 0.9  # closer to 1 is more cautious

    def __post_init__(self) -> None:
        _check_level(self.level)

    def __call__(self, costs: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is None:
            return costs.sort(-1).values[..., _count_below(self.level, costs.shape[-1])]
        ordered, shares = _sorted(costs, weights)
        last = (shares > 0).long().cumsum(-1).argmax(-1, keepdim=True)  # of those with weight
        place = torch.minimum((shares.cumsum(-1) <= self.level + 1e-6).sum(-1, keepdim=True), last)
        return ordered.gather(-1, place).squeeze(-1)


@dataclass(frozen=True)
class ConditionalValueAtRisk(Risk):
    """The mean cost of the worst `1 - level` of the members; one of them counts in part where that is no whole number (Rockafellar and Uryasev, 2002)."""

    level: float = 0.9  # closer to 1 is more cautious; 0 is the mean

    def __post_init__(self) -> None:
        _check_level(self.level)

    def __call__(self, costs: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is None:
            tail = _tail(self.level, costs.shape[-1])
            worst = costs if self.level == 0 else costs.sort(-1).values[..., -len(tail) :]
            if tail[0] == tail[-1]:
                return worst.mean(-1)
            return (worst * torch.tensor(tail, dtype=costs.dtype, device=costs.device)).sum(-1)
        ordered, shares = _sorted(costs, weights)
        above = shares.flip(-1).cumsum(-1).flip(-1) - shares  # of members that are worse
        return _weighted(ordered, torch.minimum(shares, (1 - self.level - above).clamp_min(0)) / (1 - self.level))


@dataclass(frozen=True)
class EntropicRisk(Risk):
    """temperature * log E exp(cost / temperature) (Howard and Matheson, 1972): the mean for high temperatures, the worst case for low ones; for normal
    costs, the mean plus the variance over twice the temperature."""

    temperature: float = 1.0  # in the unit of the cost; closer to 0 is more cautious

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"EntropicRisk needs a finite temperature above 0, got {self.temperature}.")

    def __call__(self, costs: Tensor, weights: Tensor | None = None) -> Tensor:
        shares = torch.full_like(costs[..., :1], 1 / costs.shape[-1]).expand_as(costs) if weights is None else _shares(weights, costs)
        highest = WorstCase()(costs, weights).detach()
        highest = torch.where(highest.isfinite(), highest, 0.0)
        beyond = ((costs - highest.unsqueeze(-1)) / self.temperature).expm1()  # so that neither high nor low temperatures lose digits
        return highest + self.temperature * _weighted(beyond, shares).log1p()


@dataclass(frozen=True)
class MeanSemideviation(Risk):
    """The mean plus `weight` times the mean of what costs exceed it by (Ogryczak and Ruszczynski, 1999), coherent up to a weight of 1."""

    weight: float = 1.0  # in [0, 1]; larger is more cautious

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 1.0:
            raise ValueError(f"MeanSemideviation needs a weight in [0, 1], got {self.weight}.")

    def __call__(self, costs: Tensor, weights: Tensor | None = None) -> Tensor:
        shares = torch.full_like(costs[..., :1], 1 / costs.shape[-1]).expand_as(costs) if weights is None else _shares(weights, costs)
        mean = _weighted(costs, shares)
        excess = torch.where(mean.isfinite().unsqueeze(-1), (costs - mean.unsqueeze(-1)).clamp_min(0), 0.0)
        return mean + self.weight * _weighted(excess, shares)


def _check_level(level: float) -> None:
    if not 0.0 <= level < 1.0:
        raise ValueError(f"A risk level lies in [0, 1), got {level}.")


def _count_below(level: float, members: int) -> int:
    """How many of the sorted members lie below the level."""
    return min(int(level * members + 1e-9), members - 1)


def _tail(level: float, members: int) -> list[float]:
    """Weights, which sum to one, of the worst members in rising order of cost: those that lie above the level, the first perhaps in part."""
    first = _count_below(level, members)
    part = min(first + 1 - level * members, 1.0)
    mass = [part if part < 1 - 1e-9 else 1.0, *[1.0] * (members - first - 1)]
    return [value / sum(mass) for value in mass]


def _shares(weights: Tensor, costs: Tensor) -> Tensor:
    """Weights that sum to one, (B, S, E)."""
    members = costs.shape[-1]
    if weights.shape not in ((members,), (costs.shape[0], members)):
        raise ValueError(f"A risk needs weights ({members},) or ({costs.shape[0]}, {members}) for costs {tuple(costs.shape)}, got {tuple(weights.shape)}.")
    if not bool((weights >= 0).all() & (weights.sum(-1) > 0).all()):
        raise ValueError("A risk needs weights that are not negative and not all 0.")
    shares = weights.to(costs) / weights.to(costs).sum(-1, keepdim=True)
    return (shares if weights.ndim == 1 else shares.unsqueeze(1)).expand_as(costs)


def _sorted(costs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Costs in rising order, and the shares that go with them."""
    ordered, places = costs.sort(-1)
    return ordered, _shares(weights, costs).gather(-1, places)


def _weighted(costs: Tensor, shares: Tensor) -> Tensor:
    """The mean of costs (B, S, E); a member without weight does not count, whatever it costs."""
    return torch.where(shares > 0, costs * shares, 0.0).sum(-1)
