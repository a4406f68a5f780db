"""Specs, noise, scenes, trajectories, ensembles and wrappers, one by one."""

import math

import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from structwm.demos import toys
from structwm.ensemble import Ensemble, Propagation, disagreement
from structwm.noise import Noise
from structwm.scene import Scene, ViewMissing
from structwm.spec import ActionSpec, HybridAction, ModelSpec
from structwm.state import fields_of
from structwm.wrappers import Chunked, Normalised, Residual
from tests.models import damped, members, normal, pendulum, planar


class TestActionSpec:
    def test_box_names_bounds_and_projection(self):
        spec = ActionSpec.box([-1.0, 0.0], [1.0, 2.0], names=("x", "y"), units=("m/s", "m/s"))
        assert (spec.kind, spec.size, spec.choices) == ("continuous", 2, 0)
        projected = spec.project(torch.tensor([[5.0, -5.0]]))
        assert projected.tolist() == [[1.0, 0.0]]
        spec.check(projected)

    @pytest.mark.parametrize(
        ("action", "words"),
        [
            (torch.tensor([[2.0, 0.0]]), r"x must lie in \[-1, 1\], got 2 at \[0\]"),
            (torch.tensor([[0.0, math.nan]]), "y must lie in"),
            (torch.zeros(3), "2 numbers on its last axis"),
            (HybridAction(index=torch.zeros(1, dtype=torch.int64), parameters=torch.zeros(1, 2), batch_size=[1]), "Expected a continuous action"),
        ],
    )
    def test_actions_outside_are_refused_by_name(self, action, words):
        with pytest.raises(ValueError, match=words):
            ActionSpec.box(-1.0, 1.0, 2, names=("x", "y")).check(action)

    def test_discrete_and_hybrid(self):
        assert ActionSpec.discrete(("left", "right")).choices == 2
        with pytest.raises(ValueError, match="lies in 0..1"):
            ActionSpec.discrete(2).check(torch.tensor([2]))
        with pytest.raises(ValueError, match="int64"):
            ActionSpec.discrete(2).check(torch.tensor([0.5]))
        hybrid = ActionSpec(spaces.Tuple((spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,)))))
        assert (hybrid.kind, hybrid.size, hybrid.choices) == ("hybrid", 2, 3)
        hybrid.check(HybridAction(index=torch.tensor([2]), parameters=torch.zeros(1, 2), batch_size=[1]))

    def test_what_is_no_action_space_is_refused(self):
        with pytest.raises(ValueError, match="one axis"):
            ActionSpec(spaces.Box(-1.0, 1.0, (2, 2)))
        with pytest.raises(ValueError, match="choices counted from 0"):
            ActionSpec(spaces.Discrete(3, start=5))
        with pytest.raises(ValueError, match="takes Box, Discrete"):
            ActionSpec(spaces.MultiBinary(3))
        with pytest.raises(ValueError, match="3 names for 2 entries"):
            ActionSpec.box(-1.0, 1.0, 2, names=("a", "b", "c"))
        with pytest.raises(ValueError, match="dt must be positive"):
            ModelSpec(toys.PlanarState, ActionSpec.box(-1.0, 1.0, 2), dt=0.0)


class TestNoise:
    def test_problems_draw_alone_what_they_draw_together(self):
        together = Noise.from_seed(7, 4, step=3).normal((4, 5, 2))
        for b in range(4):
            assert torch.equal(Noise.from_seed(7 + b, 1, step=3).normal((1, 5, 2))[0], together[b])

    @given(seed=st.integers(-(2**62), 2**62), step=st.integers(0, 1000), draw=st.integers(0, 50))
    @settings(max_examples=30, deadline=None)
    def test_every_part_of_the_key_counts(self, seed, step, draw):
        base = Noise.from_seed(seed, 2, step=step, draw=draw)
        numbers = base.normal((2, 8))
        assert torch.equal(numbers, base.normal((2, 8)))
        for other in (base.at(step + 1), base.stream(draw + 1), Noise.from_seed(seed + 5, 2, step=step, draw=draw), base.child(0)):
            assert not torch.equal(numbers, other.normal((2, 8)))
        assert not torch.equal(numbers[0], numbers[1])

    def test_moments(self):
        numbers = Noise.from_seed(0, 50).normal((50, 4000))
        assert abs(float(numbers.mean())) < 0.01
        assert abs(float(numbers.std()) - 1.0) < 0.01
        uniform = Noise.from_seed(0, 50).uniform((50, 4000))
        assert float(uniform.min()) >= 0.0 and float(uniform.max()) < 1.0
        assert abs(float(uniform.mean()) - 0.5) < 0.01

    def test_shared_axes(self):
        numbers = Noise.from_seed(0, 2).sharing(1).normal((2, 3, 4))
        assert torch.equal(numbers[:, 0], numbers[:, 2])
        assert torch.equal(numbers[:, :1], Noise.from_seed(0, 2).sharing(1).normal((2, 1, 4)))

    def test_wrong_problem_count_is_refused(self):
        with pytest.raises(ValueError, match="2 problems"):
            Noise.from_seed(0, 2).normal((3, 4))
        with pytest.raises(ValueError, match=r"shape \(2,\)"):
            Noise.from_seed(torch.zeros(3, dtype=torch.int64), 2)


