"""Calibration on synthetic pushes whose truth is known."""

import math

import numpy as np
import pytest
import torch

from structwm.physics import Evidence, Parameter, Prior, PushTwin, Recording, Settings, calibrate, calibrate_family
from structwm.physics.parameters import ParameterSpace
from structwm.physics.predictive import PredictiveIntervals
from structwm.physics.pushing import rectangle
from structwm.physics.recorded_pushes import CONTACT
from tests.test_push_twin import starts

SHAPE = rectangle(0.09, 0.11)
NAMES = ("friction", "pressure_x", "pressure_y", "pressure_radial")
TRUTH = {"friction": 0.33, "pressure_x": 0.3, "pressure_y": -0.2, "pressure_radial": 0.5}
FAST = Settings(evaluations=40, iterations=12)


def recorded(count, truth=TRUTH, noise=(0.0005, 0.0005, 0.01), seed=0):
    """Straight pushes of 2 cm as one step each, of which the final pose is observed with noise."""
    twin = PushTwin(SHAPE, dt=1.0, substeps=20)
    state, velocity = starts(SHAPE, count, seed=seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    state, actions = state[order], (0.25 * velocity[order]).unsqueeze(1)
    final = twin.with_parameters(truth).rollout(state, actions).states.pose[:, -1]
    final = final + torch.tensor(noise, dtype=torch.float64) * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    unknown = torch.full_like(final, math.nan)
    observed = {name: torch.stack((unknown[:, i], final[:, i]), 1) for i, name in enumerate(("x", "y", "yaw"))}
    return twin, Recording(state, actions, observed, {"x": 0.002, "y": 0.002, "yaw": 0.03}, frozenset({"yaw"}))


def test_parameters_map_to_the_open_line_and_back():
    linear, log = Parameter("a", "m", 0.5, 0.0, 2.0, spread=0.1), Parameter("b", "-", 0.2, 0.01, 5.0, "log", 0.4)
    space = ParameterSpace([linear, log])
    values = {"a": torch.tensor([0.1, 1.9], dtype=torch.float64), "b": torch.tensor([0.02, 4.0], dtype=torch.float64)}
    back = space.unpack(space.pack(values))
    assert all(torch.allclose(back[name], values[name]) for name in values)
    extreme = space.unpack(torch.tensor([[-50.0, 50.0]], dtype=torch.float64))
    assert float(extreme["a"]) >= 0.0 and float(extreme["b"]) <= 5.0 + 1e-9
    step = space.unpack(space.default + torch.tensor([space.spread[0], 0.0]))
    assert float(step["a"]) == pytest.approx(0.6, rel=0.1)
    with pytest.raises(ValueError, match="low < default < high"):
        Parameter("c", "m", 2.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="lower bound must be positive"):
        Parameter("c", "m", 0.5, 0.0, 1.0, "log")


def test_truth_is_recovered():
    twin, recording = recorded(60)
    calibration = calibrate(twin, recording, NAMES, settings=FAST, progress=False)
    intervals = calibration.intervals(0.9)
    for name, value in TRUTH.items():
        width = intervals[name][1] - intervals[name][0]
        assert abs(calibration.values[name] - value) < 2 * width < 0.6
    assert calibration.noise["x"] == pytest.approx(0.0005, rel=0.5)
    assert calibration.errors["held out"]["yaw"] < 0.2 * calibration.errors["persistence"]["yaw"]
    assert calibration.losses[-1] <= calibration.losses[0]
    assert not calibration.warnings


@pytest.mark.slow
def test_intervals_cover_at_their_level():
    hits = []
    for seed in range(12):
        twin, recording = recorded(40, seed=seed)
        calibration = calibrate(twin, recording, NAMES, held_out=None, settings=Settings(evaluations=0, dof=math.inf), progress=False)
        hits += [low <= TRUTH[name] <= high for name, (low, high) in calibration.intervals(0.9).items()]
    assert 0.75 <= np.mean(hits) <= 1.0


def test_search_and_steps_agree_and_are_deterministic():
    twin, recording = recorded(30)
    one, two = (calibrate(twin, recording, NAMES, settings=FAST, progress=False) for _ in range(2))
    assert one.values == two.values
    steps = calibrate(twin, recording, NAMES, settings=Settings(evaluations=0), progress=False)
    assert steps.values["friction"] == pytest.approx(one.values["friction"], rel=0.02)


def test_outliers_are_not_trusted():
    twin, recording = recorded(50)
    spoilt = {name: values.clone() for name, values in recording.observed.items()}
    spoilt["x"][:4] += 0.05
    bad = Recording(recording.state, recording.actions, spoilt, recording.scale, recording.periodic)
    robust = calibrate(twin, bad, NAMES, held_out=None, settings=Settings(evaluations=0), progress=False)
    assert robust.values["friction"] == pytest.approx(TRUTH["friction"], rel=0.1)


def test_what_the_data_cannot_say_is_said():
    """Pushes through the middle of one side, straight on: they hardly turn the box, so neither friction nor the rim's pressure shows."""
    twin = PushTwin(SHAPE, dt=1.0, substeps=20)
    state, _ = starts(SHAPE, 8)
    state = state.replace(pose=torch.zeros(8, 3, dtype=torch.float64), pusher=torch.tensor([[-0.052, 0.0]], dtype=torch.float64).expand(8, 2).clone())
    actions = torch.tensor([[[0.02, 0.0]]], dtype=torch.float64).expand(8, 1, 2).clone()
    final = twin.rollout(state, actions).states.pose
    noise = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    observed = {"x": final[..., 0] + 5e-4 * noise[0], "yaw": final[..., 2] + 0.01 * noise[1]}
    recording = Recording(state, actions, observed, {"x": 0.001, "yaw": 0.01})
    calibration = calibrate(twin, recording, ("friction", "pressure_radial"), held_out=None, settings=FAST, progress=False)
    assert any("friction is not identified" in sentence for sentence in calibration.warnings)
    assert any("pressure_radial is not identified" in sentence for sentence in calibration.warnings)


def test_cousins_are_an_ensemble_around_the_fit():
    twin, recording = recorded(30)
    calibration = calibrate(twin, recording, NAMES, settings=Settings(evaluations=0), progress=False)
    cousins = calibration.sample(8, seed=1)
    assert cousins.spec.members == 8
    state = recording.state.apply(lambda value: value.float())[:5]
    trajectory = cousins.rollout(state.unsqueeze(1).expand(5, 8), recording.actions[:5].float())
    assert trajectory.batch_shape == (5, 8)
    mean = trajectory.states.pose[..., -1, :].mean(1)
    assert torch.allclose(mean, calibration.twin.rollout(state, recording.actions[:5].float()).states.pose[:, -1], atol=5e-3)


def test_predictive_intervals_cover_new_pushes():
    twin, recording = recorded(40)
    calibration = calibrate(twin, recording, NAMES, held_out=None, settings=Settings(evaluations=0), progress=False)
    intervals = PredictiveIntervals.fit([calibration], [recording])
    fresh = recorded(200, seed=9)[1]
    for name, prediction in intervals.predict(calibration, fresh).items():
        assert 0.8 < float(prediction.covered.double().mean()) < 0.99, name


def test_a_family_lends_strength():
    """Three pushes of one box, forty of three others under nearly the same friction: the family knows the first box better than its own pushes do."""
    sizes, frictions = (3, 40, 40, 40), (0.30, 0.31, 0.29, 0.30)
    parts = [recorded(n, TRUTH | {"friction": f}, seed=k) for k, (n, f) in enumerate(zip(sizes, frictions, strict=True))]
    twins, recordings = [part[0] for part in parts], [part[1] for part in parts]
    together = calibrate_family(twins, recordings, NAMES, factors={"maker": ["a", "a", "b", "b"]}, progress=False)
    alone = calibrate(twins[0], recordings[0], NAMES, held_out=None, settings=Settings(evaluations=0), progress=False)
    test = recorded(100, TRUTH | {"friction": 0.30}, seed=20)[1]
    from structwm.physics.calibration import mean_errors

    assert mean_errors(together[0].twin, test)["yaw"] < mean_errors(alone.twin, test)["yaw"]
    width = [np.diff(c.intervals()["friction"])[0] for c in (together[0], alone)]
    assert width[0] < width[1]
    with pytest.raises(ValueError, match="labels 3 twins of 4"):
        calibrate_family(twins, recordings, NAMES, factors={"maker": ["a", "b", "c"]}, progress=False)


def test_a_family_of_one_is_as_free_as_its_prior():
    """Few pushes of one object: no further from its defaults than calibrated by itself, to the estimated spreads."""
    twin, recording = recorded(3, noise=1e-3)
    (one,) = calibrate_family([twin], [recording], NAMES, progress=False)
    alone = calibrate(twin, recording, NAMES, held_out=None, settings=Settings(evaluations=0, iterations=15), progress=False)
    assert bool(((one.z - alone.z).abs() < 0.5 * alone.covariance.diagonal().sqrt()).all())


def test_evidence_moves_parameters():
    twin, recording = recorded(10)
    towards = Evidence(lambda twin, recording: (twin.values["pressure_radial"] - 1.0).reshape(1, -1, 1).expand(len(recording), -1, 1), 0.01)
    pulled = calibrate(twin, recording, ("pressure_radial",), held_out=None, evidence=[towards], settings=Settings(evaluations=0), progress=False)
    assert pulled.values["pressure_radial"] > 0.7


def test_evidence_on_parameters_that_are_fixed_changes_nothing():
    twin, recording = recorded(10)
    plain, with_contact = (
        calibrate(twin, recording, NAMES, held_out=None, evidence=evidence, settings=Settings(evaluations=0), progress=False) for evidence in ((), (CONTACT,))
    )
    assert with_contact.values == pytest.approx(plain.values, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: Recording(r.state, r.actions[:3], r.observed, r.scale), r"batch_size \(N,\) and actions"),
        (lambda r: Recording(r.state, r.actions, {"x": r.observed["x"][:, :1]}, r.scale), r"must be \(N, H\+1\)"),
        (lambda r: Recording(r.state, r.actions, {"x": torch.full_like(r.observed["x"], math.nan)}, r.scale), "no finite value"),
        (lambda r: Recording(r.state, r.actions, r.observed, {"x": 0.001, "y": 0.0, "yaw": 0.1}), "positive entry for 'y'"),
        (lambda r: Recording(r.state, r.actions * math.nan, r.observed, r.scale), "not finite"),
        (lambda r: r[:0], "empty"),
    ],
)
def test_bad_recordings_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        change(recorded(6)[1])


def test_unknown_names_are_refused():
    twin, recording = recorded(6)
    with pytest.raises(ValueError, match="no parameter 'mass'; it has friction"):
        calibrate(twin, recording, ("mass",), progress=False)
    elsewhere = Recording(recording.state, recording.actions, {"z": recording.observed["x"]}, {"z": 0.001})
    with pytest.raises(ValueError, match="observed 'z', which is no coordinate"):
        calibrate(twin, elsewhere, NAMES, held_out=None, progress=False)
    with pytest.raises(ValueError, match="cannot be split"):
        calibrate(twin, recording[:1], NAMES, held_out=0.2, progress=False)
    assert Prior.of(twin.space(NAMES)).mean.shape == (4,)
