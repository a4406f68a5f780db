"""Constraints: what they measure, and how they say in words what they ask for."""

import math

import pytest
import torch

from structwm.demos import toys
from structwm.geometry.signed_distance import Box, HalfSpace, Sphere, Union
from structwm.interfaces import Constraint, require_views
from structwm.planning import (
    MPPI,
    ActionCost,
    ActionRateLimit,
    ActionSmoothness,
    Clearance,
    Collision,
    CoordinateGoal,
    CoordinateLimit,
    CoordinateTube,
    ErrorLimit,
    KeepAway,
    Penalty,
    PointGoal,
    PoseGoal,
    SpeedLimit,
    Spheres,
    StretchLimit,
    Valid,
    WorkspaceBox,
)
from structwm.roles.checks import pieces
from structwm.spec import HybridAction
from tests.bags import BagScene, bag
from tests.models import normal

NAN = float("nan")
BALL = Sphere(torch.tensor([0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64), 0.25)
CENTRES = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]])

EVERY = {
    "limit": CoordinateLimit("n0", low=-1.0, high=1.0),
    "tube": CoordinateTube({"n0": torch.linspace(0, 1, 3), "n4": 0.0}, {"n0": 0.2, "n4": 1.0}),
    "keep away": KeepAway(CENTRES, (0.1, 0.2)),
    "box": WorkspaceBox((-1.0, -1.0, -math.inf), (1.0, 1.0, 1.0)),
    "stretch": StretchLimit(torch.tensor([[0, 1]]), torch.tensor([0.1]), 0.05),
    "speeds": SpeedLimit(linear=0.5, angular=1.0),
    "speed of one": SpeedLimit(linear=0.5, bodies=("lid",)),
    "clear of a ball": Clearance(0.05, obstacles=BALL, radius=0.01),
    "spheres clear of the scene": Clearance(0.0, spheres=(Spheres(CENTRES, 0.05, "lid"), Spheres(CENTRES[:1], 0.1))),
    "goal": ErrorLimit(PoseGoal(torch.tensor([0.0, 0, 0, 1, 0, 0, 0])), 0.01),
    "goal, always": ErrorLimit(PointGoal(torch.zeros(4, 3)), 0.01, always=True),
    "action rate": ActionRateLimit((0.1, 0.2)),
    "action rate of all": ActionRateLimit(0.1, previous=torch.zeros(2)),
    "valid": Valid(),
}


@pytest.fixture(params=EVERY, ids=lambda name: name.replace(" ", "-"))
def constraint(request):
    return EVERY[request.param]


def test_one_value_and_one_sentence_a_condition(constraint):
    trajectory = bag(normal(3, 4, 2, 6, 14), normal(3, 4, 2, 5, 2))
    require_views(trajectory.scene, constraint)
    values = constraint(trajectory)
    assert values.shape[:-1] == (3, 4, 2) and bool(values.isfinite().all())
    words = constraint.conditions(values.shape[-1])
    assert len(words) == values.shape[-1] == len(set(words)) and all(word and not word.startswith(type(constraint).__name__) for word in words)
    for b in range(3):
        assert torch.allclose(constraint(trajectory[b]), values[b], atol=1e-6)


def test_the_start_does_not_count(constraint):
    numbers, actions = normal(3, 4, 14), normal(3, 3, 2)
    before = constraint(bag(numbers, actions))
    numbers[:, 0] += 100.0
    assert torch.equal(constraint(bag(numbers, actions)), before)


def test_what_holds_step_by_step_says_so(constraint):
    """`per_step` promises that the value is the largest of the one-step pieces; a reference or a change of action would be read wrongly there."""
    trajectory = bag(normal(3, 4, 2, 6, 14), normal(3, 4, 2, 5, 2))
    assert isinstance(constraint.per_step, bool)
    if constraint.per_step:
        assert torch.allclose(constraint(pieces(trajectory)).amax(-2), constraint(trajectory), atol=1e-6)
    assert not constraint.per_step or not isinstance(constraint, CoordinateTube | ActionRateLimit)