class TestScene:
    def test_default_coordinates_follow_the_fields(self):
        state, scene = planar(3), Scene()
        assert scene.coordinates(state).shape == (3, 4)
        assert scene.coordinate_names(state) == ("position[0]", "position[1]", "velocity[0]", "velocity[1]")
        assert Scene().coordinate_names(pendulum(2)) == ("angle", "rate")
        assert scene.views == {"coordinates"}

    def test_missing_view_names_scene_and_view(self):
        with pytest.raises(ViewMissing, match="Scene offers no view 'poses'; it offers coordinates"):
            Scene().poses(planar(2))

    def test_decoders_offer_views(self):
        scene = Scene(decoders={"embedding": lambda state: state.position, "signed_distance": lambda state, points: points[..., 0]})
        assert scene.views == {"coordinates", "embedding", "signed_distance"}
        assert scene.embedding(planar(3)).shape == (3, 2)
        assert scene.signed_distance(planar(3), torch.zeros(3, 5, 3)).shape == (3, 5)
        with pytest.raises(ValueError, match="sounds, which is no view"):
            Scene(decoders={"sounds": lambda state: state.position})


class TestRollout:
    def test_trajectory_of_a_double_integrator(self):
        state = toys.PlanarState(position=torch.zeros(1, 2), velocity=torch.zeros(1, 2), batch_size=[1])
        actions = torch.tensor([1.0, 0.0]).expand(1, 10, 2)
        trajectory = toys.DoubleIntegrator(0.1).rollout(state, actions)
        assert trajectory.horizon == 10
        assert trajectory.times[0].tolist() == pytest.approx([0.1 * t for t in range(11)])
        assert trajectory.coordinates()[0, -1].tolist() == pytest.approx([0.5, 0.0, 1.0, 0.0], abs=1e-5)  # x = a t^2 / 2
        assert trajectory.points().positions.shape == (1, 11, 1, 3)
        assert trajectory[0].batch_shape == () and trajectory.unsqueeze(1).batch_shape == (1, 1)
        with pytest.raises(ViewMissing):
            trajectory.splats()

    def test_batch_axes_broadcast(self):
        model = toys.DoubleIntegrator()
        assert model.rollout(planar(3), torch.zeros(4, 2)).batch_shape == (3,)
        assert model.rollout(planar(3).unsqueeze(1), torch.zeros(3, 5, 4, 2)).batch_shape == (3, 5)
        with pytest.raises(ValueError, match=r"\(3,\) and the actions' \(2,\) do not broadcast"):
            model.rollout(planar(3), torch.zeros(2, 4, 2))
        with pytest.raises(ValueError, match="takes PlanarState, got PendulumState"):
            model.rollout(pendulum(3), torch.zeros(3, 4, 2))
        with pytest.raises(ValueError, match="H >= 1"):
            model.rollout(planar(3), torch.zeros(3, 0, 2))

    def test_skills_take_their_time_and_inapplicable_ones_end_validity(self):
        rooms = toys.RoomState(room=torch.tensor([0, 1]), batch_size=[2])
        trajectory = toys.Corridor(6).rollout(rooms, torch.tensor([[1, 1, 1], [1, 2, 0]]))
        assert trajectory.states.room.tolist() == [[0, 1, 2, 3], [1, 2, 2, 1]]
        assert trajectory.valid.tolist() == [[True] * 4, [True, True, False, False]]
        assert trajectory.times.tolist() == [[0.0, 4.0, 8.0, 12.0], [0.0, 4.0, 4.0, 8.0]]
        ride = toys.Corridor(6).rollout(rooms[:1], torch.tensor([[2]]))
        assert (ride.states.room[0, -1], ride.times[0, -1]) == (5, 30.0)

    def test_history_cold_start_is_masked(self):
        model = toys.HistoryIntegrator(context=3)
        cold, warm = model.from_history(torch.zeros(1, 1, 2)), model.from_history(torch.tensor([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]]))
        assert cold.known.tolist() == [[False, False, True]]
        still = torch.zeros(1, 2)
        assert model.step(cold, still).history[0, -1].tolist() == [0.0, 0.0]
        assert model.step(warm, still).history[0, -1].tolist() == [3.0, 0.0]

    def test_rewards_where_the_model_predicts_them(self):
        trajectory = toys.CartPole().rollout(toys.CartPoleState(cart=torch.zeros(2, 2), pole=torch.zeros(2, 2), batch_size=[2]), torch.zeros(2, 5, 1))
        assert trajectory.reward.shape == trajectory.continue_probability.shape == (2, 5)
        assert trajectory.value is None
        assert torch.allclose(trajectory.reward, torch.ones(2, 5))

    def test_second_rollout_leaves_the_first(self):
        model = toys.DoubleIntegrator()
        first = model.rollout(planar(3), torch.zeros(3, 4, 2))
        kept = first.states.clone()
        model.rollout(planar(3), torch.ones(3, 4, 2))
        assert all(torch.equal(a, b) for a, b in zip(fields_of(kept).values(), fields_of(first.states).values(), strict=True))


