"""Goals that are shapes, and how far ropes may be stretched."""

import pytest
import torch

from structwm.geometry import chamfer
from structwm.physics import Rod, SpringBody
from structwm.planning import ShapeGoal, StretchLimit
from structwm.scene import Scene
from structwm.state import Points, State
from structwm.transition import recorded_trajectory
from tests.models import normal


class Cloud(State):
    positions: torch.Tensor  # (*B, N, 3) [m]


def moving(positions, mask=None):
    """A trajectory whose points view is positions (*B, H+1, N, 3)."""
    states = Cloud(positions=positions, batch_size=positions.shape[:-2])
    scene = Scene(decoders={"points": lambda s: Points(positions=s.positions, mask=mask, batch_size=s.batch_size)})
    return recorded_trajectory(scene, states, 0.1)


def still(points, steps=1):
    """(*B, N, 3) held over `steps`."""
    return moving(points.unsqueeze(-3).expand(*points.shape[:-2], steps + 1, *points.shape[-2:]))


def test_numbers_by_hand():
    two = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    goal = torch.tensor([[0.0, 0.3, 0.0], [1.0, 0.0, 0.4], [3.0, 0.0, 0.0]])
    there, back = (0.3 + 0.4) / 2, (0.3 + 0.4 + 2.0) / 3
    for direction, expected in (("a_to_b", there), ("b_to_a", back), ("both", (there + back) / 2)):
        found = ShapeGoal(goal, direction=direction, stage=0.0)(still(two))
        assert float(found) == pytest.approx(expected, abs=1e-6)
    squared = ShapeGoal(goal, norm="squared", direction="a_to_b", stage=0.0)(still(two))
    assert float(squared) == pytest.approx((0.09 + 0.16) / 2, abs=1e-6)


def test_it_is_half_the_chamfer_of_the_tree_and_blocks_change_nothing(monkeypatch):
    points, goal = normal(3, 4, 6, 11, 3), normal(3, 17, 3)
    objective = ShapeGoal(goal)
    error = objective.error(moving(points))
    assert torch.allclose(error, chamfer(points, goal[:, None, None].expand(3, 4, 6, 17, 3)) / 2, atol=1e-5)
    assert torch.allclose(objective(moving(points)), error[..., -1] + error[..., 1:-1].mean(-1))
    last = ShapeGoal(goal, stage=0.0)(moving(points))
    assert torch.allclose(last, error[..., -1])
    monkeypatch.setattr("structwm.planning.shape_goal.BLOCK", 500)
    assert torch.equal(objective.error(moving(points)), error)


def test_goals_align_from_the_left_and_one_goal_serves_all():
    points, goal = normal(3, 4, 6, 11, 3), normal(3, 17, 3)
    for b in range(3):
        assert torch.allclose(ShapeGoal(goal)(moving(points))[b], ShapeGoal(goal[b])(moving(points[b])))
    with pytest.raises(ValueError, match="goals of 3 problems"):
        ShapeGoal(goal)(moving(points[:2]))


def test_masked_points_do_not_count():
    points, goal = normal(2, 3, 4, 9, 3), normal(2, 8, 3)
    far = torch.cat((goal, torch.full((2, 2, 3), float("nan"))), 1)
    there = torch.arange(10).expand(2, 10) < 8
    assert torch.allclose(ShapeGoal(far, mask=there)(moving(points)), ShapeGoal(goal)(moving(points)))
    here = torch.arange(9).expand(2, 3, 4, 9) < 6
    assert torch.allclose(ShapeGoal(goal)(moving(points, here)), ShapeGoal(goal)(moving(points[..., :6, :])))


def test_points_between_points():
    ends = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    middle = torch.tensor([[0.5, 0.0, 0.0]])
    objective = ShapeGoal(middle, corners=torch.tensor([[0, 1]]), weights=torch.tensor([[0.5, 0.5]]), stage=0.0)
    assert float(objective(still(ends))) < 1e-5 < float(ShapeGoal(middle, stage=0.0)(still(ends)))


@pytest.mark.parametrize("norm", ["l2", "squared"])
def test_gradients(norm):
    points = normal(2, 3, 5, 3).double().requires_grad_()
    goal = normal(2, 7, 3).double()
    assert torch.autograd.gradcheck(lambda x: ShapeGoal(goal, norm=norm)(still(x, steps=3)), (points,))
    met = goal[:, :5].clone().unsqueeze(1).requires_grad_()
    ShapeGoal(goal)(still(met)).sum().backward()
    assert bool(met.grad.isfinite().all())


def test_what_is_no_goal_is_refused():
    with pytest.raises(ValueError, match=r"\(M, 3\) or \(B, M, 3\)"):
        ShapeGoal(torch.zeros(3))
    with pytest.raises(ValueError, match="a point in every goal"):
        ShapeGoal(torch.zeros(2, 4, 3), mask=torch.tensor([[True] * 4, [False] * 4]))
    with pytest.raises(ValueError, match="bool mask"):
        ShapeGoal(torch.zeros(4, 3), mask=torch.ones(4))
    with pytest.raises(ValueError, match="corners and weights"):
        ShapeGoal(torch.zeros(4, 3), corners=torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="knows the directions"):
        ShapeGoal(torch.zeros(4, 3), direction="there")


def test_stretch_is_that_of_the_worst_pair_after_the_start():
    x = torch.zeros(4, 3, 3)  # H + 1 = 4
    x[:, 1, 0], x[:, 2, 0] = 0.1, 0.2
    x[0, 2, 0], x[2, 2, 0] = 9.0, 0.23  # the start does not count; at the second step the last pair is 30 % longer
    pairs, lengths = torch.tensor([[0, 1], [1, 2]]), torch.tensor([0.1, 0.1])
    assert StretchLimit(pairs, lengths, 0.1)(moving(x)).tolist() == [pytest.approx(0.2, abs=1e-5)]
    hidden = torch.ones(4, 3, dtype=torch.bool)
    hidden[2, 2] = False
    assert StretchLimit(pairs, lengths, 0.1)(moving(x, hidden)).tolist() == [pytest.approx(-0.1, abs=1e-5)]
    assert StretchLimit(pairs, lengths, 0.1)(moving(x.expand(5, 2, 4, 3, 3))).shape == (5, 2, 1)
    with pytest.raises(ValueError, match="lengths above zero"):
        StretchLimit(pairs, torch.zeros(2), 0.1)


def test_bodies_say_what_may_not_be_stretched():
    rod = StretchLimit.of(Rod.even(0.4, 5), 0.05)
    assert rod.pairs.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]] and rod.lengths.tolist() == pytest.approx([0.1] * 4)
    line = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]])
    body = SpringBody.from_points(line, radius=0.11, neighbours=2).with_controllers(torch.tensor([[0.0, 0, 0.05]]), attach=0.06)
    springs = StretchLimit.of(body, 0.05)
    assert sorted(map(sorted, springs.pairs.tolist())) == [[0, 1], [1, 2]]  # not the spring by which the controller holds
