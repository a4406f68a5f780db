"""Objectives on predictions of models and on recordings."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from structwm.demos import toys
from structwm.ensemble import Ensemble
from structwm.planning import (
    MPPI,
    ActionCost,
    ActionSmoothness,
    CoordinateGoal,
    Disagreement,
    Duration,
    KeepAway,
    PointGoal,
    PoseGoal,
    PredictedReturn,
    TerminalValue,
    Uncertainty,
    Valid,
)
from structwm.scene import Scene
from structwm.state import State
from structwm.transition import recorded_trajectory
from structwm.wrappers import Residual
from tests.models import normal, planar


class Posed(State):
    pose: torch.Tensor  # (*B, 7)


def rollout(problems=3, candidates=4, horizon=5):
    state = planar(problems).unsqueeze(1).expand(problems, candidates)
    return toys.DoubleIntegrator().rollout(state, normal(problems, candidates, horizon, 2).clamp(-1, 1))


def posed(poses):
    """A trajectory whose poses view is the given tensor (*B, H+1, 7)."""
    states = Posed(pose=poses, batch_size=poses.shape[:-1])
    return recorded_trajectory(Scene(decoders={"poses": lambda s: s.pose[..., None, :]}), states, 0.1)


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


def test_what_comes_after_the_horizon_is_any_function_of_the_last_state():
    trajectory = rollout()
    cost = TerminalValue(lambda states: states.velocity.square().sum(-1), needs=("points",))
    assert torch.equal(cost(trajectory), trajectory.states.velocity[..., -1, :].square().sum(-1))
    assert cost.needs == {"points"}
    with pytest.raises(ValueError, match=r"one cost a state, \(3, 4\), got \(3, 4, 2\)"):
        TerminalValue(lambda states: states.velocity)(trajectory)


def test_time_is_that_of_the_last_state():
    assert torch.allclose(Duration()(rollout(horizon=5)), torch.full((3, 4), 0.5))


def test_uncertainty_is_what_a_function_says():
    trajectory = rollout()
    far = Uncertainty(lambda moved: moved.coordinates()[..., :2].norm(dim=-1), needs=("coordinates",), stage=0.5)
    error = trajectory.coordinates()[..., :2].norm(dim=-1)
    assert torch.allclose((-2.0 * far)(trajectory), -2 * error[..., -1] - error[..., 1:-1].mean(-1))
    with pytest.raises(ValueError, match=r"one number an instant, \(3, 4, 6\), got \(3, 4\)"):
        Uncertainty(lambda moved: moved.coordinates()[..., -1, 0])(trajectory)


def test_members_are_read_together_in_a_plan():
    model = Ensemble([toys.DoubleIntegrator(), Residual(toys.DoubleIntegrator(), lambda state, action, following: {"velocity": -0.4 * following.velocity})])
    state = toys.PlanarState(position=torch.zeros(2, 2), velocity=torch.tensor([[0.5, 0.0], [0.0, 0.5]]), batch_size=[2])
    for sign, words in ((1.0, "agree"), (-1.0, "differ")):
        plan = MPPI(horizon=8, samples=128, iterations=3).plan(model, state, sign * Disagreement() + 0.001 * ActionCost())
        left = Disagreement()(model.rollout(state.unsqueeze(1).expand(2, 2), torch.zeros(2, 8, 2)))
        apart = Disagreement()(plan.trajectory)
        assert plan.cost.shape == (2,) and bool((apart < 0.7 * left).all() if words == "agree" else (apart > 1.3 * left).all())


class TestRecordings:
    def test_a_recording_is_scored_as_a_prediction(self):
        trajectory = rollout()
        model = toys.DoubleIntegrator()
        recording = recorded_trajectory(model.scene, trajectory.states, model.spec.dt, trajectory.actions)
        for objective in (CoordinateGoal({"vx": 0.5}), PointGoal(torch.zeros(1, 3)), ActionCost(), Duration(), Valid()):
            assert torch.allclose(objective(recording).float(), objective(trajectory).float())
        assert torch.equal(recording.times, trajectory.times)

    def test_times_and_actions_may_be_given_or_left_out(self):
        states = rollout().states
        times = torch.tensor([2.0, 2.1, 2.3, 2.4, 2.5, 3.0])
        recording = recorded_trajectory(toys.PlanarScene(), states, times)
        assert recording.times[0, 0].tolist() == pytest.approx([0.0, 0.1, 0.3, 0.4, 0.5, 1.0])
        assert recording.actions.shape == (3, 4, 5, 0) and float(ActionCost()(recording).max()) == 0.0
        assert recording[1].batch_shape == (4,) and recording.final().horizon == 0

    def test_what_is_refused(self):
        states = rollout().states
        with pytest.raises(ValueError, match="dt above 0"):
            recorded_trajectory(toys.PlanarScene(), states, 0.0)
        with pytest.raises(ValueError, match=r"leading axes \(3, 4, 5\), one between each two states, got \(3, 4, 6\)"):
            recorded_trajectory(toys.PlanarScene(), states, 0.1, torch.zeros(3, 4, 6, 2))
        with pytest.raises(ValueError, match="times that rise"):
            recorded_trajectory(toys.PlanarScene(), states, torch.zeros(6))


def test_the_last_instant_alone():
    trajectory = rollout()
    last = trajectory.final()
    assert last.horizon == 0 and last.batch_shape == (3, 4) and last.actions.shape == (3, 4, 0, 2)
    assert torch.equal(last.coordinates()[..., 0, :], trajectory.coordinates()[..., -1, :])
    assert torch.equal(last.times[..., 0], trajectory.times[..., -1]) and torch.equal(last.valid[..., 0], trajectory.valid[..., -1])


def test_the_last_instant_of_discrete_actions():
    rooms = toys.Corridor().rollout(toys.RoomState(room=torch.zeros(2, dtype=torch.int64), batch_size=[2]), torch.tensor([[0, 1], [1, 1]]))
    assert rooms.final().actions.shape == (2, 0)
    assert torch.equal(CoordinateGoal({"room": 2.0}, stage=0.0)(rooms), (rooms.coordinates()[:, -1, 0] - 2.0).square())
