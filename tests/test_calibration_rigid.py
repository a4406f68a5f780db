"""Calibration of rigid twins on synthetic runs: every way of fitting finds the truth, more runs make it surer, and the loss is called rough where it is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from structwm.physics import (
    Actuator,
    Body,
    BoxShape,
    Calibration,
    Geometry,
    Material,
    Recording,
    RigidRun,
    RigidState,
    RigidTwin,
    RigidWorld,
    Settings,
    box_inertia,
    calibrate,
    rigid_recording,
)
from structwm.physics import calibration as calibrating
from structwm.physics.explore import ROUGH, Explored, linearised
from structwm.physics.journal import Journal
from structwm.physics.optimise import Found, Posterior, system
from structwm.physics.posterior import Likelihood, Prior
from tests.sliding_cubes import DT, WORLD, slides

HALF = (0.05, 0.05, 0.05)
SLIDING = RigidTwin(WORLD, dt=DT, substeps=4)
PLAIN = Settings(evaluations=0, iterations=10)


def sliding(count: int, *, seed: int = 0, friction: float = 0.3) -> Recording[RigidState]:
    """Slides under a friction, as `tests.sliding_cubes` makes them."""
    runs = slides(count, seed=seed)
    if friction == 0.3:
        return rigid_recording(SLIDING, runs)
    recording = rigid_recording(SLIDING, runs)
    states = SLIDING.with_parameters({"friction": friction}).rollout(recording.state, recording.actions).states
    noise = 1.5e-3 * torch.randn(states.configuration.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    seen = states.configuration + noise
    return rigid_recording(SLIDING, [RigidRun({"cube": _unit(seen[k])}, {"cube": states.velocity[k]}) for k in range(count)])


def _unit(poses: Tensor) -> Tensor:
    return torch.cat((poses[..., :3], poses[..., 3:] / poses[..., 3:].norm(dim=-1, keepdim=True)), -1)


def error(calibration: Calibration[Any], name: str, truth: float) -> float:
    """How far off a value is, in standard deviations of its posterior."""
    at = calibration.space.names.index(name)
    z = calibration.space.parameters[at].unconstrained(truth)
    return float((calibration.z[at] - z) / calibration.covariance[at, at].sqrt())


# every way downhill


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("refine", ["gauss_newton", "adam"])
def test_steps_downhill_find_the_truth(refine: Any, start: bool) -> None:
    """Differences and the twin's own gradients, with and without the start states fitted along; started at 0.5, far off."""
    recording = sliding(5)
    if start:
        recording = replace(recording, start_spread={"cube.vx": 0.05, "cube.vy": 0.05})
    settings = Settings(evaluations=0, iterations=12 if refine == "gauss_newton" else 60, refine=refine, rate=0.1)
    fit = calibrate(SLIDING, recording, ("friction",), held_out=None, settings=settings, progress=False)
    assert fit.values["cube.friction"] == pytest.approx(0.3, rel=0.02)
    assert abs(error(fit, "cube.friction", 0.3)) < 3
    assert fit.losses[-1] < fit.losses[0] - 10 and fit.nonfinite == 0


def test_gradients_are_the_differences() -> None:
    """Of the negative log posterior, by parameters and by start displacements."""
    recording = replace(sliding(3), start_spread={"cube.vx": 0.05, "cube.z": 0.001})
    twin = RigidTwin(WORLD, dt=DT, substeps=4)
    space = twin.space(("friction", "mass"))
    posterior = Posterior(Likelihood(twin, recording, space, dof=4.0, step=1e-4), Prior.of(space))
    z = space.default.clone().requires_grad_()
    start = (0.1 * torch.ones(3, 2, dtype=torch.float64)).requires_grad_()
    own = torch.autograd.grad(posterior.loss(z[None], start[None]).sum(), (z, start))
    at = system(posterior, Found(z.detach(), start.detach()))
    assert at.starts is not None
    own_start = at.starts[2]
    torch.testing.assert_close(own[1], own_start, rtol=1e-3, atol=1e-3)
    eliminated = at.gradient + torch.einsum("nij,nik,nk->j", at.starts[1], torch.linalg.inv(at.starts[0]), own_start)
    torch.testing.assert_close(own[0], eliminated, rtol=1e-3, atol=1e-2)


