"""Model predictive control: latency, beliefs with a time, plans that serve several steps."""

import math

import pytest
import torch

from structwm.demos import toys
from structwm.interfaces import Belief
from structwm.planning import (
    MPC,
    MPPI,
    ActionCost,
    CoordinateGoal,
)
from tests.models import pendulum, planar

SPEED = CoordinateGoal({"vx": 0.5, "vy": -0.25}) + 0.01 * ActionCost()


def test_swing_up_in_closed_loop():
    """MPC swings eight pendulums up that start anywhere near the bottom, and keeps them there."""
    model = toys.Pendulum()
    goal = CoordinateGoal({"angle": math.pi, "rate": 0.0}, weights={"rate": 0.1}, periodic=("angle",))
    control = MPC(model, MPPI(horizon=25, samples=128, iterations=2, knots=8), goal)
    state = pendulum(8) * 0.3
    for _ in range(80):
        state = model.step(state, control.act(state))
    off = (state.angle - math.pi + math.pi).remainder(2 * math.pi) - math.pi
    assert float(off.abs().max()) < 0.15


def test_latency_is_compensated():
    """In a world that runs four steps behind, a controller that knows it holds the mark at least twice as closely."""
    model, goal = toys.DoubleIntegrator(), CoordinateGoal({"x": 0.0, "y": 0.0, "vx": 0.0, "vy": 0.0})
    settled = {}
    for known in (0, 4):
        control = MPC(model, MPPI(horizon=15, samples=128, iterations=2), goal, latency=known)
        state, queue, errors = planar(4), [torch.zeros(4, 2)] * 4, []
        for _ in range(80):
            queue.append(control.act(state))
            state = model.step(state, queue.pop(0))
            errors.append(float(torch.cat((state.position, state.velocity), -1).norm(dim=-1).mean()))
        settled[known] = sum(errors[-30:])
    assert settled[4] < 0.5 * settled[0]


def test_mpc_on_a_belief_with_latency():
    states = planar(2).unsqueeze(1).expand(2, 4).clone()
    control = MPC(toys.DoubleIntegrator(), MPPI(horizon=5, samples=16, particles=4), SPEED, latency=1)
    belief = Belief(states, torch.zeros(2, 4))
    for _ in range(3):
        assert control.act(belief).shape == (2, 2)
    control.reset()
    assert control.plan is None


def test_actions_of_a_plan_are_sent_until_the_next_one():
    model, state = toys.DoubleIntegrator(), planar(2)
    control = MPC(model, MPPI(horizon=6, samples=64), SPEED, every=3)
    plans = []
    for step in range(7):
        action = control.act(state)
        assert torch.equal(action, control.plan.actions[:, step % 3])
        plans.append(control.plan)
        state = model.step(state, action)
    assert [plan.index for plan in plans] == [0, 0, 0, 1, 1, 1, 2]
    assert torch.equal(MPPI(horizon=6).moved_up(plans[0].actions)[:, 0], plans[0].actions[:, 1])
    with pytest.raises(ValueError, match="from 1 to the planner's horizon 6, got 7"):
        MPC(model, MPPI(horizon=6), SPEED, every=7)


def test_a_belief_of_the_past_is_taken_to_now():
    """A belief that is 0.3 s old is rolled out over the actions sent since, before the plan begins."""
    model, states = toys.DoubleIntegrator(), planar(2)
    control = MPC(model, MPPI(horizon=5, samples=16), SPEED)
    sent = []
    for step in range(4):
        sent.append(control.act(Belief.certain(states, time=0.1 * step), time=0.1 * step))
    control.act(Belief.certain(states, time=0.1), time=0.4)
    expected = model.rollout(states, torch.stack(sent[1:], 1)).states[:, -1]
    assert torch.allclose(control.start.states[:, 0].position, expected.position)
    assert control.start.time == pytest.approx(0.4)
    with pytest.raises(ValueError, match="takes beliefs up to 32 steps"):
        control.act(Belief.certain(states, time=0.0), time=9.0)