class TestEnsemble:
    def rollout(self, propagation, noise=None):
        model = Ensemble([damped(0.0), damped(0.5)], propagation=propagation)
        return model.rollout(members(planar(4), 2), 0.5 * normal(4, 10, 2).clamp(-1, 1), noise=noise)

    def test_fixed_members_are_their_models(self):
        actions = 0.5 * normal(4, 10, 2).clamp(-1, 1)
        trajectory = self.rollout("fixed_member")
        assert trajectory.batch_shape == (4, 2) and trajectory.actions.shape == (4, 2, 10, 2)
        for e, rate in enumerate((0.0, 0.5)):
            assert torch.allclose(trajectory.coordinates()[:, e], damped(rate).rollout(planar(4), actions).coordinates())

    def test_random_members_are_dealt_evenly_and_by_noise(self):
        one, again = (self.rollout("random_member", Noise.from_seed(3, 4)).coordinates() for _ in range(2))
        assert torch.equal(one, again)
        assert not torch.allclose(one, self.rollout("fixed_member").coordinates())
        first = self.rollout("random_member", Noise.from_seed(3, 4)).states[..., 1].velocity.sort(1).values
        assert torch.allclose(first, self.rollout("fixed_member").states[..., 1].velocity.sort(1).values)

    def test_mean_propagation_keeps_particles_together(self):
        coordinates = self.rollout(Propagation.MEAN).coordinates()
        assert torch.allclose(coordinates[:, 0], coordinates[:, 1])

    def test_disagreement_grows_in_metres(self):
        spread = disagreement(self.rollout("fixed_member"))
        assert spread.shape == (4, 11) and torch.all(spread[:, 0] == 0) and torch.all(spread[:, -1] > 1e-3)
        assert torch.all(disagreement(self.rollout("mean")) < 1e-6)

    def test_members_must_agree_on_the_spec(self):
        with pytest.raises(ValueError, match="member 1 differs"):
            Ensemble([toys.DoubleIntegrator(), toys.DoubleIntegrator(0.2)])
        with pytest.raises(ValueError, match="at least one"):
            Ensemble([])
        with pytest.raises(ValueError, match="2 members, so its states end with that axis"):
            Ensemble([damped(0.0), damped(0.1)]).rollout(planar(3), torch.zeros(3, 4, 2))


class TestWrappers:
    def test_residual_adds_and_refuses_unknown_fields(self):
        assert torch.allclose(damped(1.0).step(planar(3), torch.zeros(3, 2)).velocity, torch.zeros(3, 2))
        with pytest.raises(ValueError, match="returned speed"):
            Residual(toys.DoubleIntegrator(), lambda s, a, n: {"speed": n.velocity}).step(planar(3), torch.zeros(3, 2))

    def test_normalised_scales_in_and_out(self):
        same = Normalised(toys.DoubleIntegrator(), action=ActionSpec.box(-1.0, 1.0, 2), mean={"position": torch.ones(2)}, std={"position": torch.tensor(1.0)})
        state, action = planar(3), 0.3 * torch.ones(3, 2)
        assert torch.allclose(same.step(state, action).position, toys.DoubleIntegrator().step(state, action).position, atol=1e-6)
        with pytest.raises(ValueError, match="positive std for position"):
            Normalised(toys.DoubleIntegrator(), action=ActionSpec.box(-1.0, 1.0, 2), mean={"position": torch.ones(2)}, std={"position": torch.zeros(2)})

    def test_chunk_is_its_steps(self):
        model, actions = toys.DoubleIntegrator(), 0.3 * normal(3, 6, 2).clamp(-1, 1)
        chunked = Chunked(model, 3).rollout(planar(3), actions.reshape(3, 2, 6))
        assert torch.allclose(chunked.coordinates()[:, -1], model.rollout(planar(3), actions).coordinates()[:, -1], atol=1e-6)
        assert chunked.times[0].tolist() == pytest.approx([0.0, 0.3, 0.6])
        rewards = Chunked(toys.CartPole(), 2).rollout(toys.CartPoleState(cart=torch.zeros(1, 2), pole=torch.zeros(1, 2), batch_size=[1]), torch.zeros(1, 3, 2))
        assert torch.allclose(rewards.reward, torch.full((1, 3), 2.0))