def test_starts_that_were_seen_wrongly_are_found() -> None:
    """Recorded speeds are 0.1 m/s off, known to be good to 0.1 m/s: fitted along, speed and friction are right; not fitted, friction is wrong."""
    recording, off = sliding(4), torch.tensor([0.1, -0.1, 0.08, -0.12], dtype=torch.float64)
    velocity = recording.state.velocity.clone()
    velocity[:, 0] += off
    wrong = replace(recording, state=recording.state.replace(velocity=velocity))
    names = ("friction",)
    with_starts = calibrate(SLIDING, replace(wrong, start_spread={"cube.vx": 0.1}), names, held_out=None, settings=PLAIN, progress=False)
    without = calibrate(SLIDING, wrong, names, held_out=None, settings=replace(PLAIN, explore=0), progress=False)
    assert with_starts.start is not None
    torch.testing.assert_close(0.1 * with_starts.start[:, 0], -off, rtol=0.1, atol=5e-3)
    assert with_starts.values["cube.friction"] == pytest.approx(0.3, rel=0.03)
    assert with_starts.noise["cube.position"] < 0.3 * without.noise["cube.position"]


# more and more data


def test_updates_approach_the_fit_to_all_data() -> None:
    recording = sliding(8)
    whole = calibrate(SLIDING, recording, ("friction",), held_out=None, settings=PLAIN, progress=False)
    known = calibrate(SLIDING, recording[:2], ("friction",), held_out=None, settings=PLAIN, progress=False)
    widths = [float(known.covariance[0, 0].sqrt())]
    for part in range(2, 8, 2):
        known = known.update(recording[part : part + 2])
        widths.append(float(known.covariance[0, 0].sqrt()))
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.75 * widths[0]
    spread = float(whole.covariance[0, 0].sqrt())
    assert float(known.z - whole.z) == pytest.approx(0.0, abs=1.5 * spread)
    assert 0.5 * spread < widths[-1] < 2 * spread
    assert float(known.information[0, 0]) > 0.3 * float(whole.information[0, 0])  # of all data, not of the last two runs
    assert not known.warnings  # the last two runs do not halve what was known; that is no warning


def test_updates_follow_what_changes_only_where_asked() -> None:
    """The floor gets slippery: with `forget` the value is there after one update, without it lags behind."""
    before = calibrate(SLIDING, sliding(4), ("friction",), held_out=None, settings=PLAIN, progress=False)
    after = sliding(2, seed=5, friction=0.2)
    follows, lags = (before.update(after, forget=forget).values["cube.friction"] for forget in (0.5, 0.0))
    assert follows == pytest.approx(0.2, abs=0.01)
    assert abs(lags - 0.2) > 2 * abs(follows - 0.2)


def test_recordings_of_something_else_are_refused() -> None:
    known = calibrate(SLIDING, sliding(2), ("friction",), held_out=None, settings=replace(PLAIN, iterations=1), progress=False)
    (cube,), poses = WORLD.bodies, slides(1)[0].poses["cube"]
    brick = RigidTwin(RigidWorld((replace(cube, name="brick"),)), dt=DT)
    pair = RigidTwin(RigidWorld((cube, replace(cube, name="brick"))), dt=DT)
    moved = RigidTwin(RigidWorld((cube,), actuators=(Actuator("cube", "wrench", -1.0, 1.0),)), dt=DT)
    both = {"cube": poses, "brick": poses + torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])}
    for twin, run, words in (
        (brick, RigidRun({"brick": poses}), "poses of 'brick', which is no body of this model; it has cube"),
        (pair, RigidRun(both), "states of 13 numbers, and the recording's have 26"),
        (moved, RigidRun({"cube": poses}), "takes 0 actions, and the recording has 1"),
    ):
        foreign = rigid_recording(twin, [run])
        with pytest.raises(ValueError, match=words):
            known.update(foreign)
        with pytest.raises(ValueError, match=words):  # before the search, not after
            calibrate(SLIDING, sliding(2), ("friction",), held_out=foreign, settings=Settings(evaluations=10**9), progress=False)
    with pytest.raises(TypeError, match="a Recording, got list"):
        known.update([])  # type: ignore[arg-type]
    for forget in (-0.1, math.nan):
        with pytest.raises(ValueError, match="forget of zero or more"):
            known.update(sliding(1), forget=forget)


