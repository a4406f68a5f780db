"""What is particular to goals of one view: numbers by hand, masks, and what is refused."""

import math

import pytest
import torch

from structwm.ensemble import disagreement
from structwm.geometry import emd
from structwm.interfaces import Grounding
from structwm.planning import (
    AtomGoal,
    CoordinateGoal,
    CoordinateReference,
    Disagreement,
    EarthMoverGoal,
    EmbeddingGoal,
    PointGoal,
    PoseGoal,
    ShapeGoal,
    TrackGoal,
    TwistGoal,
)
from tests.bags import BagScene, bag
from tests.models import normal

NAN = float("nan")


def still(positions, scene=None):
    """Four points (*B, 4, 3) held over one step."""
    numbers = torch.nn.functional.pad(positions.flatten(-2), (0, 2), value=1.0)
    return bag(numbers.unsqueeze(-2).expand(*numbers.shape[:-1], 2, 14), scene=scene)


class TestCoordinates:
    def test_a_reference_is_followed_in_time_and_its_end_holds_on(self):
        trajectory = bag(normal(2, 3, 1, 6, 14))
        track = torch.tensor([0.0, 1.0, 2.0, 3.0])
        error = CoordinateReference({"n4": track}).error(trajectory)
        expected = (trajectory.coordinates()[..., 4] - torch.tensor([0.0, 1.0, 2.0, 3.0, 3.0, 3.0])).square()
        assert torch.allclose(error, expected)
        later = CoordinateReference({"n4": track}).later(2).error(trajectory)
        assert torch.allclose(later, (trajectory.coordinates()[..., 4] - torch.tensor([2.0, 3.0, 3.0, 3.0, 3.0, 3.0])).square())
        longer = CoordinateReference({"n4": torch.arange(20.0)}).error(trajectory)
        assert torch.allclose(longer, (trajectory.coordinates()[..., 4] - torch.arange(6.0)).square())

    def test_a_reference_that_stands_still_is_a_goal(self):
        trajectory = bag(normal(2, 3, 1, 6, 14))
        for stage in (0.0, 0.4):
            goal = CoordinateGoal({"n1": 0.5, "n3": -1.0}, weights={"n3": 0.2}, stage=stage)(trajectory)
            reference = CoordinateReference({"n1": torch.full((2, 3), 0.5), "n3": -1.0}, weights={"n3": 0.2}, stage=stage)
            assert torch.allclose(reference(trajectory), goal)

    def test_names_in_any_order_and_blocks_change_nothing(self, monkeypatch):
        trajectory, names = bag(normal(3, 40, 2, 5, 14)), ("n7", "n2", "n11")
        goal = CoordinateGoal({name: torch.tensor([0.1, 0.2, 0.3]) for name in names}, periodic=("n7", "n11"))
        error = goal.error(trajectory)
        parts = [trajectory.coordinates()[..., int(name[1:])] - torch.tensor([0.1, 0.2, 0.3])[:, None, None, None] for name in names]
        parts = [part if name == "n2" else torch.atan2(part.sin(), part.cos()) for part, name in zip(parts, names)]
        assert torch.allclose(error, sum(part.square() for part in parts), atol=1e-5)
        with torch.no_grad():
            whole = goal(trajectory)
            posed, paired = PoseGoal(normal(3, 7)), PointGoal(normal(3, 4, 3))
            others = posed(trajectory), paired(trajectory)
            monkeypatch.setattr("structwm.planning.goals.BLOCK", 100)
            assert torch.equal(goal(trajectory), whole)
            assert torch.allclose(posed(trajectory), others[0], rtol=1e-5)  # an arc tangent's last bit depends on where in memory a number lies
            assert torch.equal(paired(trajectory), others[1])
            assert torch.allclose(posed(trajectory[:, 0, 0]), posed(trajectory)[:, 0, 0], rtol=1e-5)

    def test_the_start_does_not_count(self):
        numbers = normal(2, 3, 1, 4, 14)
        numbers[..., 0, :] = NAN
        with torch.no_grad():
            assert bool(CoordinateGoal({"n1": 0.0})(bag(numbers)).isfinite().all())

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="one number of problems, got 2, 3"):
            CoordinateGoal({"n0": torch.zeros(2), "n1": torch.zeros(3)})
        with pytest.raises(ValueError, match=r"finite targets \(\) or \(B,\)"):
            CoordinateGoal({"n0": NAN})
        with pytest.raises(ValueError, match="not negative"):
            CoordinateGoal({"n0": 0.0}, weights={"n0": -1.0})
        with pytest.raises(ValueError, match="one length"):
            CoordinateReference({"n0": torch.zeros(4), "n1": torch.zeros(5)})


