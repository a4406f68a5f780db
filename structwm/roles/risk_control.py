"""Thresholds and margins with finite-sample guarantees, from scores of episodes that no fit saw.

Conformal risk control (Angelopoulos et al., ICLR 2024, arXiv:2208.02814): for a loss in [0, 1] that falls as a threshold grows, the least threshold at which
the losses of n calibration episodes sum to at most rate (n + 1) - 1 has an expected loss of at most `rate` on a new episode that is exchangeable with them.
Windows of one episode depend on each other, so an episode is the unit: it has one loss, whatever the number of its windows. With one window an episode and the
loss "is rejected", this is split conformal prediction.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from structwm.training.conformal import conformal_quantile

Share = Literal["errors", "proposals", "violating", "accepted"]
"""Of what a margin holds the rate:

- `errors`: of all episodes, those in which any observed value is above the predicted one by more than the margin (split conformal prediction).
- `proposals`: of all proposals, those that are accepted and violate (conformal risk control).
- `violating`: of the violating ones, those that are accepted (conformal prediction within a class; Vovk, 2012).
- `accepted`: of the accepted ones, those that violate, with a stated confidence (learn then test, Angelopoulos et al., arXiv:2110.01052).
"""
SHARES = 20  # acceptance shares that `accepted` tries


def episodes_needed(rate: float) -> int:
    """The least number of calibration episodes with which a rate can be held.

    Raises:
        ValueError: unless the rate lies between 0 and 1.
    """
    if not 0.0 < rate < 1.0:
        raise ValueError(f"A rate lies between 0 and 1, got {rate}.")
    return math.ceil(1.0 / rate - 1.0 - 1e-9)


def require_episodes(rate: float, count: int, kind: str = "calibration") -> None:
    """Refuse too few episodes for a rate.

    Raises:
        ValueError: names how many are needed and the least rate that so many can hold.
    """
    needed = episodes_needed(rate)
    if count < needed:
        held = f"so many hold a rate of {1 / (count + 1):.3g} at best" if count else "there are none"
        raise ValueError(f"A rate of {rate:g} needs at least {needed} {kind} episodes, got {count}: {held}; record more or ask for a higher rate.")


def alarm_threshold(scores: Tensor, rate: float, groups: Tensor | None = None) -> float:
    """The least threshold above which a new episode has an expected share of its scores of at most `rate`.

    Args:
        scores: (N,), any sign; infinite ones are above every threshold but infinity.
        rate: share of false alarms, between 0 and 1.
        groups: int (N,), the episode of each; by default each is one of its own.

    Raises:
        ValueError: on a rate outside (0, 1), scores that are NaN, or too few episodes for the rate.
    """
    if scores.ndim != 1 or bool(scores.isnan().any()):
        raise ValueError(f"alarm_threshold needs scores (N,) without NaN, got shape {tuple(scores.shape)} with {int(scores.isnan().sum())} NaN.")
    of = torch.arange(len(scores)) if groups is None else groups.unique(return_inverse=True)[1]
    count = int(of.max()) + 1 if len(of) else 0
    require_episodes(rate, count)
    weight = 1.0 / torch.bincount(of, minlength=count).double()[of]
    ordered, order = scores.double().sort()
    above = weight[order].flip(0).cumsum(0).flip(0) - weight[order]  # of the scores behind each in the order
    last = torch.searchsorted(ordered, ordered, right=True) - 1  # equal scores are above together or not at all
    enough = above[last] + 1.0 <= rate * (count + 1) + 1e-9
    return float(ordered[enough.nonzero()[0, 0]])


def margin(
    predicted: Tensor,
    observed: Tensor,
    rate: float,
    *,
    share: Share = "violating",
    groups: Tensor | None = None,
    confidence: float = 0.9,
    least: float = 0.0,
    seed: int = 0,
) -> float:
    """What is added to a predicted constraint value (satisfied at <= 0) before it is judged, such that a rate is held.

    Args:
        predicted: constraint values (N,) of N windows, by a model that did not see them.
        observed: (N,) what they were.
        rate: between 0 and 1.
        share: of what the rate is, see `Share`.
        groups: int (N,), the episode of each; by default each is one of its own. An episode counts once, with its worst window.
        confidence: of `accepted` only, which takes one window of each episode at random and asks that episodes be independent.
        least: margins are no smaller; a larger margin holds the rate too. -inf gives the tightest.
        seed: of that choice.

    Raises:
        ValueError: on shapes that differ, values that are NaN, an unknown share, or too few episodes; the sentence names how many are needed.
    """
    if share not in get_args(Share):
        raise ValueError(f"A margin holds the rate of {', '.join(get_args(Share))}, got {share!r}.")
    if predicted.shape != observed.shape or predicted.ndim != 1 or bool((predicted.isnan() | observed.isnan()).any()):
        raise ValueError(f"margin needs predicted and observed values (N,) without NaN, got {tuple(predicted.shape)} and {tuple(observed.shape)}.")
    of = torch.arange(len(predicted)) if groups is None else groups.unique(return_inverse=True)[1]
    slack, violates = -predicted.double(), observed > 0  # accepted where the slack is at least the margin
    count = int(of.max()) + 1 if len(of) else 0
    if share == "errors":
        require_episodes(rate, count)
        return max(float(conformal_quantile(worst_of((observed - predicted).double(), of, count), 1 - rate)), least)
    if share == "accepted":
        return max(_tested(slack, violates, of, rate, confidence, seed), least)
    worst = worst_of(slack.masked_fill(~violates, -math.inf), of, count)  # of the violating windows of each episode
    if share == "violating":
        worst = worst[worst_of(violates.double(), of, count) > 0]
        require_episodes(rate, len(worst), "violating calibration")
    else:
        require_episodes(rate, count)
    return max(_just_above(alarm_threshold(worst, rate)), least)


def worst_of(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """The largest value of each episode, (count,), from values (N,) of the episodes int (N,)."""
    return torch.full((count,), -math.inf, dtype=values.dtype).scatter_reduce(0, groups, values, "amax")


def _just_above(value: float) -> float:
    return math.nextafter(value, math.inf)


def _tested(slack: Tensor, violates: Tensor, groups: Tensor, rate: float, confidence: float, seed: int) -> float:
    """The least margin, among those that accept an even share of the proposals, at which a binomial test finds few enough violations (Bonferroni)."""
    from scipy.stats import binom

    episodes_needed(rate)
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"A confidence lies between 0 and 1, got {confidence}.")
    shuffled = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    rows = torch.full((int(groups.max()) + 1,), -1).scatter_reduce(0, groups[shuffled], torch.arange(len(groups)), "amax", include_self=True)
    ordered, order = slack[shuffled[rows]].sort(descending=True)
    failures, count = violates[shuffled[rows]][order].cumsum(0), len(ordered)
    level = (1 - confidence) / SHARES
    needed = math.ceil(math.log(level) / math.log(1 - rate))
    if count - 1 < needed:
        raise ValueError(
            f"A rate of {rate:g} of the accepted with confidence {confidence:g} needs at least {needed + 1} calibration episodes, got {count}; "
            "record more or ask for less."
        )
    accepted = torch.linspace(0, count - 1, SHARES + 1).long()[1:]  # strictly above the next one in the order
    passed = [float(ordered[j]) for j in accepted.tolist() if binom.cdf(int(failures[j - 1]), j, rate) <= level]
    return _just_above(min(passed)) if passed else math.inf
