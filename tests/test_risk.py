"""Risk measures: the order among them, and the axioms each keeps (Artzner et al., 1999)."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from structwm.planning import ConditionalValueAtRisk, EntropicRisk, Mean, MeanSemideviation, ValueAtRisk, WorstCase

RISKS = {
    "mean": Mean(),
    "worst": WorstCase(),
    "VaR": ValueAtRisk(0.7),
    "CVaR": ConditionalValueAtRisk(0.7),
    "entropic": EntropicRisk(2.0),
    "semideviation": MeanSemideviation(0.8),
}
NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False)
COSTS = st.lists(NUMBERS, min_size=1, max_size=12)
LEVELS = st.floats(0.0, 0.99)
each = pytest.mark.parametrize("risk", RISKS.values(), ids=RISKS)


def table(costs):
    return torch.tensor(costs, dtype=torch.float64).reshape(1, 1, -1)


@st.composite
def weighted(draw):
    costs = draw(COSTS)
    weights = draw(st.lists(st.integers(0, 5), min_size=len(costs), max_size=len(costs)))
    assume(sum(weights) > 0)
    return table(costs), torch.tensor(weights, dtype=torch.float64)


@given(COSTS, LEVELS)
@settings(max_examples=60, deadline=None)
def test_they_are_ordered(costs, level):
    values = table(costs)
    mean, worst = float(Mean()(values)), float(WorstCase()(values))
    var, cvar = float(ValueAtRisk(level)(values)), float(ConditionalValueAtRisk(level)(values))
    slack = 1e-9 * (1 + abs(worst) + abs(mean))
    assert mean - slack <= cvar <= worst + slack
    assert var - slack <= cvar
    for between in (EntropicRisk(10.0), MeanSemideviation()):
        assert mean - slack <= float(between(values)) <= worst + slack


@given(weighted(), LEVELS)
@settings(max_examples=60, deadline=None)
def test_they_are_ordered_under_weights(drawn, level):
    values, weights = drawn
    mean, worst = float(Mean()(values, weights)), float(WorstCase()(values, weights))
    var, cvar = float(ValueAtRisk(level)(values, weights)), float(ConditionalValueAtRisk(level)(values, weights))
    slack = 1e-7 * (1 + float(values.abs().max())) / (1 - level)
    assert mean - slack <= cvar <= worst + slack
    assert var - slack <= cvar
    for between in (EntropicRisk(10.0), MeanSemideviation()):
        assert mean - slack <= float(between(values, weights)) <= worst + slack


@each
@given(drawn=weighted())
@settings(max_examples=25, deadline=None)
def test_weights_count_like_members(risk, drawn):
    values, weights = drawn
    repeated = values[0, 0].repeat_interleave(weights.long()).reshape(1, 1, -1)
    assume(not isinstance(risk, ValueAtRisk) or abs(0.7 * repeated.shape[-1] % 1) > 1e-3)  # at a jump rounding decides
    expected = float(risk(repeated))
    assert float(risk(values, weights)) == pytest.approx(expected, abs=1e-6 * (1 + float(values.abs().max())))
    assert float(risk(values, 3.0 * weights.unsqueeze(0))) == pytest.approx(expected, abs=1e-6 * (1 + float(values.abs().max())))


@each
@given(costs=COSTS, shift=NUMBERS, scale=st.floats(0.01, 100.0))
@settings(max_examples=25, deadline=None)
def test_shift_and_scale(risk, costs, shift, scale):
    values, slack = table(costs), 1e-9 * (1 + scale) * (1 + abs(shift) + max(map(abs, costs)))
    assert float(risk(values + shift)) == pytest.approx(float(risk(values)) + shift, abs=slack)
    if not isinstance(risk, EntropicRisk):
        assert float(risk(scale * values)) == pytest.approx(scale * float(risk(values)), abs=slack)


@each
@given(pairs=st.lists(st.tuples(NUMBERS, st.floats(0.0, 100.0)), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_monotone(risk, pairs):
    costs, more = (table(column) for column in zip(*pairs))
    assert float(risk(costs)) <= float(risk(costs + more)) + 1e-9 * (1 + float(costs.abs().max() + more.max()))


@each
@given(cost=NUMBERS)
@settings(max_examples=15, deadline=None)
def test_one_member_and_equal_members(risk, cost):
    assert float(risk(table([cost]))) == pytest.approx(cost, abs=1e-12)
    assert float(risk(table([cost] * 5))) == pytest.approx(cost, abs=1e-9)
    assert float(risk(table([cost]), torch.tensor([0.3]))) == pytest.approx(cost, abs=1e-9)


@each
@pytest.mark.parametrize("weights", [None, torch.ones(5)], ids=["equal", "weights"])
def test_an_infinite_member_makes_the_risk_infinite_not_nan(risk, weights):
    costs = table([1.0, 3.0, math.inf, 2.0, 0.0])
    found = float(risk(costs, weights))
    assert found == math.inf if not isinstance(risk, ValueAtRisk) else found == 3.0
    assert float(risk(table([math.inf] * 5), weights)) == math.inf
    lowest = float(risk(table([1.0, -math.inf, 3.0, 2.0, 0.0]), weights))
    assert lowest in (-math.inf, pytest.approx(float(risk(table([1.0, -1e9, 3.0, 2.0, 0.0]), weights))))
    assert not math.isnan(lowest)


@each
def test_a_member_without_weight_does_not_count_whatever_it_costs(risk):
    costs, weights = table([1.0, math.inf, 3.0, math.nan]), torch.tensor([1.0, 0.0, 2.0, 0.0])
    assert float(risk(torch.where(costs.isnan(), math.inf, costs), weights)) == pytest.approx(float(risk(table([1.0, 3.0, 3.0]))), abs=1e-6)


@each
def test_gradients(risk):
    costs = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(risk, (costs,))
    weights = torch.tensor([[1.0, 2.0, 0.0, 0.5, 1.0, 1.0, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.1]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: risk(x, weights), (costs,))


@each
def test_weights_of_problems(risk):
    costs = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.rand(2, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = risk(costs, weights)
    assert together.shape == (2, 3)
    for b in range(2):
        assert torch.allclose(together[b], risk(costs[b : b + 1], weights[b])[0])
    with pytest.raises(ValueError, match=r"weights \(7,\) or \(2, 7\)"):
        risk(costs, weights[:, :3])
    with pytest.raises(ValueError, match="not all 0"):
        risk(costs, torch.zeros(7))


def test_by_hand():
    values = torch.arange(10.0).reshape(1, 1, 10)
    assert float(ConditionalValueAtRisk(0.8)(values)) == 8.5
    assert float(ConditionalValueAtRisk(0.85)(values)) == pytest.approx((9 + 0.5 * 8) / 1.5)  # one counts by half
    assert float(ValueAtRisk(0.8)(values)) == 8.0
    assert float(MeanSemideviation(1.0)(table([0.0, 4.0]))) == 3.0
    normal = torch.randn(1, 1, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(EntropicRisk(2.0)(1.0 + 0.5 * normal)) == pytest.approx(1 + 0.25 / 4, abs=0.01)
    assert float(EntropicRisk(1e-9)(1e6 * values)) == pytest.approx(9e6)
    assert float(EntropicRisk(1e9)(values)) == pytest.approx(4.5, rel=1e-4)
    for wrong in (lambda: ConditionalValueAtRisk(1.0), lambda: EntropicRisk(0.0), lambda: MeanSemideviation(1.5)):
        with pytest.raises(ValueError, match="lies in|temperature above 0|weight in"):
            wrong()