class TestPoints:
    def test_masked_points_do_not_count_even_where_they_are_nothing(self):
        goal, points = normal(2, 4, 3), normal(2, 3, 4, 3, seed=1)
        there, here = torch.tensor([True, True, True, False]), torch.tensor([False, True, True, True])
        spoiled_goal = torch.where(there[:, None], goal, NAN)
        spoiled = torch.where(here[:, None], points, NAN).requires_grad_()
        both = there & here
        cost = PointGoal(spoiled_goal, mask=there.expand(2, 4))(still(spoiled, BagScene(mask=here)))
        expected = 2 * (points - goal[:, None])[..., both, :].square().sum(-1).mean(-1)
        assert torch.allclose(cost, expected, atol=1e-5)
        for other in (ShapeGoal(spoiled_goal, mask=there.expand(2, 4)), EarthMoverGoal(spoiled_goal, mask=there.expand(2, 4))):
            total = other(still(spoiled, BagScene(mask=here)))
            assert bool(total.isfinite().all())
            cost = cost + total
        cost.sum().backward()
        assert bool(spoiled.grad.isfinite().all())

    def test_where_no_point_counts_the_cost_is_unknown(self):
        cost = PointGoal(normal(4, 3), mask=torch.tensor([True, False, False, False]))(still(normal(2, 4, 3), BagScene(mask=torch.arange(4) > 0)))
        assert bool(cost.isnan().all())

    def test_the_unsquared_mean(self):
        points, goal = normal(2, 4, 3), normal(4, 3, seed=1)
        assert torch.allclose(PointGoal(goal, norm="l2", stage=0.0)(still(points)), (points - goal).norm(dim=-1).mean(-1))

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="positions of 5 points, got a prediction of 4"):
            PointGoal(normal(5, 3))(still(normal(2, 4, 3)))
        with pytest.raises(ValueError, match="finite ones"):
            PointGoal(torch.full((4, 3), NAN))
        with pytest.raises(ValueError, match="bool mask"):
            PointGoal(normal(4, 3), mask=torch.ones(4))


