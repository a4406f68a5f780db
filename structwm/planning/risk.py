"""Risk measures: from the costs of E members to one cost per candidate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor


class Risk(ABC):
    """Maps costs (B, S, E) to (B, S). On one member every measure is the identity."""

    @abstractmethod
    def __call__(self, costs: Tensor) -> Tensor:
        """The risk of each candidate, (B, S)."""


@dataclass(frozen=True)
class Mean(Risk):
    """The expected cost."""

    def __call__(self, costs: Tensor) -> Tensor:
        return costs.mean(-1)


@dataclass(frozen=True)
class WorstCase(Risk):
    """The highest cost of any member."""

    def __call__(self, costs: Tensor) -> Tensor:
        return costs.amax(-1)


@dataclass(frozen=True)
class ValueAtRisk(Risk):
    """The cost that a fraction `level` of the members does not exceed."""

    level: float = 0.9  # closer to 1 is more cautious

    def __post_init__(self) -> None:
        _check_level(self.level)

    def __call__(self, costs: Tensor) -> Tensor:
        return costs.sort(-1).values[..., _count_below(self.level, costs.shape[-1])]


@dataclass(frozen=True)
class ConditionalValueAtRisk(Risk):
    """The mean cost of the worst `1 - level` of the members (Rockafellar and Uryasev, 2000), at least one of them."""

    level: float = 0.9  # closer to 1 is more cautious; 0 is the mean

    def __post_init__(self) -> None:
        _check_level(self.level)

    def __call__(self, costs: Tensor) -> Tensor:
        return costs.sort(-1).values[..., _count_below(self.level, costs.shape[-1]) :].mean(-1)


def _check_level(level: float) -> None:
    if not 0.0 <= level < 1.0:
        raise ValueError(f"A risk level lies in [0, 1), got {level}.")


def _count_below(level: float, members: int) -> int:
    """How many of the sorted members lie below the level."""
    return min(int(level * members + 1e-9), members - 1)
