"""The roles that no family fills yet, exercised by toys: beliefs, estimators, forecasters, inverse models, policies, groundings."""

import pytest
import torch

from structwm.demos.toys import DoubleIntegrator, PlanarState
from structwm.interfaces import Belief, Estimator, Forecaster, Grounding, InverseModel, Observation, Policy, Task, require_views
from structwm.noise import Noise
from structwm.planning import ActionCost, PoseGoal
from structwm.scene import ViewMissing
from tests.models import planar


class Kalman(Estimator):
    """Weighs particles by how well they explain a measured position."""

    def update(self, observation, belief, action):
        measured = observation.proprioception["position"]
        if belief is None:
            spread = Noise.from_seed(0, measured.shape[0]).normal((measured.shape[0], 64, 2))
            states = PlanarState(position=measured[:, None] + spread, velocity=torch.zeros_like(spread), batch_size=spread.shape[:2])
            return Belief(states, torch.zeros(spread.shape[:2]), observation.time)
        moved = DoubleIntegrator().step(belief.states, action[:, None].expand(-1, 64, -1))
        error = (moved.position - measured[:, None]).square().sum(-1)
        return Belief(moved, belief.log_weights - error / (2 * 0.1**2), observation.time)


class Pull(Policy):
    def act(self, belief, task):
        position = (belief.states.position * belief.weights[..., None]).sum(1)
        return (task.goal - position).clamp(-1, 1)[:, None].expand(-1, 5, -1)


class Drift(Forecaster):
    def forecast(self, state, task, horizon):
        return DoubleIntegrator().rollout(state, torch.zeros(*state.batch_size, horizon, 2))


class Push(InverseModel):
    def infer(self, state, next_state):
        return (next_state.velocity - state.velocity) / 0.1


class RightOfOrigin(Grounding):
    needs = frozenset({"points"})
    names = ("right",)

    def __call__(self, scene, state):
        return (scene.points(state).positions[..., 0] > 0).float()


def test_estimator_narrows_a_belief():
    truth = planar(3)
    first = Kalman().update(Observation(time=0.0, proprioception={"position": truth.position}), None, None)
    action = torch.zeros(3, 2)
    second = Kalman().update(Observation(time=0.1, proprioception={"position": truth.position}), first, action)
    spread = [float((b.states.position - truth.position[:, None]).norm(dim=-1).mul(b.weights).sum(-1).mean()) for b in (first, second)]
    assert spread[1] < 0.3 * spread[0]
    assert torch.allclose(second.weights.sum(-1), torch.ones(3))


def test_belief_resamples_by_weight():
    states = planar(2).unsqueeze(1).expand(2, 4).clone()
    states.position[:, 1] = 100.0
    log_weights = torch.tensor([[-1e9, 0.0, -1e9, -1e9]]).expand(2, 4)
    drawn = Belief(states, log_weights).resample(8, Noise.from_seed(0, 2))
    assert drawn.batch_size == (2, 8) and torch.all(drawn.position == 100.0)
    assert Belief.certain(planar(2)).resample(3, Noise.from_seed(0, 2)).batch_size == (2, 3)
    with pytest.raises(ValueError, match="one log weight per particle"):
        Belief(states, log_weights[:, :2])
    with pytest.raises(ValueError, match="no particle has a finite weight"):
        Belief(states, torch.full((2, 4), -float("inf")))


def test_policy_forecaster_inverse_model_and_grounding():
    state = planar(3)
    actions = Pull().act(Belief.certain(state), Task(language="go to the origin", goal=torch.zeros(3, 2)))
    assert actions.shape == (3, 5, 2)
    trajectory = Drift().forecast(state, Task(), horizon=7)
    assert trajectory.horizon == 7
    action = torch.tensor([[0.5, -0.5]]).expand(3, 2)
    assert torch.allclose(Push().infer(state, DoubleIntegrator().step(state, action)), action, atol=1e-4)
    assert RightOfOrigin().of(trajectory).shape == (3, 8, 1)


def test_missing_view_is_refused_before_work_starts():
    with pytest.raises(ViewMissing, match="PoseGoal needs the view 'poses', which PlanarScene does not offer"):
        require_views(DoubleIntegrator().scene, PoseGoal(torch.tensor([0.0, 0, 0, 1, 0, 0, 0])))


def test_objectives_are_summed_by_sum():
    terms = [ActionCost(), 2.0 * ActionCost(), 3.0 * ActionCost()]
    assert [weight for weight, _ in sum(terms).terms] == [1.0, 2.0, 3.0]
    with pytest.raises(TypeError):
        1 + ActionCost()