class TestEarthMover:
    def test_both_methods_find_the_matching(self):
        points, goal = normal(2, 5, 4, 3), normal(2, 4, 3, seed=1)
        truth = emd(points, goal[:, None].expand(2, 5, 4, 3))
        exact = EarthMoverGoal(goal, stage=0.0)
        assert torch.allclose(exact(still(points)), truth) and float(exact.marginal_error(still(points)).max()) == 0.0
        smooth = EarthMoverGoal(goal, method="sinkhorn", stage=0.0)
        assert float(smooth.marginal_error(still(points)).max()) < 0.01
        found = smooth(still(points))
        assert torch.all(found >= truth - 1e-5) and torch.all(found <= 1.03 * truth)
        sharper = EarthMoverGoal(goal, method="sinkhorn", blur=0.004, iterations=400, stage=0.0)(still(points))
        assert float((sharper - truth).mean()) < 0.3 * float((found - truth).mean()) + 1e-6

    def test_density_matters_where_chamfer_sees_none(self):
        spread = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]])
        heaped = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]])
        assert float(ShapeGoal(spread, stage=0.0)(still(heaped))) < 1e-5
        for method, tolerance in (("exact", 1e-6), ("sinkhorn", 0.01)):
            assert float(EarthMoverGoal(spread, method=method, stage=0.0)(still(heaped))) == pytest.approx(0.25, abs=tolerance)

    def test_clouds_of_other_sizes_and_masks(self):
        points, goal = normal(2, 3, 4, 3), normal(7, 3, seed=1)
        assert EarthMoverGoal(goal, method="sinkhorn")(still(points)).shape == (2, 3)
        with pytest.raises(ValueError, match="as many valid points"):
            EarthMoverGoal(goal)(still(points))
        chosen = torch.arange(7) % 2 == 0
        for method in ("exact", "sinkhorn"):
            part = EarthMoverGoal(torch.where(chosen[:, None], goal, NAN), mask=chosen, method=method)
            assert torch.allclose(part(still(points)), EarthMoverGoal(goal[chosen], method=method)(still(points)), atol=1e-4)

    def test_blocks_change_nothing_and_a_candidate_that_diverged_spoils_no_other(self, monkeypatch):
        points, goal = normal(2, 3, 4, 3), normal(2, 4, 3, seed=1)
        lost = points.clone()
        lost[0, 1, 2, 0] = NAN
        for method in ("exact", "sinkhorn"):
            cost = EarthMoverGoal(goal, method=method)(still(points))
            with monkeypatch.context() as patch:
                patch.setattr("structwm.planning.point_goals.BLOCK", 50)
                assert torch.allclose(EarthMoverGoal(goal, method=method)(still(points)), cost, atol=1e-6)
            spoiled = EarthMoverGoal(goal, method=method)(still(lost))
            assert spoiled.isnan().nonzero().tolist() == [[0, 1]]
            assert torch.allclose(spoiled[1], cost[1])


class TestBodies:
    def test_bodies_by_name_and_number(self):
        trajectory = bag(normal(2, 3, 4, 14))
        pose = torch.tensor([0.1, 0.2, 0.3, 1.0, 0.0, 0.0, 0.0])
        assert torch.equal(PoseGoal(pose, body="lid")(trajectory), PoseGoal(pose, body=1)(trajectory))
        both = PoseGoal(torch.stack((pose, pose)), bodies=("cup", "lid"))(trajectory)
        assert torch.allclose(both, PoseGoal(pose, body="cup")(trajectory) + PoseGoal(pose, body="lid")(trajectory), atol=1e-5)
        with pytest.raises(ValueError, match="no body 'pan'; this scene has cup, lid"):
            PoseGoal(pose, body="pan")(trajectory)
        with pytest.raises(ValueError, match="no body 2; this scene has 2"):
            PoseGoal(pose, body=2)(trajectory)

    def test_weights_by_axis_agree_with_the_angle(self):
        trajectory, pose = bag(normal(2, 3, 4, 14).double()), normal(7).double()
        weighted = PoseGoal(pose, weights=torch.ones(6))(trajectory)
        assert torch.allclose(weighted, PoseGoal(pose)(trajectory), atol=1e-10)

    def test_a_turn_that_does_not_matter_is_free(self):
        turned = torch.zeros(2, 14)
        turned[:, 3], turned[:, 10] = 1.0, 1.0
        turned[1, 3], turned[1, 6] = math.cos(0.4), math.sin(0.4)
        upright = PoseGoal(turned[0, :7], weights=(1, 1, 1, 1, 1, 0), stage=0.0)
        assert float(upright(bag(turned))) < 1e-9
        assert float(PoseGoal(turned[0, :7], length=0.2, stage=0.0)(bag(turned))) == pytest.approx((0.2 * 0.8) ** 2, rel=1e-4)

    def test_twists_by_hand(self):
        numbers = torch.zeros(2, 14)
        numbers[1, 6:12] = torch.tensor([0.3, 0.0, 0.4, 0.0, 2.0, 0.0])
        assert float(TwistGoal(body=1, length=0.1, stage=0.0)(bag(numbers))) == pytest.approx(0.25 + 0.04)
        assert float(TwistGoal(bodies=(0, 1), length=0.1, stage=0.0)(bag(numbers))) == pytest.approx(0.25 + 0.04)
        with pytest.raises(ValueError, match=r"twist \(6,\) or \(B, 6\)"):
            TwistGoal(torch.zeros(7))
        with pytest.raises(ValueError, match=r"weights \(6,\) or \(K, 6\)"):
            TwistGoal(weights=(1.0, 2.0))