def test_bad_arguments_are_refused() -> None:
    recording = sliding(2)

    def fit(names: tuple[str, ...] = ("friction",), twin: RigidTwin = SLIDING, **options: Any) -> Any:
        return calibrate(twin, recording, names, **({"held_out": None, "progress": False, "settings": PLAIN} | options))

    for call, words in (
        (lambda: fit(("friction", "cube.friction")), "each parameter once, got 'cube.friction' twice"),
        (lambda: fit(held_out=1.5), "share between 0 and 1"),
        (lambda: fit(held_out=0), "share between 0 and 1"),
        (lambda: fit(prior=Prior.of(SLIDING.space(("friction", "mass")))), r"prior of the 1 parameters cube.friction, got one of \(2,\)"),
        (lambda: fit(twin=SLIDING.with_parameters({"mass": torch.tensor([0.3, 0.4])})), "one with 2 members"),
        (lambda: Settings(evaluations=-1), "evaluations must be a whole number of 0 or more, got -1"),
        (lambda: Settings(rounds=0), "rounds must be a whole number of 1 or more"),
        (lambda: Settings(block=0), "block must be a whole number of 1 or more"),
        (lambda: Settings(refine="newton"), "gauss_newton or adam, got 'newton'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=words):
            call()


# what is known, when it is said to be known


@pytest.mark.parametrize("dof", [1.0, 4.0, math.inf])
def test_information_is_the_curvature_that_errors_have_on_average(dof: float) -> None:
    """Of errors that are distributed as the model says, against second differences of their loss as all shift together."""
    likelihood = Likelihood(SLIDING, sliding(1), SLIDING.space(("friction",)), dof=dof, step=1e-3)
    generator, count = torch.Generator().manual_seed(0), 400
    size = likelihood.known.shape
    mixed = torch.distributions.Gamma(dof / 2, dof / 2) if math.isfinite(dof) else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        scale = mixed.sample((count, size[0], 1)).double().rsqrt() if mixed else torch.ones(1, dtype=torch.float64)
    errors = (scale * torch.randn(count, *size, generator=generator, dtype=torch.float64)).flatten(1)
    shift = 0.01
    second = (likelihood.loss(errors + shift) - 2 * likelihood.loss(errors) + likelihood.loss(errors - shift)) / shift**2
    stated = torch.stack([(likelihood.weights(each) * likelihood.curvature(each)).sum() for each in errors])
    assert float(stated.mean()) == pytest.approx(float(second.mean()), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [1e-3, 4e-3])
def test_intervals_are_as_wide_as_estimates_scatter(noise: float) -> None:
    scores = []
    for seed in range(40):
        fit = calibrate(SLIDING, rigid_recording(SLIDING, slides(6, seed=seed, noise=noise)), ("friction",), held_out=None, settings=PLAIN, progress=False)
        scores.append(error(fit, "cube.friction", 0.3))
    assert 0.7 < float(torch.tensor(scores).square().mean().sqrt()) < 1.25


def test_blocks_that_hold_all_the_information_do_not_widen_intervals() -> None:
    """One slide tells of friction late, where it has run far: independent errors stay independent."""
    settings = Settings(evaluations=0, iterations=4, block=1)
    fits = [calibrate(SLIDING, sliding(1, seed=seed), ("friction",), held_out=None, settings=settings, progress=False) for seed in range(7)]
    assert sorted(fit.inflation for fit in fits)[3] < 1.4


# rough losses

TOSSED = RigidTwin(
    RigidWorld(
        (Body("box", 0.37, box_inertia(0.37, HALF), (Geometry(BoxShape(HALF)),), material=Material(friction=0.3, restitution=0.3)),),
        actuators=(Actuator("box", "wrench", -1.0, 1.0, name="push"),),
    ),
    dt=0.01,
    substeps=8,
)


def tossed(count: int, steps: int, seed: int = 0) -> Recording[RigidState]:
    """Tumbling throws under friction 0.2 and restitution 0.4, in which nothing pushes; velocities at the start are seen with errors."""
    generator = torch.Generator().manual_seed(seed)

    def even(size: int) -> Tensor:
        return 2 * torch.rand(count, size, generator=generator, dtype=torch.float64) - 1

    turns = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    poses = _unit(torch.cat((torch.tensor([[0.0, 0.0, 0.3]], dtype=torch.float64).expand(count, 3), turns), -1))
    start = TOSSED.state(poses, torch.cat((even(2), 0.5 * even(1), 10 * even(3)), -1))
    actions = torch.zeros(count, steps, 1, dtype=torch.float64)
    states = TOSSED.with_parameters({"box.friction": 0.2, "box.restitution": 0.4}).rollout(start, actions).states
    seen = states.configuration.clone()
    seen[:, 1:] += 1e-3 * torch.tensor([1.0] * 3 + [3.0] * 4) * torch.randn(count, steps, 7, generator=generator, dtype=torch.float64)
    twists = states.velocity + torch.tensor([0.02] * 3 + [0.3] * 3) * torch.randn(count, 1, 6, generator=generator, dtype=torch.float64)
    return rigid_recording(TOSSED, [RigidRun({"box": _unit(seen[k])}, {"box": twists[k]}) for k in range(count)])


def roughness(monkeypatch: pytest.MonkeyPatch, twin: RigidTwin, recording: Recording[RigidState], names: tuple[str, ...]) -> float:
    """What a calibration found of information over the long way, over that of the short way."""
    found: list[float] = []

    class Watched(Journal):
        def once(self, label: str, compute: Any) -> Any:
            value = super().once(label, compute)
            if label == "rough":
                found.append(value)
            return value

    monkeypatch.setattr(calibrating, "Journal", Watched)
    calibrate(twin, recording, names, held_out=None, settings=Settings(evaluations=40, iterations=6, explore=5, rounds=1), progress=False)
    return found[0]


def test_slides_are_smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with a parameter of which they say nothing, whose differences are those of noise."""
    assert roughness(monkeypatch, SLIDING, sliding(4), ("friction", "restitution")) > 0.9


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tosses_are_rough(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Also with a parameter of which they say nothing, which must not outvote the others."""
    assert roughness(monkeypatch, TOSSED, tossed(5, 70, seed), ("friction", "restitution", "push.gain")) < ROUGH


def test_what_rough_runs_do_not_say_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing pushes, so nothing is said of what a push is worth, however rough the loss of the others is; these are found."""
    monkeypatch.setattr(calibrating, "is_rough", lambda *_: True)
    settings = Settings(evaluations=60, iterations=6, explore=120)
    fit = calibrate(TOSSED, tossed(9, 60, 3), ("friction", "restitution", "push.gain"), held_out=None, settings=settings, progress=False)
    assert fit.explored
    assert any("push.gain is not identified" in sentence for sentence in fit.warnings)
    low, high = fit.intervals()["push.gain"]
    assert low < 0.75 and high > 1.4
    for name, truth in (("box.friction", 0.2), ("box.restitution", 0.4)):
        low, high = fit.intervals()[name]
        assert low - 0.02 < truth < high + 0.02 and high - low < 0.15


def test_the_linearisation_has_the_word_only_where_it_is_less_sure() -> None:
    explored = Explored(torch.tensor([1.0, 1.0], dtype=torch.float64), torch.diag(torch.tensor([0.04, 1e-6], dtype=torch.float64)))
    precision = torch.diag(torch.tensor([1e6, 4.0], dtype=torch.float64))  # sure of the first, not of the second
    mixed = linearised(explored, torch.zeros(2, dtype=torch.float64), precision)
    torch.testing.assert_close(mixed.mean, torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(mixed.covariance, torch.diag(torch.tensor([0.04, 0.25], dtype=torch.float64)))


def test_parameters_keep_their_digits() -> None:
    """Numbers are float64, so that a float64 rollout is one; float32 states stay float32."""
    twin = SLIDING.with_parameters({"friction": 0.3})
    assert float(twin.values["cube.friction"]) == 0.3
    assert float(SLIDING.values["gravity"]) == WORLD.gravity
    state = SLIDING.state(torch.tensor([[0.0, 0.0, 0.05, 1.0, 0.0, 0.0, 0.0]]))
    assert twin.rollout(state, torch.zeros(1, 2, 0)).states.configuration.dtype == torch.float32
