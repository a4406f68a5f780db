"""`check_model` catches seeded faults, each with a sentence."""

import pytest
import torch

from structwm.check import ModelCheckError, check_model
from structwm.demos.toys import DoubleIntegrator, NoisyIntegrator, PlanarState
from structwm.state import State
from structwm.transition import TransitionModel
from tests.models import planar


class Mutating(DoubleIntegrator):
    def step(self, state, action, *, noise=None):
        state.velocity.add_(0.1 * action)
        return PlanarState(position=state.position + 0.1 * state.velocity, velocity=state.velocity.clone(), batch_size=state.batch_size)


class Aliasing(DoubleIntegrator):
    def __init__(self):
        super().__init__()
        self.buffer = {}

    def step(self, state, action, *, noise=None):
        following = super().step(state, action)
        key = tuple(following.batch_size)
        kept = self.buffer.setdefault(key, torch.empty_like(following.position))
        kept.copy_(following.position)
        return following.replace(position=kept)


class Deaf(DoubleIntegrator):
    def step_fields(self, fields, action, *, noise=None):
        return super().step_fields(fields, torch.zeros_like(action))


class NotFinite(DoubleIntegrator):
    def step_fields(self, fields, action, *, noise=None):
        following = super().step_fields(fields, action)
        return {**following, "velocity": (following["velocity"] - 10.0).log()}


class WrongBatch(DoubleIntegrator):
    def step_fields(self, fields, action, *, noise=None):
        following = super().step_fields(fields, action)
        return {**following, "position": following["position"] - following["position"].mean(0, keepdim=True)}


class Forgetful(DoubleIntegrator):
    def step(self, state, action, *, noise=None):
        return super().step(state, action)[:1]


class Hidden(DoubleIntegrator):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def step_fields(self, fields, action, *, noise=None):
        self.calls += 1
        following = super().step_fields(fields, action)
        return {**following, "position": following["position"] + 0.01 * self.calls}


class Boundless(DoubleIntegrator):
    def prepare(self, state, actions):
        return state, actions


class Detached(DoubleIntegrator):
    def step_fields(self, fields, action, *, noise=None):
        following = super().step_fields(fields, action)
        return {**following, "velocity": following["velocity"] + 0.5 * fields["velocity"].detach()}


class Silent(NoisyIntegrator):
    def step_fields(self, fields, action, *, noise=None):
        return super().step_fields(fields, action)


class OtherRollout(DoubleIntegrator):
    def roll(self, state, actions, *, noise=None):
        return super().roll(state, 0.5 * actions, noise=noise)


FAULTS = [
    (Mutating, "purity", "changed its input state"),
    (Aliasing, "aliasing", "reused buffer"),
    (Deaf, "action matters", "does not depend on the action"),
    (NotFinite, "finite", "not finite"),
    (WrongBatch, "batch", "must not see each other"),
    (Forgetful, "shapes", "expected (6,)"),
    (Hidden, "determinism", "hidden state"),
    (Boundless, "bounds", "rollout accepts"),
    (Detached, "gradients", "finite differences"),
    (Silent, "noise", "two noise seeds"),
    (OtherRollout, "rollout", "disagree at step 1"),
]


@pytest.mark.parametrize(("model", "check", "words"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_fault_is_caught_with_a_sentence(model, check, words):
    findings = {finding.check: finding for finding in check_model(model(), planar(6), raise_on_failure=False)}
    assert findings[check].message is not None
    assert words in findings[check].message


def test_failure_raises_and_lists_what_failed():
    with pytest.raises(ModelCheckError, match="(?s)Deaf breaks the contract.*action matters"):
        check_model(Deaf(), planar(6))


def test_start_states_must_fit():
    with pytest.raises(ModelCheckError, match="B >= 2"):
        check_model(DoubleIntegrator(), planar(1))


def test_model_without_step_is_refused():
    class Empty(TransitionModel):
        pass

    with pytest.raises(TypeError, match="neither step"):
        Empty()


def test_field_named_after_a_view_is_refused():
    with pytest.raises(TypeError, match="named after a view: poses"):

        class Clash(State):
            poses: torch.Tensor