def test_gradients(constraint):
    if isinstance(constraint, Valid):
        return
    numbers, actions = normal(2, 3, 14).double().requires_grad_(), normal(2, 2, 2, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, a: constraint(bag(x, a)), (numbers, actions))


def test_conditions_without_names_are_numbered():
    class Two(Constraint):
        def __call__(self, trajectory):
            return torch.zeros(*trajectory.batch_shape, 2)

    assert Two().conditions(2) == ("Two 1", "Two 2") and Two().conditions(1) == ("Two",)
    assert CoordinateLimit("x", low=-1.0, high=2.0).conditions(2) == ("x is at least -1", "x is at most 2")
    with pytest.raises(ValueError, match="1 names for 2 conditions"):
        Valid().conditions(2)


def test_a_planner_keeps_within_a_tube_and_under_a_rate():
    model, state = toys.DoubleIntegrator(), toys.PlanarState(position=torch.zeros(2, 2), velocity=torch.zeros(2, 2), batch_size=[2])
    # knots, since of white noise next to nothing keeps a rate
    limits = (CoordinateTube({"x": 0.0, "y": 0.0}, 0.05), ActionRateLimit(0.4))
    plan = MPPI(horizon=10, samples=512, iterations=4, std=0.3, knots=4).plan(model, state, CoordinateGoal({"x": 1.0}), constraints=limits)
    assert bool(plan.feasible.all())
    assert float(plan.trajectory.coordinates()[..., :2].abs().max()) <= 0.05
    assert float(plan.actions.diff(dim=1).abs().max()) <= 0.4 + 1e-6
    assert float(plan.trajectory.coordinates()[..., -1, 0].min()) > 0.02  # and goes as far as it may


