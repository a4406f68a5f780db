"""Whether predictions choose well: rank correlation and regret of choosing, among candidates, the one whose predicted cost is least."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau

Array = NDArray[Any]
LEVEL, DRAWS = 0.9, 1000  # of bootstrap intervals
MANY, Z = 2000, 1.6449  # values from which on intervals are normal, and how many standard errors they then reach


@dataclass(frozen=True)
class Interval:
    """An estimate with its 90 % interval; NaN where it is undefined."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    @classmethod
    def of_mean(cls, values: ArrayLike, *, over: ArrayLike | None = None, seed: int = 0) -> Interval:
        """The mean of values (N,), or their sum over that of `over` (N,), NaN values left out.

        The interval is that of a bootstrap over the N (percentiles; Efron, 1979), from 2000 values on that of the normal distribution.
        """
        top = np.asarray(values, dtype=np.float64)
        known = ~np.isnan(top)
        top = top[known]
        below = np.ones_like(top) if over is None else np.asarray(over, dtype=np.float64)[known]
        if not len(top) or below.sum() <= 0.0:
            return cls(float("nan"))
        value = float(top.sum() / below.sum())
        if not np.isfinite(value):
            return cls(value)
        if len(top) >= MANY:
            reach = Z * float(np.linalg.norm(top - value * below)) / float(below.sum())
            return cls(value, value - reach, value + reach)
        generator = np.random.default_rng(seed)
        at = generator.integers(len(top), size=(DRAWS, len(top)))
        draws = top[at].sum(1) / np.maximum(below[at].sum(1), 1e-300)
        return cls(value, *(float(x) for x in np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])))

    def to_json(self) -> dict[str, float | None]:
        """Plain numbers, null where not finite."""
        return {name: value if np.isfinite(value) else None for name, value in (("value", self.value), ("low", self.low), ("high", self.high))}


@dataclass(frozen=True)
class Ranking:
    """How well predicted costs rank candidates, over G goals. Regrets are true costs of what was chosen minus those of the best, in the unit of the costs.

    Intervals are bootstraps over goals: as wide as they should be where goals share nothing, somewhat too narrow where goals share candidates.
    """

    candidates: int  # S, at most; some goals may have fewer
    each: Mapping[str, Array]  # (G,) by goal: tau, regret, random_regret, oracle_cost, hit, random_hit
    tau: Interval  # Kendall's tau-b between predicted and true costs; 1 perfect, 0 random; goals where one side is all ties left out
    regret: Interval  # of the model's choice; where several candidates are predicted to be best, the mean over them. The oracle's regret is 0
    random_regret: Interval  # of a candidate drawn at random: its expectation
    relative_regret: Interval  # regret over that of a random choice: 0 oracle, 1 random
    oracle_cost: Interval  # true cost of the best candidate
    hit_rate: Interval  # how often the best candidate is chosen
    random_hit_rate: float  # the same of a random choice

    @classmethod
    def of(cls, each: Mapping[str, Array], candidates: int, *, seed: int = 0) -> Ranking:
        """From what was found for each goal."""
        named = {name: Interval.of_mean(each[name], seed=seed) for name in ("tau", "regret", "random_regret", "oracle_cost")}
        relative = Interval.of_mean(each["regret"], over=each["random_regret"], seed=seed)
        chance = each["random_hit"][~np.isnan(each["random_hit"])]
        by_chance = float(chance.mean()) if len(chance) else float("nan")
        return cls(candidates, dict(each), relative_regret=relative, hit_rate=Interval.of_mean(each["hit"], seed=seed), random_hit_rate=by_chance, **named)

    @classmethod
    def pooled(cls, parts: Sequence[Ranking], *, seed: int = 0) -> Ranking:
        """Over the goals of several rankings whose costs have one unit."""
        each = {name: np.concatenate([part.each[name] for part in parts]) for name in parts[0].each}
        return cls.of(each, max(part.candidates for part in parts), seed=seed)

    @property
    def goals(self) -> int:
        """G, the goals with at least two candidates."""
        return int((~np.isnan(self.each["regret"])).sum())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("tau", "regret", "random_regret", "relative_regret", "oracle_cost", "hit_rate")
        chance = self.random_hit_rate if np.isfinite(self.random_hit_rate) else None
        return {"goals": self.goals, "candidates": self.candidates, "random_hit_rate": chance} | {name: getattr(self, name).to_json() for name in names}