class TestTracks:
    def goal(self):
        return normal(4, 3, seed=1)

    def test_only_what_the_goal_shows_counts(self):
        seen = torch.tensor([1.0, 0.0, 0.5, 0.0])
        goal = torch.where((seen > 0)[:, None], self.goal(), NAN)
        points = normal(2, 4, 3)
        cost = TrackGoal(goal, visibility=seen, norm="l2", stage=0.0)(still(points))
        away = (points - self.goal()).norm(dim=-1)
        assert torch.allclose(cost, (away[:, 0] + 0.5 * away[:, 2]) / 1.5)

    def test_a_track_is_followed_and_instants_without_keypoints_add_nothing(self):
        track = normal(5, 4, 3, seed=1)
        seen = torch.ones(5, 4)
        seen[2] = 0.0
        trajectory = bag(torch.nn.functional.pad(normal(2, 7, 4, 3).flatten(-2), (0, 2)))
        error = TrackGoal(track, visibility=seen, follow=True).error(trajectory)
        held = torch.cat((track, track[-1:], track[-1:]))
        expected = (trajectory.tracks().keypoints - held).square().sum(-1).mean(-1)
        expected[:, 2] = 0.0
        assert torch.allclose(error, expected, atol=1e-5)
        assert torch.allclose(TrackGoal(track, visibility=seen, follow=True).later(3).error(trajectory)[:, 1:], _paired(trajectory, track[4])[:, 1:], atol=1e-5)

    def test_hiding_does_not_pay_unless_it_is_cheap(self):
        points = normal(2, 4, 3)
        shown, gone = still(points), still(torch.where(torch.arange(4)[:, None] > 0, points, NAN), BagScene(visibility=torch.tensor([0.0, 1.0, 1.0, 1.0])))
        near, far = (TrackGoal(self.goal(), norm="l2", hidden=hidden, stage=0.0)(gone) for hidden in (0.0, 50.0))
        cost = TrackGoal(self.goal(), norm="l2", stage=0.0)(shown)
        assert torch.all(near < cost) and torch.all(cost < far)
        away = (points - self.goal()).norm(dim=-1)
        assert torch.allclose(far, (50.0 + away[:, 1:].sum(-1)) / 4)

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="visible keypoint in every goal"):
            TrackGoal(torch.zeros(2, 4, 2), visibility=torch.tensor([[True] * 4, [False] * 4]))
        with pytest.raises(ValueError, match=r"keypoints \(4, 2\), got a prediction of \(4, 3\)"):
            TrackGoal(torch.zeros(4, 2))(still(normal(2, 4, 3)))
        with pytest.raises(ValueError, match=r"\(T, N, D\) or \(B, T, N, D\)"):
            TrackGoal(torch.zeros(4, 2), follow=True)


def _paired(trajectory, goal):
    return (trajectory.tracks().keypoints - goal).square().sum(-1).mean(-1)


class Above(Grounding):
    needs = frozenset({"points"})
    names = ("above",)

    def __call__(self, scene, state):
        return (10 * scene.points(state).positions[..., 0, 2:]).sigmoid()


class TestAtoms:
    def test_a_conjunction_by_hand(self):
        odds = torch.tensor([0.9, 0.2, 0.5], dtype=torch.float64)
        numbers = torch.nn.functional.pad(torch.logit(odds), (0, 11)).expand(2, 14)
        wanted = {"on": True, "clear": False}
        assert float(AtomGoal(wanted, form="probability", stage=0.0)(bag(numbers))) == pytest.approx(1 - 0.9 * 0.8)
        assert float(AtomGoal(wanted, stage=0.0, floor=1e-9)(bag(numbers))) == pytest.approx(-math.log(0.9 * 0.8), abs=1e-6)

    def test_what_cannot_be_costs_the_floor_and_has_a_gradient(self):
        numbers = torch.full((1, 2, 14), -800.0).requires_grad_()  # the probability is 0
        cost = AtomGoal({"on": True, "held": True}, stage=0.0)(bag(numbers))
        assert float(cost.detach()) == pytest.approx(-2 * math.log(1e-6), rel=1e-5)
        cost.backward()
        assert bool(numbers.grad.isfinite().all())

    def test_atoms_of_another_view(self):
        up, down = (bag(torch.full((1, 2, 14), value)) for value in (1.0, -1.0))
        goal = AtomGoal({"above": True}, grounding=Above())
        assert goal.needs == {"points"} and float(goal(up)) < 0.01 < float(goal(down))

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="no atom 'off'; there are on, clear, held"):
            AtomGoal({"off": True})(bag(normal(2, 14)))
        with pytest.raises(ValueError, match="each bool"):
            AtomGoal({"on": 1.0})


