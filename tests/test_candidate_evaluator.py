"""Ranking the candidates of a policy by any model, beside a random choice and an oracle."""

import pytest
import torch

from structwm.demos import toys
from structwm.ensemble import Ensemble
from structwm.interfaces import Belief
from structwm.planning import CoordinateGoal, CoordinateLimit, WorstCase
from structwm.roles import CandidateEvaluator
from tests.models import damped, normal, planar

GOAL = CoordinateGoal({"x": 0.5, "y": 0.0}, stage=0.0)
CANDIDATES = normal(20, 16, 8, 2, seed=5).clamp(-1, 1)


def true_costs(model, candidates=CANDIDATES):
    return GOAL(model.rollout(planar(20).unsqueeze(1).expand(20, candidates.shape[1]), candidates))


def test_the_true_model_is_the_oracle_and_a_wrong_one_lies_between_it_and_chance():
    truth = true_costs(damped(0.1))
    oracle, near, wrong = (CandidateEvaluator(damped(rate), GOAL).judge(planar(20), CANDIDATES, truth) for rate in (0.1, 0.3, 0.9))
    assert oracle.regret.value == pytest.approx(0.0, abs=1e-6) and oracle.tau.value == pytest.approx(1.0)
    assert oracle.regret.value <= near.regret.value < wrong.regret.value < wrong.random_regret.value
    assert 1 > near.tau.value > wrong.tau.value > 0


def test_candidates_that_break_a_constraint_come_last():
    evaluator = CandidateEvaluator(toys.DoubleIntegrator(), GOAL, constraints=[CoordinateLimit("vx", high=0.1)])
    found = evaluator(planar(20), CANDIDATES)
    broken = (found.scores.excess > 0).gather(1, found.order)
    assert torch.equal(broken, broken.sort(dim=1).values)
    cost, excess = (value.gather(1, found.order) for value in (found.scores.cost, found.scores.excess))
    for row in range(20):
        kept = ~broken[row]
        assert torch.all(cost[row, kept].diff() >= 0) and torch.all(excess[row, ~kept].diff() >= 0)
    assert found.conditions == ("vx is at most 0.1",)
    assert torch.equal(found.best, found.order[:, 0])


def test_members_and_beliefs_are_judged_under_the_risk():
    cousins = Ensemble([damped(0.0), damped(0.6)])
    worst = CandidateEvaluator(cousins, GOAL, risk=WorstCase())(planar(20), CANDIDATES).scores.cost
    assert torch.allclose(worst, torch.maximum(true_costs(damped(0.0)), true_costs(damped(0.6))), atol=1e-5)
    states = planar(20).unsqueeze(1).expand(20, 3).clone()
    found = CandidateEvaluator(damped(0.0), GOAL, particles=3)(Belief(states, torch.zeros(20, 3)), CANDIDATES)
    assert torch.allclose(found.scores.cost, true_costs(damped(0.0)), atol=1e-5)


def test_what_does_not_fit_is_refused():
    evaluator = CandidateEvaluator(toys.DoubleIntegrator(), GOAL)
    with pytest.raises(ValueError, match="must lie in"):
        evaluator(planar(20), 3 * CANDIDATES)
    with pytest.raises(ValueError, match="candidates for 20 problems, got 4"):
        evaluator(planar(20), CANDIDATES[:4])
    with pytest.raises(ValueError, match=r"candidates \(B, S, H, ...\), got shape \(20, 8, 2\)"):
        evaluator(planar(20), CANDIDATES[:, 0])
    with pytest.raises(ValueError, match="rank needs predicted and true costs"):
        evaluator.judge(planar(20), CANDIDATES, torch.zeros(20, 3))


def test_candidates_that_are_not_applicable_come_last():
    """From the fourth room the lift cannot be taken, though staying where one is would cost the least."""
    candidates = torch.tensor([[[2, 2], [1, 0], [0, 0]]])
    start = toys.RoomState(room=torch.tensor([3]), batch_size=[1])
    for model in (toys.Corridor(), Ensemble([toys.Corridor(), toys.Corridor()])):
        found = CandidateEvaluator(model, CoordinateGoal({"room": 3.0}))(start, candidates)
        assert found.order.tolist() == [[1, 2, 0]] and found.conditions == ("every action is applicable",)
