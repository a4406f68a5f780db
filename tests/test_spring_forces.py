"""What a network of springs lacks is learned from few runs, holds for other grips, and is dropped where there is nothing to learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structwm.check import check_model
from structwm.physics import (
    FittedParticleResidual,
    ParticleResidual,
    Recording,
    ResidualSettings,
    SpringBody,
    SpringForces,
    SpringTwin,
    TrackMeasurement,
    fit_particle_residual,
    fit_spring_forces,
    spring_tracks,
)
from structwm.physics.spring_runs import filled_over
from structwm.training import load_model, save_model
from structwm.wrappers import Residual

pytestmark = pytest.mark.usefixtures("one_thread")

DT = 1 / 30
POINTS = 0.03 * torch.cartesian_prod(torch.arange(6.0), torch.arange(2.0), torch.arange(2.0)).double()
BODY = SpringBody.from_points(POINTS, radius=0.055, neighbours=26, driven=((0, 1, 2, 3),))
TWIN = SpringTwin(BODY, dt=DT, substeps=40, stages=2, values={"stiffness": 8.0, "damping": 4e-3, "drag": 1.0})
FREE = BODY.free


def swings(count: int, seed: int, *, square_drag: float = 3.0, gust: float = 0.0, twin: SpringTwin = TWIN, frames: int = 30) -> Tensor:
    """Tracks (N, T, P, 3) of bars swung by a hand, in air whose drag grows with the square of the speed, and in a wind."""
    generator = torch.Generator().manual_seed(seed)
    time = DT * torch.arange(frames, dtype=torch.float64)
    rate, phase = (low + size * torch.rand(count, 1, 3, generator=generator, dtype=torch.float64) for low, size in ((2.0, 5.0), (0.0, 2 * math.pi)))
    pace = 0.6 * (rate * time[None, :, None] + phase).sin()
    free = twin.body.free.unsqueeze(-1)
    wind = torch.tensor([gust, 0.0, 0.0], dtype=torch.float64)
    with torch.no_grad():
        state = twin.with_parameters({"drag": 10.0}).rollout(twin.state(POINTS), torch.zeros(60, 3, dtype=torch.float64)).states[-1]
        state = state.replace(velocities=0 * state.velocities).expand(count).clone()
        found = [state.positions]
        for k in range(frames):
            state = twin.step(state, pace[:, k])
            v = state.velocities
            slowed = (v + DT * wind) / (1 + DT * square_drag * v.norm(dim=-1, keepdim=True))
            state = state.replace(velocities=torch.where(free, slowed, v))
            found.append(state.positions)
    return torch.stack(found, 1)


def error(model: object, tracks: Tensor, twin: SpringTwin = TWIN) -> float:
    recording = spring_tracks(twin, tracks)
    with torch.no_grad():
        found = model.rollout(recording.state, recording.actions).states.positions[:, 1:]  # type: ignore[attr-defined]
    return float((found - tracks[:, 2:]).norm(dim=-1).mean())


@pytest.fixture(scope="module")
def fitted() -> FittedParticleResidual:
    return fit_particle_residual(TWIN, swings(6, 0), progress=False)


def test_few_runs_teach_what_the_twin_lacks(fitted: FittedParticleResidual) -> None:
    test = swings(8, 7)
    assert fitted.kept and fitted.gain > 2 * fitted.standard_error > 0
    assert error(fitted.model, test) < 0.35 * error(TWIN, test)
    assert isinstance(fitted.correction, SpringForces)
    weights = dict(zip(fitted.correction.names, fitted.correction.weights.tolist(), strict=True))
    assert weights["square_drag"] < 0 and weights["vertical_square_drag"] < 0


def test_it_holds_for_another_grip(fitted: FittedParticleResidual) -> None:
    """The law is of particles and springs, not of the body as a whole."""
    other = SpringTwin(
        SpringBody(POINTS, BODY.springs, driven=((8, 9, 10, 11),)), **{k: v for k, v in TWIN.config().items() if k in ("dt", "substeps", "stages")}
    )
    other = other.with_parameters({name: value for name, value in TWIN.values.items() if name in other.values})
    assert isinstance(fitted.correction, SpringForces)
    given = fitted.correction.config() | {"body": other.body}
    test = swings(8, 9, twin=other)
    assert error(Residual(other, SpringForces(**given)), test, other) < 0.6 * error(other, test, other)


def test_a_wind_is_learned_where_it_is_asked_for() -> None:
    tracks, test = swings(6, 1, square_drag=0.0, gust=0.8), swings(6, 8, square_drag=0.0, gust=0.8)
    with_wind = fit_spring_forces(TWIN, spring_tracks(TWIN, tracks), wind=True)
    floor = error(TWIN, swings(6, 8, square_drag=0.0))  # where nothing is lacking: velocities at the start come from two instants
    assert with_wind.kept and error(with_wind.model, test) - floor < 0.2 * (error(TWIN, test) - floor)
    assert with_wind.weights["wind_x"] > 5 * abs(with_wind.weights["wind_y"])
    without = fit_spring_forces(TWIN, spring_tracks(TWIN, tracks))
    assert error(with_wind.model, test) < error(without.model, test)


def test_what_nobody_saw_is_filled_in_or_left_out() -> None:
    """A third of the particles hidden, another third at each instant; clouds alone would do as well."""
    tracks = swings(6, 0)
    hidden = torch.rand(tracks.shape[:-1], generator=torch.Generator().manual_seed(0)) < 0.3
    tracks[hidden & FREE] = math.nan
    fitted = fit_particle_residual(TWIN, tracks, progress=False)
    test = swings(8, 7)
    assert fitted.kept and error(fitted.model, test) < 0.5 * error(TWIN, test)
    values = POINTS[None] @ torch.tensor([[1.0], [0.5], [0.2]], dtype=torch.float64)
    known = torch.ones(1, len(POINTS), dtype=torch.bool)
    known[0, 9::4] = False
    assert float((filled_over(BODY, values, known) - values).abs().max()) < 0.5 * 0.03  # half a spacing at the end of the bar, where all neighbours are behind


def test_nothing_is_kept_where_physics_is_right() -> None:
    """From exact starts all that is left is noise; what it teaches is next to nothing, and is dropped."""
    tracks = swings(8, 0, square_drag=0.0)
    plain = spring_tracks(TWIN, tracks)
    with torch.no_grad():
        truth = TWIN.rollout(plain.state, plain.actions).states.positions
    noisy = truth + 0.002 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    fitted = fit_spring_forces(TWIN, Recording(plain.state, plain.actions, measurements=(TrackMeasurement(noisy),)))
    assert not fitted.kept and fitted.model is TWIN and fitted.why.startswith("dropped")
    with torch.no_grad():
        moved = Residual(TWIN, fitted.forces).rollout(plain.state, plain.actions).states.positions
    assert float((moved - truth).norm(dim=-1).mean()) < 3e-4


def test_thin_data_is_not_judged_and_what_was_never_seen_is_left_to_physics(fitted: FittedParticleResidual) -> None:
    few = fit_particle_residual(TWIN, swings(3, 0), progress=False)
    assert not few.kept and "3 held-out runs tell nothing, 4 are needed" in few.why
    state = spring_tracks(TWIN, swings(1, 7)).state
    fast = state.replace(velocities=torch.where(FREE.unsqueeze(-1), 30.0, 0.0).expand_as(state.velocities).double())
    change = fitted.correction(fast, torch.zeros(1, 3), fast)
    assert float(change["velocities"].abs().max()) == 0.0
    usual = fitted.correction(state, torch.zeros(1, 3), state)
    assert float(usual["velocities"][:, FREE].abs().max()) > 0 and float(usual["velocities"][:, ~FREE].abs().max()) == 0.0


def test_forces_turn_and_mirror_with_the_scene_and_keep_momentum(fitted: FittedParticleResidual) -> None:
    state = spring_tracks(TWIN, swings(2, 7)).state
    c, s = math.cos(0.8), math.sin(0.8)
    for rows in ([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]):
        matrix = torch.tensor(rows, dtype=torch.float64)
        turned = state.replace(positions=state.positions @ matrix.T + 1.0, velocities=state.velocities @ matrix.T)
        one, other = (fitted.correction(each, torch.zeros(2, 3), each)["velocities"] for each in (state, turned))
        assert torch.allclose(other, one @ matrix.T, atol=1e-12)
    loose = SpringBody(POINTS, BODY.springs)
    assert isinstance(fitted.correction, SpringForces)
    inner = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    forces = SpringForces(loose, DT, fitted.correction.scales, 1e9 * torch.ones(9), inner)
    push = forces(state, torch.zeros(2, 0), state)["velocities"]
    assert float(push.abs().max()) > 1e-3 and float(push.sum(-2).abs().max()) < 1e-9


def test_the_contract_and_saving(fitted: FittedParticleResidual, tmp_path) -> None:
    start = spring_tracks(TWIN, swings(4, 9)).state.apply(lambda value: value.float())
    assert all(finding.passed for finding in check_model(fitted.model, start))
    again = load_model(save_model(fitted.model, tmp_path / "bar"))
    actions = torch.zeros(4, 5, 3)
    assert torch.equal(again.rollout(start, actions).states.positions, fitted.model.rollout(start, actions).states.positions)


def test_the_other_methods_take_springs_too() -> None:
    """Enough runs of one kind of motion, with gaps, and a twin that is far off: the body's errors as a whole are learned, too."""
    tracks, test = swings(32, 0), swings(8, 7)
    tracks[:, 2:, 8:][torch.rand(tracks[:, 2:, 8:].shape[:-1], generator=torch.Generator().manual_seed(1)) < 0.2] = math.nan
    settings = ResidualSettings(features=16, ridge_rounds=4, steps=120, hidden=24, members=1, rounds=6, evaluations=6)
    for method in ("ridge", "recurrent"):
        found = fit_particle_residual(TWIN, tracks, method=method, settings=settings, progress=False)
        assert found.kept and isinstance(found.model, ParticleResidual)
        assert error(found.model, test) < 0.8 * error(TWIN, test)


def test_what_cannot_be_is_refused() -> None:
    tracks = swings(4, 0)
    with pytest.raises(ValueError, match=r"needs tracks \(N, T, 24, 3\)"):
        spring_tracks(TWIN, tracks[:, :, :5])
    lost = tracks.clone()
    lost[1, 4, 2] = math.nan
    with pytest.raises(ValueError, match="every driven particle seen; particle 2 of run 1 was not at instant 4"):
        spring_tracks(TWIN, lost)
    with pytest.raises(ValueError, match="got one with 2 members"):
        fit_particle_residual(TWIN.with_parameters({"drag": torch.tensor([0.2, 0.3])}), tracks)
    still = Recording(spring_tracks(TWIN, tracks[:1]).state, torch.zeros(1, 5, 3), measurements=(TrackMeasurement(tracks[:1, :6]),))
    with pytest.raises(ValueError, match="two runs with measurements at least, got 1"):
        fit_spring_forces(TWIN, still)
    with pytest.raises(ValueError, match=r"needs weights \(..., 9\)"):
        SpringForces(BODY, DT, torch.ones(9), torch.ones(9), torch.zeros(11))
