"""Residuals on twins of particles: rods under other parameters play the truth, and the residual learns the difference."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from structwm.check import check_model
from structwm.ensemble import Ensemble
from structwm.physics import (
    FittedParticleResidual,
    Parameter,
    ParticleResidual,
    Recording,
    ResidualSettings,
    Rod,
    RodTwin,
    TrackMeasurement,
    Twin,
    fit_particle_residual,
    rod_recording,
)
from structwm.scene import Scene
from structwm.spec import ActionSpec, ModelSpec, Traits
from structwm.state import Points, State
from structwm.training import load_model, model_facts, save_model

pytestmark = pytest.mark.usefixtures("one_thread")

DT = 0.02
ROD = Rod.even(0.6, 7, driven=(0, 1, -2, -1))
TWIN = RodTwin(ROD, dt=DT, substeps=2)
TRUTH = TWIN.with_parameters({"bend_stiffness": 4e-3, "drag": 1.5, "length": 1.03})
RIDGE = ResidualSettings(features=64, seed=1)
RECURRENT = ResidualSettings(steps=120, hidden=24, evaluations=10, rounds=8, seed=1)


def swings(twin: RodTwin, count: int, seed: int, *, frames: int = 60, speed: float = 0.5) -> Tensor:
    """Tracks (N, T, V, 3) of rods that hang between two hands, each of which swings in its own way."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.linspace(0, 1, ROD.vertices, dtype=torch.float64)
    hanging = TWIN.state(torch.stack((0.4 * share, 0 * share, -0.19 * (math.pi * share).sin()), -1))
    time = DT * torch.arange(frames, dtype=torch.float64)
    rate, phase = (low + scale * torch.rand(count, 2, 3, generator=generator, dtype=torch.float64) for low, scale in ((3.0, 5.0), (0.0, 2 * math.pi)))
    pace = speed * (rate.unsqueeze(-1) * time + phase.unsqueeze(-1)).sin() * torch.tensor([0.3, 1.0, 1.0], dtype=torch.float64)[:, None]
    hands = pace.permute(0, 3, 1, 2).repeat_interleave(2, 2)  # (N, T, 4, 3)
    with torch.no_grad():
        start = TWIN.with_parameters({"drag": 10.0}).rollout(hanging, torch.zeros(100, 12)).states.positions[-1]
        tracks: Tensor = twin.rollout(twin.state(start.expand(count, -1, -1)), hands.flatten(2)).states.positions
    return tracks


def error(model: Twin | ParticleResidual, tracks: Tensor) -> float:
    recording = rod_recording(TWIN, tracks)
    with torch.no_grad():
        found = model.rollout(recording.state, recording.actions).states.positions[:, 1:]
    return float((found - tracks[:, 2:]).abs().mean())


@pytest.fixture(scope="module")
def ridge() -> FittedParticleResidual:
    return fit_particle_residual(TWIN, swings(TRUTH, 32, 0), parameters=("bend_stiffness", "drag"), settings=RIDGE, progress=False)


@pytest.fixture(scope="module")
def recurrent() -> FittedParticleResidual:
    return fit_particle_residual(TWIN, swings(TRUTH, 32, 0), method="recurrent", settings=RECURRENT, progress=False)


@pytest.fixture(params=["ridge", "recurrent"])
def model(request: pytest.FixtureRequest) -> ParticleResidual:
    found = request.getfixturevalue(request.param).model
    assert isinstance(found, ParticleResidual)
    return found


@pytest.mark.parametrize(("method", "share"), [("ridge", 0.7), ("recurrent", 0.7)])
def test_the_difference_between_rods_is_learned(method: str, share: float, request: pytest.FixtureRequest) -> None:
    fitted, test = request.getfixturevalue(method), swings(TRUTH, 16, 7)
    assert fitted.kept and fitted.gain > 3 * fitted.standard_error > 0
    assert error(fitted.model, test) < share * error(TWIN, test)
    assert 0.3 * fitted.gain < error(TWIN, test) - error(fitted.model, test) < 3 * fitted.gain  # what held-out runs promised


