"""Ranking: what a perfect, a useless and a random prediction score, ties, gaps, and goals that are held out."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structwm.roles import Interval, Ranking, draw_candidates, rank

COSTS = np.random.default_rng(0).exponential(size=(300, 16))


def test_perfect_prediction_has_no_regret():
    found = rank(3.0 * COSTS + 1.0, COSTS)  # any rising function of the true costs
    assert found.tau.value == pytest.approx(1.0) and found.regret.value == 0.0 and found.hit_rate.value == 1.0
    assert found.relative_regret.value == 0.0 and found.oracle_cost.value == pytest.approx(COSTS.min(1).mean())
    assert rank(-COSTS, COSTS).tau.value == pytest.approx(-1.0)


def test_random_prediction_has_the_expected_regret():
    """The expectation over all choices stands in random_regret; choices drawn at random agree with it within their own noise."""
    found = rank(np.random.default_rng(1).normal(size=COSTS.shape), COSTS)
    assert found.random_regret.value == pytest.approx((COSTS.mean(1) - COSTS.min(1)).mean())
    assert found.regret.low < found.random_regret.value < found.regret.high
    assert abs(found.tau.value) < 0.05 and found.hit_rate.value == pytest.approx(1 / 16, abs=0.05)


def test_prediction_that_tells_nothing_is_a_random_choice():
    found = rank(np.ones_like(COSTS), COSTS)
    assert math.isnan(found.tau.value) and found.regret == found.random_regret and found.relative_regret.value == pytest.approx(1.0)
    assert found.hit_rate.value == pytest.approx(found.random_hit_rate) == pytest.approx(1 / 16)


def test_goals_whose_candidates_are_equally_good_do_not_count_for_tau():
    true = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    found = rank(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]), true)
    assert found.tau.value == 1.0 and np.isnan(found.each["tau"]).tolist() == [False, True] and found.regret.value == 0.0


def test_broken_predictions_rank_last_and_missing_candidates_are_left_out():
    predicted, true = np.array([[np.nan, 2.0, 3.0, -1.0]]), np.array([[0.0, 1.0, 2.0, np.nan]])
    found = rank(predicted, true)
    assert found.regret.value == 1.0  # the best is not seen to be it, and what is not there is not chosen
    assert found.tau.value == pytest.approx(-1 / 3)
    none = rank(predicted[:, :2], np.array([[1.0, np.nan]]))
    assert none.goals == 0 and math.isnan(none.regret.value) and json.dumps(none.to_json(), allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000))
def test_regret_lies_between_nothing_and_the_worst(size, seed):
    generator = np.random.default_rng(seed)
    predicted, true = generator.integers(0, 5, (6, size)).astype(float), generator.normal(size=(6, size))
    found = rank(predicted, true)
    assert (found.each["regret"] >= 0).all() and (found.each["regret"] <= np.ptp(true, axis=1) + 1e-12).all()
    order = generator.permutation(size)
    again = rank(predicted[:, order], true[:, order])
    for name, values in found.each.items():  # the order of the candidates does not matter
        np.testing.assert_allclose(again.each[name], values, atol=1e-12)


def test_pooled_is_ranked_together():
    halves = [rank(-COSTS[:100], COSTS[:100]), rank(COSTS[100:], COSTS[100:])]
    whole = rank(np.concatenate([-COSTS[:100], COSTS[100:]]), COSTS)
    assert Ranking.pooled(halves).to_json() == whole.to_json()


@pytest.mark.parametrize("shapes", [((3, 4), (3, 5)), ((3, 1), (3, 1)), ((3,), (3,))])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match=r"\(G, S\)"):
        rank(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_candidates_are_others_of_the_same_group():
    groups = ["a"] * 10 + ["b"] * 4 + ["c"] * 2
    goals, table = draw_candidates(groups, goals=100, candidates=6, seed=3)
    assert sorted(goals) == list(range(14))  # c has no goal and two candidates
    for goal, row in zip(goals, table, strict=True):
        there = row[row >= 0]
        assert goal not in there and len(set(there)) == len(there) == (6 if goal < 10 else 3)
        assert {groups[index] for index in there} == {groups[goal]}
    with pytest.raises(ValueError, match="at least three"):
        draw_candidates(["a", "a", "b"], goals=1, candidates=2)


def test_intervals_hold_the_mean_as_often_as_they_say():
    generator = np.random.default_rng(5)
    for count in (60, 2500):  # by bootstrap, and by the normal distribution
        inside = [(x := Interval.of_mean(generator.exponential(size=count))).low <= 1.0 <= x.high for _ in range(60)]
        assert 0.75 <= np.mean(inside) <= 1.0  # 0.9 within three standard errors of 60 draws
    assert math.isnan(Interval.of_mean([np.nan]).value) and Interval.of_mean([1.0, np.inf]).to_json() == {"value": None, "low": None, "high": None}
