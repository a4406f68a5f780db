"""Limits that hold an error rate: conformal thresholds and margins."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from structwm.roles.risk_control import alarm_threshold, episodes_needed, margin
from structwm.training import ConformalRegions


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def test_alarm_threshold_of_single_scores_is_the_conformal_quantile():
    scores = torch.rand(57, generator=random())
    for level in (0.5, 0.8, 0.9, 0.98):
        regions = ConformalRegions.fit(scores[:, None, None].double(), level=level)
        assert alarm_threshold(scores, 1 - level) == pytest.approx(float(regions.half_widths()), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 30), st.floats(0.2, 0.6), st.booleans())
def test_alarm_threshold_is_the_least_that_holds_the_rate(seed, episodes, rate, ties):
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(episodes), generator.integers(1, 6, episodes))
    scores = generator.normal(size=len(groups))
    scores = np.round(scores) if ties else scores

    def total(threshold):
        return sum((scores[groups == g] > threshold).mean() for g in range(episodes)) + 1

    found = alarm_threshold(torch.tensor(scores), rate, torch.tensor(groups))
    assert total(found) <= rate * (episodes + 1) + 1e-6
    smaller = scores[scores < found]
    assert smaller.size == 0 or total(smaller.max()) > rate * (episodes + 1) - 1e-6


def test_false_alarms_of_windows_within_episodes_hold_the_rate_where_pooled_windows_do_not():
    """Episodes of 20 windows that share one size: the mean rate over calibrations stays below the nominal one, pooled windows exceed it."""
    rate, held, pooled, generator = 0.1, [], [], random()
    for _ in range(400):
        scores = (2 * torch.randn(21, 1, generator=generator)).exp() * torch.rand(21, 20, generator=generator)
        known, new = scores[:20].flatten(), scores[20]
        groups = torch.arange(20).repeat_interleave(20)
        held.append(float((new > alarm_threshold(known, rate, groups)).double().mean()))
        pooled.append(float((new > alarm_threshold(known, rate)).double().mean()))
    error = np.std(held) / math.sqrt(len(held))
    assert np.mean(held) <= rate + 2.5 * error and np.mean(held) > 0.03  # guaranteed, and not by rejecting nothing
    assert np.mean(pooled) > np.mean(held)


@pytest.mark.parametrize("share", ["errors", "proposals", "violating"])
def test_margins_hold_their_rate_on_average(share):
    """2000 calibrations on 40 proposals each; the mean rate on a new one lies below the nominal one within binomial noise, and is no less than half of it."""
    rate, count, repeats, generator = 0.15, 40, 2000, random(1)
    truth = torch.randn(repeats, count + 1, generator=generator)
    predicted = truth + 0.5 * torch.randn(repeats, count + 1, generator=generator) - 0.2  # too hopeful by 0.2
    hits, trials = 0, 0
    for p, o in zip(predicted, truth, strict=True):
        added = margin(p[:-1], o[:-1], rate, share=share, least=-math.inf)
        accepted, violates = bool(p[-1].double() + added <= 0), bool(o[-1] > 0)
        if share == "errors":
            hits, trials = hits + bool(o[-1] > p[-1] + added), trials + 1
        elif share == "proposals":
            hits, trials = hits + (accepted and violates), trials + 1
        elif violates:
            hits, trials = hits + accepted, trials + 1
    assert binom.cdf(hits - 1, trials, rate) < 0.995 and hits / trials > rate / 2


def test_margin_of_the_accepted_holds_with_its_confidence():
    """In 300 calibrations on 400 proposals, the true share of violations among the accepted exceeds the rate in at most 1 - confidence of them."""
    rate, confidence, generator, failures, powerless = 0.1, 0.8, random(2), 0, 0
    big = torch.randn(100_000, generator=generator)
    seen = big + 0.3 * torch.randn(len(big), generator=generator)
    for _ in range(300):
        truth = torch.randn(400, generator=generator)
        predicted = truth + 0.3 * torch.randn(400, generator=generator)
        added = margin(predicted, truth, rate, share="accepted", confidence=confidence, least=-math.inf)
        accepted = seen + added <= 0
        powerless += not bool(accepted.any())
        failures += bool(accepted.any()) and float((big[accepted] > 0).double().mean()) > rate
    assert failures <= binom.ppf(0.995, 300, 1 - confidence) and powerless == 0


def test_impossible_levels_are_refused_with_how_many_episodes_they_need():
    assert episodes_needed(0.05) == 19 and episodes_needed(0.01) == 99
    with pytest.raises(ValueError, match=r"rate of 0.01 needs at least 99 calibration episodes, got 20: so many hold a rate of 0.0476 at best"):
        alarm_threshold(torch.rand(20), 0.01)
    with pytest.raises(ValueError, match="needs at least 9 violating calibration episodes, got 3"):
        margin(torch.zeros(50), torch.tensor([1.0] * 3 + [-1.0] * 47), 0.1)
    with pytest.raises(ValueError, match="with confidence 0.9 needs at least 105 calibration episodes, got 60"):
        margin(torch.zeros(60), torch.zeros(60), 0.05, share="accepted")
    with pytest.raises(ValueError, match="lies between 0 and 1, got 1.0"):
        alarm_threshold(torch.rand(20), 1.0)
    with pytest.raises(ValueError, match="without NaN"):
        alarm_threshold(torch.tensor([0.1, math.nan]), 0.4)
