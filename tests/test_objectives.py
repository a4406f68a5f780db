"""Objectives, constraints and risk measures."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from structwm.demos import toys
from structwm.planning import (
    ActionCost,
    ActionSmoothness,
    ConditionalValueAtRisk,
    CoordinateGoal,
    KeepAway,
    Mean,
    PointGoal,
    PoseGoal,
    PredictedReturn,
    Valid,
    ValueAtRisk,
    WorstCase,
)
from structwm.scene import Scene
from structwm.transition import Trajectory
from tests.models import normal, planar


def rollout(problems=3, candidates=4, horizon=5):
    state = planar(problems).unsqueeze(1).expand(problems, candidates)
    return toys.DoubleIntegrator().rollout(state, normal(problems, candidates, horizon, 2).clamp(-1, 1))


def posed(poses):
    """A trajectory whose poses view is the given tensor (*B, H+1, 7)."""
    batch = poses.shape[:-1]
    states = toys.PlanarState(position=poses[..., :2], velocity=poses[..., :2], batch_size=batch)
    actions = torch.zeros(*batch[:-1], batch[-1] - 1, 2)
    return Trajectory(Scene(decoders={"poses": lambda s: poses[..., None, :]}), states, actions, torch.zeros(batch), torch.ones(batch, dtype=torch.bool))


def test_objectives_add_and_scale():
    trajectory = rollout()
    goal, effort = CoordinateGoal({"vx": 0.5}), ActionCost()
    total = 2.0 * goal + effort * 0.5 + ActionSmoothness()
    assert torch.allclose(total(trajectory), 2 * goal(trajectory) + 0.5 * effort(trajectory) + ActionSmoothness()(trajectory))
    assert len(total.terms) == 3 and total.needs == {"coordinates"}


def test_goals_align_from_the_left():
    trajectory = rollout()
    each = CoordinateGoal({"vx": torch.tensor([0.0, 1.0, 2.0])})(trajectory)
    for b in range(3):
        assert torch.allclose(each[b], CoordinateGoal({"vx": float(b)})(trajectory)[b])
    points = normal(3, 1, 3)
    assert torch.allclose(PointGoal(points)(trajectory)[1], PointGoal(points[1])(trajectory)[1])


def test_stage_and_terminal_weights():
    trajectory = rollout()
    x = trajectory.coordinates()[..., 0]
    assert torch.allclose(CoordinateGoal({"x": 0.0}, stage=0.0)(trajectory), x[..., -1].square())
    assert torch.allclose(CoordinateGoal({"x": 0.0}, terminal=0.0)(trajectory), x[..., 1:-1].square().mean(-1))
    with pytest.raises(ValueError, match="not both 0"):
        CoordinateGoal({"x": 0.0}, stage=0.0, terminal=0.0)


def test_angles_wrap():
    state = toys.PendulumState(angle=torch.tensor([[2 * math.pi - 0.1]]), rate=torch.zeros(1, 1), batch_size=[1])
    model, actions = toys.Pendulum(), torch.zeros(1, 1, 1)
    assert float(CoordinateGoal({"angle": 0.0})(model.rollout(state, actions))) < 0.1  # its scene knows
    model.scene = Scene(coordinate_names=("angle", "rate"), coordinate_units=("rad", "rad/s"))
    assert float(CoordinateGoal({"angle": 0.0})(model.rollout(state, actions))) > 30.0
    assert float(CoordinateGoal({"angle": 0.0}, periodic=("angle",))(model.rollout(state, actions))) < 0.1


@given(angle=st.floats(-3.1, 3.1), x=st.floats(-1, 1))
@settings(max_examples=40, deadline=None)
def test_pose_error_is_position_and_rotation_angle(angle, x):
    pose = torch.tensor([x, 0.0, 0.0, math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)], dtype=torch.float64)
    start = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)
    goal = PoseGoal(start, length=0.2, stage=0.0)
    for sign in (1.0, -1.0):  # q and -q are one rotation
        flipped = torch.cat((pose[:3], sign * pose[3:]))
        cost = goal(posed(torch.stack((start, flipped))))
        assert float(cost) == pytest.approx(x**2 + (0.2 * angle) ** 2, abs=1e-9)


def test_pose_goal_refuses_what_is_no_pose():
    with pytest.raises(ValueError, match=r"\(7,\) or \(B, 7\)"):
        PoseGoal(torch.zeros(3))
    with pytest.raises(ValueError, match="not zero"):
        PoseGoal(torch.zeros(7))


def test_predicted_return_discounts_and_stops():
    state = toys.CartPoleState(cart=torch.zeros(1, 2), pole=torch.zeros(1, 2), batch_size=[1])
    upright = toys.CartPole().rollout(state, torch.zeros(1, 3, 1))
    assert float(PredictedReturn(0.5)(upright)) == pytest.approx(-(1 + 0.5 + 0.25))
    fallen = toys.CartPole().rollout(state.replace(pole=torch.tensor([[3.0, 0.0]])), torch.zeros(1, 3, 1))
    assert float(PredictedReturn()(fallen)) == pytest.approx(-float(fallen.reward[0, 0]))
    with pytest.raises(ValueError, match="predicts a reward"):
        PredictedReturn()(rollout())


def test_constraints():
    trajectory = rollout()
    centre = trajectory.points().positions[0, 0, 2]
    keep = KeepAway(centre, 0.05)(trajectory)
    assert keep.shape == (3, 4, 1) and float(keep[0, 0]) > 0
    assert float(KeepAway(centre + 50.0, 0.05)(trajectory).max()) < 0
    rooms = toys.Corridor().rollout(toys.RoomState(room=torch.zeros(2, dtype=torch.int64), batch_size=[2]), torch.tensor([[0], [1]]))
    assert Valid()(rooms)[:, 0].tolist() == [1.0, 0.0]


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.floats(0.0, 0.99))
@settings(max_examples=60, deadline=None)
def test_risks_are_ordered(costs, level):
    table = torch.tensor(costs, dtype=torch.float64).reshape(1, 1, -1)
    mean, worst = float(Mean()(table)), float(WorstCase()(table))
    var, cvar = float(ValueAtRisk(level)(table)), float(ConditionalValueAtRisk(level)(table))
    slack = 1e-9 * (1 + abs(worst))
    assert mean - slack <= cvar <= worst + slack
    assert var - slack <= cvar


def test_risk_by_hand():
    table = torch.arange(10.0).reshape(1, 1, 10)
    assert float(ConditionalValueAtRisk(0.8)(table)) == 8.5
    assert float(ValueAtRisk(0.8)(table)) == 8.0
    with pytest.raises(ValueError, match="lies in"):
        ConditionalValueAtRisk(1.0)
