"""The conformance suite of goals: what every goal objective keeps, whatever view it reads."""

import pytest
import torch

from structwm.interfaces import require_views
from structwm.planning import (
    AtomGoal,
    CoordinateGoal,
    CoordinateReference,
    EarthMoverGoal,
    EmbeddingGoal,
    PointGoal,
    PoseGoal,
    ShapeGoal,
    TrackGoal,
    TwistGoal,
)
from structwm.scene import Scene, ViewMissing
from tests.bags import BagScene, bag
from tests.models import normal


def cloud(g):
    return g[..., :12].unflatten(-1, (4, 3))


def held(g):
    """The goal at each of three instants."""
    return cloud(g).unsqueeze(-3).expand(*g.shape[:-1], 3, 4, 3)


CASES = {
    "coordinates": lambda g, **k: CoordinateGoal({"n0": g[..., 0], "n5": g[..., 5], "n3": g[..., 3]}, weights={"n5": 0.3}, periodic=("n3",), **k),
    "coordinates in a row": lambda g, **k: CoordinateGoal({"n1": g[..., 1], "n2": g[..., 2]}, periodic=("n1", "n2"), **k),
    "root of coordinates": lambda g, **k: CoordinateGoal({"n0": g[..., 0], "n2": g[..., 2]}, root=True, **k),
    "reference": lambda g, **k: CoordinateReference({f"n{i}": g[..., i, None].expand(*g.shape[:-1], 3) for i in (0, 2)}, **k),
    "points": lambda g, **k: PointGoal(cloud(g), **k),
    "masked points": lambda g, **k: PointGoal(cloud(g), mask=torch.tensor([True, True, False, True]).expand(*g.shape[:-1], 4), norm="l2", **k),
    "shape": lambda g, **k: ShapeGoal(cloud(g), **k),
    "matched points": lambda g, **k: EarthMoverGoal(cloud(g), **k),
    "transported points": lambda g, **k: EarthMoverGoal(cloud(g), method="sinkhorn", iterations=30, blur=0.1, **k),
    "pose": lambda g, **k: PoseGoal(g[..., :7], **k),
    "poses": lambda g, **k: PoseGoal(g.unflatten(-1, (2, 7)).flip(-2), bodies=("lid", "cup"), length=0.3, root=True, **k),
    "pose but for a turn": lambda g, **k: PoseGoal(g[..., :7], weights=(1.0, 1.0, 0.5, 1.0, 1.0, 0.0), **k),
    "twist": lambda g, **k: TwistGoal(g[..., 6:12], body="lid", root=True, **k),
    "tracks": lambda g, **k: TrackGoal(cloud(g), visibility=torch.tensor([1.0, 0.5, 0.0, 1.0]).expand(*g.shape[:-1], 4), **k),
    "tracks over time": lambda g, **k: TrackGoal(held(g), follow=True, norm="l2", hidden=2.0, **k),
    "atoms": lambda g, **k: AtomGoal({"on": g[..., 0] > 0, "held": g[..., 2] > 0}, **k),
    "probability of atoms": lambda g, **k: AtomGoal({"on": g[..., 0] > 0, "held": g[..., 2] > 0}, form="probability", **k),
    "embedding": lambda g, **k: EmbeddingGoal(g[..., :5], **k),
    "angle of embeddings": lambda g, **k: EmbeddingGoal(g[..., :5], distance="cosine", **k),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def make(request):
    return CASES[request.param]


def numbers(*batch, seed=0):
    return normal(*batch, 14, seed=seed).double()


def test_goals_align_from_the_left(make):
    goals, predicted = numbers(3, seed=1), numbers(3, 4, 2, 5)
    together = make(goals)(bag(predicted))
    assert together.shape == (3, 4, 2)
    for b in range(3):
        assert torch.allclose(together[b], make(goals[b])(bag(predicted[b])), atol=1e-12)
        assert torch.allclose(together[b], make(goals[b : b + 1])(bag(predicted[b])), atol=1e-12)
    with pytest.raises(ValueError, match=r"goals of 3 problems, got a prediction of batch axes \(2, 4, 2\)"):
        make(goals)(bag(predicted[:2]))


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_the_cost_is_that_of_the_errors(make, horizon):
    goal, trajectory = numbers(3, seed=1), bag(numbers(3, 4, 1, horizon + 1))
    error = make(goal).error(trajectory)
    assert error.shape == (3, 4, 1, horizon + 1)
    assert torch.allclose(make(goal, stage=0.0, terminal=2.0)(trajectory), 2 * error[..., -1])
    between = error[..., 1:-1].mean(-1) if horizon > 1 else error[..., -1]
    assert torch.allclose(make(goal, stage=0.3, terminal=0.0)(trajectory), 0.3 * between)
    assert torch.allclose(make(goal, stage=0.3, terminal=2.0)(trajectory), 0.3 * between + 2 * error[..., -1])
    with torch.no_grad():  # another path
        assert torch.allclose(make(goal, stage=0.3, terminal=2.0)(trajectory), 0.3 * between + 2 * error[..., -1])


def test_what_is_read_is_left_as_it_was(make):
    predicted, goal = numbers(3, 2, 1, 4), numbers(3, seed=1)
    before = predicted.clone()
    with torch.no_grad():
        first, second = (make(goal)(bag(predicted)) for _ in range(2))
    assert torch.equal(predicted, before) and torch.equal(first, second)


def test_gradients_against_finite_differences(make):
    goal = numbers(2, seed=1)
    predicted = numbers(2, 1, 1, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: make(goal)(bag(x)), (predicted,))


def test_gradients_are_finite_at_the_goal(make):
    goal = numbers(2, seed=1)
    predicted = goal[:, None, None].expand(2, 3, 4, 14).clone().requires_grad_()
    make(goal)(bag(predicted)).sum().backward()
    assert bool(predicted.grad.isfinite().all())


def test_at_the_goal_it_costs_nothing(make, request):
    goal = numbers(2, seed=1)
    reached = goal.clone()
    if "atoms" in request.node.name:
        reached[:, :3] = 40.0 * goal[:, :3].sign()
    cost = make(goal)(bag(reached[:, None, None].expand(2, 3, 4, 14)))
    assert cost.abs().max() < (0.3 if "transported" in request.node.name else 1e-5)  # the blur of transport shows where points lie close
    assert torch.all(make(goal)(bag(numbers(2, 3, 4, seed=2))) > cost)


def test_the_view_is_asked_for(make):
    goal = make(numbers(2, seed=1))
    require_views(BagScene(), goal)
    if goal.needs != {"coordinates"}:
        with pytest.raises(ViewMissing, match=type(goal).__name__):
            require_views(Scene(), goal)


def test_float32_predictions_give_float32_costs(make):
    cost = make(numbers(2, seed=1))(bag(numbers(2, 3, 1, 4).float()))
    assert cost.dtype == torch.float32 and bool(cost.isfinite().all())