def test_embeddings_by_hand():
    numbers = normal(2, 14)
    goal = normal(5, seed=1)
    assert torch.allclose(EmbeddingGoal(goal, stage=0.0)(bag(numbers)), (numbers[-1, :5] - goal).square().sum())
    angle = EmbeddingGoal(goal, distance="cosine", stage=0.0)
    assert torch.allclose(angle(bag(3 * numbers)), angle(bag(numbers)))
    assert float(EmbeddingGoal(-numbers[-1, :5], distance="cosine", stage=0.0)(bag(numbers))) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="5 dimensions|7 dimensions, got a prediction of 5"):
        EmbeddingGoal(torch.ones(7))(bag(numbers))
    with pytest.raises(ValueError, match="not zero"):
        EmbeddingGoal(torch.zeros(5), distance="cosine")


class TestDisagreement:
    def test_it_is_the_spread_in_metres(self):
        trajectory = bag(normal(2, 3, 6, 5, 14))
        cost = Disagreement(stage=0.0)(trajectory)
        assert cost.shape == (2, 3)
        positions = trajectory.points().positions
        expected = (positions - positions.mean(2, keepdim=True)).square().sum(-1).mean(2).sqrt().mean(-1)  # (B, S, H+1)
        assert torch.allclose(cost, expected[..., -1]) and torch.allclose(disagreement(trajectory), expected)
        assert torch.allclose(Disagreement()(trajectory), expected[..., -1] + expected[..., 1:-1].mean(-1))

    def test_masked_points_do_not_count_and_members_that_agree_have_a_gradient(self):
        here = torch.tensor([True, True, False, True])
        positions = normal(2, 3, 6, 4, 3)
        whole = Disagreement()(still(torch.where(here[:, None], positions, NAN), BagScene(mask=here)))
        away = positions - positions.mean(2, keepdim=True)
        assert torch.allclose(whole, 2 * away.square().sum(-1).mean(2).sqrt()[..., here].mean(-1))
        alike = normal(2, 3, 1, 4, 3).expand(2, 3, 6, 4, 3).clone().requires_grad_()
        (Disagreement()(still(alike)) + Disagreement(scales={"n0": 0.1})(still(alike))).sum().backward()
        assert bool(alike.grad.isfinite().all())

    def test_coordinates_with_scales(self):
        numbers = normal(2, 3, 6, 5, 14)
        numbers[..., 3] = math.pi + 0.01 * numbers[..., 3]
        wrapped = numbers.clone()
        wrapped[..., 3] = torch.atan2(numbers[..., 3].sin(), numbers[..., 3].cos())  # jumps between -pi and pi
        found = Disagreement(scales={"n3": 0.1, "n1": 2.0}, periodic=("n3",), stage=0.0)(bag(wrapped))
        variance = numbers[..., -1, :].var(2, unbiased=False)
        assert torch.allclose(found, ((variance[..., 3] / 0.01 + variance[..., 1] / 4.0) / 2).sqrt(), atol=1e-4)
        with pytest.raises(ValueError, match="scales above 0"):
            Disagreement(scales={"n3": 0.0})

    def test_gradients(self):
        numbers = normal(1, 2, 3, 3, 14).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: Disagreement()(bag(x)) + Disagreement(scales={"n0": 0.1, "n2": 1.0})(bag(x)), (numbers,))