def test_a_step_is_a_rollout_of_one_and_axes_are_free(model: ParticleResidual) -> None:
    recording = rod_recording(TWIN, swings(TRUTH, 2, 8))
    start, actions = model.state(recording.state), recording.actions[:, :12]
    together = model.rollout(start, actions).states
    assert bool((together.trust == 1).all()) and float((together.positions - TWIN.rollout(recording.state, actions).states.positions).abs().max()) > 1e-3
    state = start
    for k in range(12):
        state = model.step(state, actions[:, k])
        for name in ("positions", "velocities", "base", "memory", "trust"):
            torch.testing.assert_close(getattr(state, name), getattr(together[:, k + 1], name), rtol=1e-4, atol=2e-6)
    later = model.rollout(together[:, 5], actions[:, 5:]).states
    torch.testing.assert_close(later.positions, together.positions[:, 5:], rtol=0, atol=1e-6)
    alone = model.rollout(start[1], actions[1]).states.positions
    torch.testing.assert_close(alone, together.positions[1], rtol=0, atol=1e-6)
    grid = model.rollout(start.unsqueeze(1), actions.unsqueeze(1).expand(2, 3, 12, 12)).points().positions
    torch.testing.assert_close(grid[:, 2], together.positions, rtol=0, atol=1e-6)
    pace = (together.positions[:, 1:] - together.positions[:, :-1]) / DT
    plain = TWIN.rollout(recording.state, actions).states
    expected = together.velocities[:, 1:] - plain.velocities[:, 1:] + (plain.positions[:, 1:] - plain.positions[:, :-1]) / DT
    torch.testing.assert_close(pace, expected, rtol=0, atol=1e-6)
    driven = list(ROD.driven)
    assert torch.equal(together.positions[:, :, driven], plain.positions[:, :, driven])


def test_it_keeps_the_contract(model: ParticleResidual) -> None:
    start = rod_recording(TWIN, swings(TRUTH, 6, 9)).state.apply(lambda value: value.float())
    assert all(finding.passed for finding in check_model(model, model.state(start)))
    assert model.scene.views == TWIN.scene.views and model.scene.coordinate_names(model.state(start)) == TWIN.scene.coordinate_names(start)