def rank(predicted: ArrayLike, true: ArrayLike, *, seed: int = 0) -> Ranking:
    """Rank S candidates for each of G goals by predicted cost, and judge that by true cost.

    Args:
        predicted: (G, S). What is not finite ranks last: a prediction that broke is not chosen, unless all did.
        true: (G, S), NaN where there is no candidate. Goals with fewer than two candidates are left out.
        seed: of the bootstrap over goals.

    Raises:
        ValueError: if the shapes differ or are not (G, S) with S >= 2.
    """
    ours, theirs = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if ours.shape != theirs.shape or ours.ndim != 2 or ours.shape[0] < 1 or ours.shape[1] < 2:
        raise ValueError(f"rank needs predicted and true costs (G, S) with S >= 2, got {ours.shape} and {theirs.shape}.")
    rows = [_of_goal(a, b) for a, b in zip(np.where(np.isfinite(ours), ours, np.inf), theirs, strict=True)]
    return Ranking.of({name: np.array([row[name] for row in rows]) for name in rows[0]}, ours.shape[1], seed=seed)


def _of_goal(predicted: Array, true: Array) -> dict[str, float]:
    """The figures of one goal: predicted and true costs (S,)."""
    there = np.isfinite(true)
    predicted, true = predicted[there], true[there]
    if len(true) < 2:
        return dict.fromkeys(("tau", "regret", "random_regret", "oracle_cost", "hit", "random_hit"), float("nan"))
    chosen, best = predicted == predicted.min(), true.min()
    tied = bool((predicted == predicted[0]).all() or (true == true[0]).all())
    method: Literal["auto", "asymptotic"] = "asymptotic" if len(true) > 2 else "auto"  # only of the p value, which is not used
    tau = float("nan") if tied else float(kendalltau(predicted, true, method=method).statistic)
    return {
        "tau": tau,
        "regret": float(true[chosen].mean() - best),
        "random_regret": float(true.mean() - best),
        "oracle_cost": float(best),
        "hit": float((true[chosen] == best).mean()),
        "random_hit": float((true == best).mean()),
    }


def draw_candidates(groups: Sequence[Hashable], *, goals: int, candidates: int, seed: int = 0) -> tuple[Array, Array]:
    """Which of N things are goals (G,), without repetition, and which others of the goal's group are its candidates (G, S), -1 where the group has too few.

    Args:
        groups: a label for each of the N.
        goals: G at most.
        candidates: S at most; fewer where no group has so many.
        seed: of the draw.

    Raises:
        ValueError: if no group has three members, of which one is the goal and two are candidates.
    """
    generator = np.random.default_rng(seed)
    members: dict[Hashable, list[int]] = {}
    for index, label in enumerate(groups):
        members.setdefault(label, []).append(index)
    usable = sorted(index for rows in members.values() if len(rows) >= 3 for index in rows)
    if not usable:
        raise ValueError(f"Ranking needs a group of at least three, a goal and two candidates; the {len(groups)} windows have groups of {_sizes(members)}.")
    chosen = generator.permutation(usable)[:goals]
    width = min(candidates, max(len(rows) for rows in members.values()) - 1)
    table = np.full((len(chosen), width), -1)
    for row, goal in zip(table, chosen, strict=True):
        others = np.array([index for index in members[groups[goal]] if index != goal])
        drawn = generator.permutation(others)[:width]
        row[: len(drawn)] = drawn
    return chosen, table


def _sizes(members: Mapping[Hashable, Sequence[int]]) -> str:
    sizes = sorted({len(rows) for rows in members.values()})
    return " or ".join(map(str, sizes)) if sizes else "none"
