import math

import numpy as np
import pytest
import torch

from structwm import Residual, disagreement
from structwm.data import Episode
from structwm.demos.toys import DoubleIntegrator, Pendulum, PendulumState, PlanarState
from structwm.training import Batch, DeltaModel, EpisodeWindows, FitSettings, NetworkCorrection, fit_ensemble, fit_residual, load_model, open_loop_errors
from structwm.training.residual import paired_gain
from structwm.training.windows import episodes_of, select

from .pendulums import network, swings

SETTINGS = FitSettings(steps=200, batch=64, learning_rate=4e-3, evaluate_every=50, accelerator="cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def correction(windows: Batch) -> NetworkCorrection:
    return NetworkCorrection(network(windows))


def test_a_correction_of_a_wrong_model_is_learned_and_kept() -> None:
    wrong, train, held = Pendulum(length=1.5), swings(256, 6, seed=0), swings(128, 6, seed=1)
    result = fit_residual(wrong, correction(train), train, held_out=held, settings=SETTINGS, progress=False)
    assert result.kept and isinstance(result.model, Residual)
    assert result.gain > 3 * result.standard_error > 0
    test = swings(64, 6, seed=2)
    assert float(open_loop_errors(result.model, test).relative().mean()) < 0.3 * float(open_loop_errors(wrong, test).relative().mean())


def test_a_correction_of_a_right_model_is_dropped() -> None:
    """The pendulum is exact, so that all there is to learn is the noise put on the training states."""
    train, held = swings(32, 6, seed=0), swings(128, 6, seed=1)
    generator = torch.Generator().manual_seed(0)
    train.states.rate[:, 1:] += 0.3 * torch.randn(train.states.rate[:, 1:].shape, generator=generator)
    held.states.rate[:, 1:] += 0.3 * torch.randn(held.states.rate[:, 1:].shape, generator=generator)
    right = Pendulum()
    result = fit_residual(right, correction(train), train, held_out=held, settings=SETTINGS, progress=False)
    assert not result.kept and result.model is right


def test_the_base_is_not_trained() -> None:
    train = swings(64, 4, seed=0)
    base = network(train)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    fit_residual(base, correction(train), train, held_out=swings(16, 4, seed=1), settings=FitSettings(steps=5, accelerator="cpu"), progress=False)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_a_run_does_not_go_on_with_another_base(tmp_path) -> None:
    train, settings = swings(64, 4, seed=0), FitSettings(steps=4, accelerator="cpu")
    first, second = network(train, seed=1), network(train, seed=2)
    before = second.state_dict()["network.0.weight"].clone()
    fit_residual(first, correction(train), train, held_out=swings(16, 4, seed=1), settings=settings, run=tmp_path, progress=False)
    with pytest.raises(ValueError, match="frozen"):
        fit_residual(second, correction(train), train, held_out=swings(16, 4, seed=1), settings=settings, run=tmp_path, progress=False)
    assert torch.equal(second.state_dict()["network.0.weight"], before)


class Breaks(torch.nn.Module):
    """A correction that is right, and no number where the pendulum swings fast."""

    def forward(self, state, action, following):
        right = Pendulum().step(state, action)
        broken = torch.where(state.rate.abs() > 2.5, torch.nan, 0.0)
        return {name: getattr(right, name) - getattr(following, name) + broken for name in ("angle", "rate")}


def test_a_correction_that_breaks_somewhere_is_no_gain() -> None:
    gain, _ = paired_gain(Pendulum(length=1.5), Residual(Pendulum(length=1.5), Breaks()), swings(64, 6, seed=0))
    assert gain == -math.inf


def test_the_gate_judges_episodes_of_its_own() -> None:
    """Windows that overlap stand on one side, and many windows of few episodes are not many observations."""
    batch = swings(8, 20, seed=0)
    episodes = [
        Episode.from_steps({name: getattr(states, name).numpy() for name in ("angle", "rate")}, actions.numpy(), dt=0.05)
        for states, actions in zip(batch.states, batch.actions, strict=True)
    ]
    windows = EpisodeWindows(episodes, PendulumState, horizon=5)
    few = select(windows, np.flatnonzero(episodes_of(windows) < 3).tolist())
    assert len(windows) == 8 * 16 and np.unique(episodes_of(few)).tolist() == [0, 1, 2]
    base, other = Pendulum(length=1.5), Pendulum(length=1.4)
    gain, error = paired_gain(base, other, windows)
    apart = open_loop_errors(base, windows[:]).relative() - open_loop_errors(other, windows[:]).relative()
    assert gain == pytest.approx(float(apart.mean()), rel=1e-4)
    assert error > 1.5 * float(apart.std()) / len(windows) ** 0.5
    with pytest.raises(ValueError, match="at least four held-out episodes, half of them for its gate, got 3"):
        fit_residual(base, correction(batch), batch, held_out=few, progress=False)


def walks(count: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    start = PlanarState(position=torch.rand(count, 2, generator=generator) - 0.5, velocity=torch.rand(count, 2, generator=generator) - 0.5, batch_size=[count])
    actions = torch.rand(count, 6, 2, generator=generator) * 2 - 1
    return Batch(DoubleIntegrator().rollout(start, actions).states, actions, torch.ones(count, 7, dtype=torch.bool))


def test_an_ensemble_is_less_sure_away_from_its_data(tmp_path) -> None:
    """Members disagree, in metres, several times as much about starts ten times as far out and as fast as any they saw."""
    train, held = walks(256, 0), walks(64, 1)
    settings = FitSettings(steps=150, batch=64, learning_rate=4e-3, evaluate_every=50, accelerator="cpu")

    def make(member: int) -> DeltaModel[PlanarState]:
        return DeltaModel.like(DoubleIntegrator(), train, hidden=(24, 24))

    result = fit_ensemble(make, train, held_out=held, members=3, settings=settings, run=tmp_path, progress=False)
    near, far = held.start, held.start.replace(position=10 * held.start.position, velocity=10 * held.start.velocity)
    spread = [disagreement(result.model.rollout(s.unsqueeze(1).expand(len(held), 3), held.actions))[:, -1].mean() for s in (near, far)]
    assert float(spread[1].detach()) > 5 * float(spread[0].detach()) > 0
    errors = open_loop_errors(result.model, held)
    assert float(errors.relative().mean()) < min(float(open_loop_errors(one.model, held).relative().mean()) for one in result.fitted) * 1.2
    assert errors.spread is not None and errors.disagreement is not None
    again = load_model(tmp_path)
    assert torch.equal(again.members[2].network[0].weight, result.model.members[2].network[0].weight)
    assert not torch.equal(again.members[2].network[0].weight, again.members[1].network[0].weight)