def test_gradients_within_the_training_inputs(model: ParticleResidual) -> None:
    """By the actions, against central differences, where the correction counts (`check_model` draws actions far outside)."""
    recording = rod_recording(TWIN, swings(TRUTH, 1, 10))
    double = copy.deepcopy(model).double()
    start, actions = double.state(recording.state), recording.actions[:, :6].clone().requires_grad_()
    weight = torch.randn(1, 7, ROD.vertices, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(u: Tensor) -> Tensor:
        states = double.roll(start, u).states
        return ((states.positions + 0.1 * states.velocities) * weight).sum()

    slope = torch.autograd.grad(loss(actions), actions)[0]
    kick = torch.randn(actions.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        numeric = float(loss(actions + 1e-5 * kick) - loss(actions - 1e-5 * kick)) / 2e-5
    assert float((slope * kick).sum()) == pytest.approx(numeric, rel=1e-4)


def test_it_is_saved_and_loaded(model: ParticleResidual, ridge: FittedParticleResidual, tmp_path) -> None:
    recording = rod_recording(TWIN, swings(TRUTH, 2, 11))
    again = load_model(save_model(model, tmp_path / "rope", facts=ridge.facts))
    first, second = (one.rollout(recording.state, recording.actions).states for one in (model, again))
    assert torch.equal(first.positions, second.positions) and torch.equal(first.memory, second.memory)
    assert model_facts(tmp_path / "rope")["kept"] is True


def test_a_correction_of_the_truth_is_dropped() -> None:
    """What is left to learn is noise, and the model is the twin."""
    tracks = swings(TWIN, 24, 0)
    tracks[:, 2:, 2:5] += 0.01 * torch.randn(24, 59, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for method in ("ridge", "recurrent"):
        settings = ResidualSettings(features=16, rounds=1, ridge_rounds=1, jitter=0.0, steps=20, hidden=8, evaluations=4)
        fitted = fit_particle_residual(TWIN, tracks, method=method, settings=settings, progress=False)
        assert not fitted.kept and fitted.model is TWIN and fitted.why.startswith("dropped")
        assert abs(fitted.gain) < 2e-4


def test_few_runs_are_not_judged() -> None:
    fitted = fit_particle_residual(TWIN, swings(TRUTH, 3, 0), settings=RIDGE, progress=False)
    assert not fitted.kept and "3 held-out runs tell nothing, 4 are needed" in fitted.why


def test_far_from_the_training_physics_decides(model: ParticleResidual) -> None:
    """Hands forty times as fast as any that were seen: the twin's own prediction, from then on until the memory has had time to forget."""
    recording = rod_recording(TWIN, swings(TRUTH, 4, 12))
    actions = recording.actions.clone()
    actions[:, 20:25] = 20.0
    actions[:, 25:] = 0.0
    with torch.no_grad():
        states, plain = model.rollout(recording.state, actions).states, TWIN.rollout(recording.state, actions).states
    change = (states.positions - plain.positions).norm(dim=-1).amax(-1)
    assert float(change[:, 1:20].max()) > 2e-3 and bool((states.trust[:, :20] == 1).all())
    assert float(states.trust[:, 22:26].max()) == 0.0 and float(change[:, 22:26].max()) == 0.0
    assert bool((states.trust.diff(dim=1) <= 1 / model.correction.recovery + 1e-6).all())


def test_it_turns_moves_and_mirrors_with_the_scene(model: ParticleResidual) -> None:
    recording = rod_recording(TWIN, swings(TRUTH, 3, 13))
    c, s = math.cos(2.0), math.sin(2.0)
    turn = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    mirror = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    plain = model.rollout(recording.state, recording.actions).states.positions
    for matrix in (turn, mirror, turn @ mirror):
        place = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
        start = TWIN.state(recording.state.positions @ matrix.T + place, recording.state.velocities @ matrix.T)
        actions = (recording.actions.unflatten(-1, (4, 3)) @ matrix.T).flatten(-2)
        moved = model.rollout(start, actions).states.positions
        torch.testing.assert_close(moved, plain @ matrix.T + place, rtol=0, atol=5e-6)


def test_members_and_ensembles(ridge: FittedParticleResidual, recurrent: FittedParticleResidual) -> None:
    recording = rod_recording(TWIN, swings(TRUTH, 2, 14))
    first = ridge.model
    assert isinstance(first, ParticleResidual)
    other = ParticleResidual(TWIN.with_parameters({"drag": 0.3}), first.correction, first.layout)
    pair = Ensemble([first, other], propagation="mean")
    start = first.state(recording.state).unsqueeze(1).expand(2, 2)
    assert pair.rollout(start, recording.actions[:, :5]).points().positions.shape == (2, 2, 6, 7, 3)
    drawn = ParticleResidual(TWIN.with_parameters({"drag": torch.tensor([0.2, 0.3])}), first.correction, first.layout)
    assert drawn.spec.members == 2
    members = drawn.rollout(recording.state.unsqueeze(1).expand(2, 2), recording.actions).states.positions
    for k, one in enumerate((first, other)):
        torch.testing.assert_close(members[:, k], one.rollout(recording.state, recording.actions).states.positions, rtol=0, atol=1e-5)


class FallingState(State):
    positions: Tensor  # (*B, V, 3) [m]
    velocities: Tensor  # (*B, V, 3) [m/s]


class FallingScene(Scene):
    def points(self, state: FallingState) -> Points:
        return Points(positions=state.positions, batch_size=state.batch_size)


class Falling(Twin[FallingState]):
    """Three particles that fall in a wind; no rod, and none is driven."""

    def __init__(self, values: dict[str, Tensor | float] | None = None) -> None:
        self.physical = {"drag": Parameter("drag", "1/s", 0.5, 0.0, 10.0, "linear", 0.2)}
        super().__init__(values)
        self.spec = ModelSpec(FallingState, ActionSpec.box(-5.0, 5.0, 3), 0.05, traits=Traits(differentiable=True))
        self.scene = FallingScene(point_names=("a", "b", "c"))

    def step(self, state: FallingState, action: Tensor, *, noise: object = None) -> FallingState:
        pull = self.values["drag"].to(state.positions) * (action.unsqueeze(-2) - state.velocities) - state.positions.new_tensor([0.0, 0.0, 1.0])
        velocities = state.velocities + 0.05 * pull
        return FallingState(positions=state.positions + 0.05 * velocities, velocities=velocities, batch_size=state.batch_size)


def test_particles_that_are_no_rod() -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    wind = torch.randn(24, 1, 3, generator=generator, dtype=torch.float64).expand(24, 30, 3).contiguous()

    def record(twin: Falling, tracks: Tensor) -> Recording[FallingState]:
        state = FallingState(positions=tracks[:, 1], velocities=(tracks[:, 1] - tracks[:, 0]) / 0.05, batch_size=tracks.shape[:1])
        length = tracks.shape[1] - 2
        measured = TrackMeasurement(tracks[:, 1:], (0, 1, 2), scale=0.01)
        return Recording(state, wind[: len(tracks), :1].expand(len(tracks), length, 3), measurements=(measured,))

    start = FallingState(positions=places.expand(24, 3, 3), velocities=torch.zeros(24, 3, 3, dtype=torch.float64), batch_size=[24])
    tracks = Falling({"drag": 1.5}).rollout(start, wind).states.positions
    fitted = fit_particle_residual(Falling(), tracks, record=record, settings=ResidualSettings(features=16, ridge_rounds=1), progress=False)
    assert fitted.kept and fitted.gain > 0.5 * fitted.held_out
    assert fitted.model.scene.point_names == ("a", "b", "c")


def test_gaps_in_tracks() -> None:
    tracks = swings(TRUTH, 24, 0)
    generator = torch.Generator().manual_seed(0)
    gaps = torch.rand(24, 59, 3, generator=generator) < 0.2
    tracks[:, 2:, 2:5][gaps] = math.nan
    fitted = fit_particle_residual(TWIN, tracks, settings=RIDGE, progress=False)
    test = swings(TRUTH, 16, 7)
    assert fitted.kept and error(fitted.model, test) < 0.75 * error(TWIN, test)


def test_what_cannot_be_is_refused() -> None:
    tracks = swings(TRUTH, 4, 0)
    with pytest.raises(ValueError, match="knows the methods ridge and recurrent, and forces for springs, got 'forest'"):
        fit_particle_residual(TWIN, tracks, method="forest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="learns forces of a SpringTwin alone, got a RodTwin"):
        fit_particle_residual(TWIN, tracks, method="forces")
    with pytest.raises(ValueError, match=r"two runs and three instants at least, got \(1, 61, 7, 3\)"):
        fit_particle_residual(TWIN, tracks[:1])
    with pytest.raises(ValueError, match="names particle 9, but there are 7"):
        fit_particle_residual(TWIN, tracks, anchors=(0, 9))
    with pytest.raises(ValueError, match="two anchors, got particle 3 twice"):
        fit_particle_residual(TWIN, tracks, anchors=(3, 3))
    with pytest.raises(ValueError, match="needs a particle that is not driven"):
        fit_particle_residual(TWIN, tracks, driven=range(7))
    with pytest.raises(ValueError, match="got one with 2 members"):
        fit_particle_residual(TWIN.with_parameters({"drag": torch.tensor([0.2, 0.3])}), tracks)
    with pytest.raises(ValueError, match="no parameter 'stickiness'"):
        fit_particle_residual(TWIN, tracks, parameters=("stickiness",))
    with pytest.raises(ValueError, match="hidden >= 1, got 0"):
        ResidualSettings(hidden=0)