class TestNumbers:
    def test_tube(self):
        numbers = torch.zeros(4, 14)
        numbers[:, 0] = torch.tensor([9.0, 0.5, 0.5, 0.5])
        numbers[:, 3] = 2 * math.pi - 0.1
        values = CoordinateTube({"n0": torch.tensor([0.0, 0.5, 0.8]), "n3": 0.0}, {"n0": 0.2, "n3": 0.3}, periodic=("n3",))(bag(numbers))
        assert values.tolist() == [pytest.approx(0.1, abs=1e-5), pytest.approx(-0.2, abs=1e-5)]
        with pytest.raises(ValueError, match="width of zero or more for every reference"):
            CoordinateTube({"x": 0.0}, {"y": 1.0})

    def test_workspace_box(self):
        numbers = torch.zeros(2, 14)
        numbers[1, 4] = 0.7  # y of the second point
        assert float(WorkspaceBox((-1.0, -0.5, -1.0), (1.0, 0.5, 1.0))(bag(numbers))) == pytest.approx(0.2)
        numbers[1, 4] = NAN
        hidden = BagScene(mask=torch.tensor([True, False, True, True]))
        assert float(WorkspaceBox((-1.0, -0.5, -1.0), (1.0, 0.5, 1.0))(bag(numbers, scene=hidden))) == pytest.approx(-0.5)
        with pytest.raises(ValueError, match="low <= high"):
            WorkspaceBox((1.0, 0.0, 0.0), (0.0, 1.0, 1.0))

    def test_speeds(self):
        numbers = torch.zeros(3, 14)
        numbers[1, :6], numbers[2, 6:12] = torch.tensor([0.3, 0.4, 0, 0, 0, 1.0]), torch.tensor([0, 0, 0, 2.0, 0, 0])
        assert SpeedLimit(linear=0.4, angular=1.5)(bag(numbers)).tolist() == [pytest.approx(0.1), pytest.approx(0.5)]
        assert SpeedLimit(angular=1.5, bodies=(0,))(bag(numbers)).tolist() == [pytest.approx(-0.5)]
        with pytest.raises(ValueError, match="linear, angular or both"):
            SpeedLimit()

    def test_action_rates(self):
        actions = torch.tensor([[0.0, 0.0], [0.1, 0.5], [0.4, 0.6]])
        recording = bag(normal(4, 14), actions)
        assert ActionRateLimit((0.2, 0.2))(recording).tolist() == [pytest.approx(0.1), pytest.approx(0.3)]
        assert ActionRateLimit(0.2)(recording).tolist() == [pytest.approx(0.3)]
        assert ActionRateLimit(0.2, previous=torch.tensor([0.0, -0.9]))(recording).tolist() == [pytest.approx(0.7)]
        assert ActionRateLimit(0.2)(bag(normal(2, 14), actions[:1])).tolist() == [pytest.approx(-0.2)]
        with pytest.raises(ValueError, match="3 limits, got actions of 2"):
            ActionRateLimit((0.1, 0.1, 0.1))(recording)

    def test_clearance_and_collision(self):
        numbers = torch.zeros(2, 14)
        numbers[:, 3], numbers[:, 10] = 1.0, 1.0  # the bodies are not turned
        numbers[1, 0] = 0.2
        ball = Clearance(0.1, obstacles=BALL, spheres=(Spheres(CENTRES, 0.05),))
        assert float(ball(bag(numbers))) == pytest.approx(0.1 - (0.5 - 0.3 - 0.25 - 0.05))
        soft = Collision(obstacles=BALL, spheres=(Spheres(CENTRES, 0.05),), margin=0.1, stage=0.0)
        assert float(soft(bag(numbers))) == pytest.approx((0.2**2 + 0.1**2) / 2)
        assert float(Collision(obstacles=BALL, spheres=(Spheres(CENTRES[:1], 0.0),), stage=0.0)(bag(numbers))) == 0.0

    def test_clearance_of_points_that_are_masked_or_lost(self):
        positions = torch.tensor([[0.5, 0.0, 0.5], [0.5, 0.0, 0.4], [0.5, 0.0, 0.0], [2.0, 0.0, 0.0]])
        numbers = torch.nn.functional.pad(positions.flatten(), (0, 2)).expand(2, 14).clone()
        here = torch.tensor([True, True, False, True])
        numbers[:, 6] = NAN
        near = Clearance(0.2, obstacles=BALL)
        assert float(near(bag(numbers, scene=BagScene(mask=here)))) == pytest.approx(0.05, abs=1e-6)
        assert math.isnan(float(near(bag(numbers))))  # a prediction that diverged is not clear
        assert float(Clearance(0.2, obstacles=BALL, points=(0, 3))(bag(numbers))) == pytest.approx(-0.05, abs=1e-6)
        numbers = numbers.detach().requires_grad_()
        Collision(obstacles=BALL, margin=0.5)(bag(numbers, scene=BagScene(mask=here))).backward()
        assert bool(numbers.grad.isfinite().all())

    def test_obstacles_by_problem_and_several(self):
        poses = torch.tensor([[0.0, 0, 0, 1, 0, 0, 0], [5.0, 0, 0, 1, 0, 0, 0]])
        gap = Clearance(0.0, obstacles=Sphere(poses, 0.25))(bag(torch.zeros(2, 3, 1, 4, 14)))
        assert gap[:, 0, 0, 0].tolist() == [pytest.approx(0.25), pytest.approx(-4.75)]
        floor = HalfSpace(torch.tensor([0.0, 0, -1.0, 1, 0, 0, 0]))
        both = Clearance(0.0, obstacles=Union((floor, Box(poses[1], (0.1, 0.1, 0.1)))))(bag(torch.zeros(2, 14)))
        assert float(both) == pytest.approx(-1.0)

    def test_collisions_have_the_gradient_of_the_distance(self):
        numbers = (0.3 * normal(1, 2, 3, 14)).double().requires_grad_()
        ball = Sphere(torch.tensor([0.1, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64), 0.25)
        soft = Collision(obstacles=ball, margin=0.3) + Collision(spheres=(Spheres(CENTRES.double(), 0.3, "lid"),), margin=0.4)
        assert float(soft(bag(numbers)).detach().min()) > 0
        assert torch.autograd.gradcheck(lambda x: soft(bag(x)), (numbers,))

    def test_a_body_is_read_one_way(self):
        with pytest.raises(ValueError, match="either spheres or the points view"):
            Collision(spheres=(Spheres(CENTRES, 0.1),), radius=0.1)
        with pytest.raises(ValueError, match="radii"):
            Spheres(CENTRES, torch.ones(3))

    def test_a_constraint_as_a_cost(self):
        trajectory = bag(normal(3, 4, 1, 5, 14))
        limit = CoordinateLimit("n0", low=-0.5, high=0.5)
        excess = limit(trajectory).clamp_min(0)
        assert torch.allclose(Penalty(limit)(trajectory), excess.sum(-1))
        assert torch.allclose(Penalty(limit, power=2.0)(trajectory), excess.square().sum(-1))
        assert Penalty(limit).needs == {"coordinates"}

    def test_keep_away_by_problem_with_hidden_points(self):
        numbers = torch.zeros(2, 3, 4, 14)
        numbers[..., 0] = NAN
        gap = KeepAway(torch.tensor([[[0.3, 0.0, 0.0]], [[0.0, 0.0, 0.5]]]), 0.1)(bag(numbers, scene=BagScene(mask=torch.arange(4) > 0)))
        assert gap[:, 0, 0].tolist() == [pytest.approx(-0.2), pytest.approx(-0.4)]
        with pytest.raises(ValueError, match="one radius or one for each of 2 spheres"):
            KeepAway(CENTRES, (0.1, 0.1, 0.1))


class TestActions:
    def test_effort_around_a_nominal(self):
        actions = normal(2, 3, 1, 5, 2)
        trajectory = bag(normal(2, 3, 1, 6, 14), actions)
        assert torch.allclose(ActionCost()(trajectory), actions.square().sum(-1).mean(-1))
        weighted = ActionCost(torch.tensor([1.0, 0.0]), weights=(2.0, 0.5))(trajectory)
        assert torch.allclose(weighted, (2 * (actions[..., 0] - 1).square() + 0.5 * actions[..., 1].square()).mean(-1))
        assert float(ActionCost(actions[0, 0, 0])(trajectory)[0, 0, 0]) == 0.0
        each = ActionCost(actions[:, 0, 0])(trajectory)
        assert torch.allclose(each[1], ActionCost(actions[1, 0, 0])(trajectory)[1])
        with pytest.raises(ValueError, match=r"nominal \(4, 2\), got actions \(5, 2\)"):
            ActionCost(torch.zeros(4, 2))(trajectory)
        with pytest.raises(ValueError, match="3 weights, got actions of 2"):
            ActionCost(weights=(1.0, 1.0, 1.0))(trajectory)

    def test_smoothness(self):
        actions = torch.tensor([[0.0], [1.0], [4.0], [9.0]])
        trajectory = bag(normal(5, 14), actions)
        assert float(ActionSmoothness()(trajectory)) == pytest.approx((1 + 9 + 25) / 3)
        assert float(ActionSmoothness(order=2)(trajectory)) == pytest.approx(4.0)
        assert float(ActionSmoothness(previous=torch.tensor([2.0]))(trajectory)) == pytest.approx((4 + 1 + 9 + 25) / 4)
        assert float(ActionSmoothness(order=2, previous=torch.tensor([1.0]))(trajectory)) == pytest.approx(4.0)
        assert float(ActionSmoothness(order=2)(bag(normal(3, 14), actions[:2]))) == 0.0
        assert float(ActionSmoothness(previous=torch.tensor([2.0]))(bag(normal(2, 14), actions[:1]))) == pytest.approx(4.0)
        with pytest.raises(ValueError, match="order 1 or 2"):
            ActionSmoothness(order=3)

    def test_parameters_that_a_choice_does_not_use_cost_nothing(self):
        parameters, used = normal(3, 5, 2), torch.rand(3, 5, 2) > 0.5
        hybrid = HybridAction(index=torch.zeros(3, 5, dtype=torch.int64), parameters=torch.where(used, parameters, NAN), mask=used, batch_size=[3, 5])
        cost = ActionCost()(bag(normal(3, 6, 14), hybrid))
        assert torch.allclose(cost, torch.where(used, parameters, 0.0).square().sum((-2, -1)) / 5)
        with pytest.raises(ValueError, match="continuous actions, got discrete"):
            ActionCost()(bag(normal(3, 6, 14), torch.zeros(3, 5, dtype=torch.int64)))
