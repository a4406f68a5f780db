"""Calibration of springs on tracks and clouds, with occlusion, and a stiffness of each spring."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from structwm.physics import CloudMeasurement, Prior, Recording, Settings, SpringBody, SpringTwin, TrackMeasurement, calibrate, fit_springs, spring_recording

DT, INSTANTS = 0.03, 30


def beam() -> SpringBody:
    """A beam of 54 particles, of which grippers hold the ends."""
    points = 0.02 * torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(3.0), torch.arange(3.0), indexing="ij"), -1).reshape(-1, 3).double()
    body = SpringBody.from_points(points, radius=0.036, neighbours=26)
    grips = torch.cat((points[[0, 2, 6, 8]], points[[-9, -7, -3, -1]])) + torch.tensor([0.0, 0.0, 0.001])
    return body.with_controllers(grips, groups=((0, 1, 2, 3), (4, 5, 6, 7)), attach=0.03, neighbours=6)


def motion(body: SpringBody, *, phase: float = 0.0) -> Tensor:
    """Places of the two grippers (1, T, 2, 3), swinging."""
    t = DT * torch.arange(INSTANTS, dtype=torch.float64)
    held = body.positions[body.points :].reshape(2, 4, 3).mean(1)
    path = held.expand(INSTANTS, 2, 3).clone()
    path[:, 0, 2] += 0.06 * torch.sin(7.0 * t + phase) - 0.06 * math.sin(phase)
    path[:, 1, 2] -= 0.05 * torch.sin(9.0 * t)
    path[:, 1, 0] += 0.01 * torch.sin(5.0 * t)
    return path[None]


def seen(twin: SpringTwin, path: Tensor, *, noise: float = 0.0005) -> tuple[Tensor, Recording]:
    """Particles (1, T, P, 3) under a motion, a third of them hidden at each instant, and a recording of what is seen."""
    generator = torch.Generator().manual_seed(3)
    start = spring_recording(twin, path, tracks=torch.zeros(1, INSTANTS, 1, 3))
    with torch.no_grad():
        truth = twin.rollout(start.state, start.actions).states.positions[:, :, : twin.body.points]
    tracks = truth + noise * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    hidden = torch.rand(truth.shape[:-1], generator=generator) < 0.3
    tracks[hidden] = math.nan
    return truth, spring_recording(twin, path, tracks=tracks, clouds=tracks, cloud_points=20)


TRUE = {"stiffness": 1.0, "damping": 4e-3, "attachment_stiffness": 20.0, "drag": 0.3}


def model(body: SpringBody, **values: float) -> SpringTwin:
    return SpringTwin(body, dt=DT, substeps=30, stages=4, values={**TRUE, **values})


def test_parameters_are_found_though_points_are_hidden() -> None:
    body = beam()
    _, recording = seen(model(body), motion(body))
    settings = Settings(evaluations=40, iterations=8, explore=0, opening=0.4)
    found = calibrate(model(body, stiffness=4.0, drag=1.0, damping=1e-3), recording, ["stiffness", "damping", "drag"], held_out=None, settings=settings)
    assert found.values["stiffness"] == pytest.approx(TRUE["stiffness"], rel=0.05)
    for name, (low, high) in found.intervals(0.99).items():
        assert low < TRUE[name] < high, name
    assert found.errors["calibration"]["tracks"] < 0.0015


def test_a_parameter_of_which_the_data_says_nothing_widens_no_interval_of_others() -> None:
    """Between two rest lengths that occur, `reach` changes nothing at all: what rounding leaves of it is no information."""
    body = beam()
    _, recording = seen(model(body), motion(body))
    settings = Settings(evaluations=0, iterations=6, explore=0)
    found = calibrate(model(body, stiffness=1.2), recording, ["stiffness", "damping", "reach"], held_out=None, settings=settings, progress=False)
    alone = calibrate(model(body, stiffness=1.2), recording, ["stiffness", "damping"], held_out=None, settings=settings, progress=False)
    assert found.inflation < 2 * alone.inflation
    assert found.intervals()["stiffness"] == pytest.approx(alone.intervals()["stiffness"], rel=0.02)
    assert any("reach is not identified" in warning for warning in found.warnings)


def test_springs_get_a_stiffness_of_their_own_where_the_motion_shows_it() -> None:
    body = beam()
    middle = body.positions[body.springs].mean(1)[:, 0]
    factors = torch.where(middle > 0.05, 2.5, 0.6).double()
    _, recording = seen(model(body).with_factors(factors), motion(body))
    fit = fit_springs(model(body), recording, steps=30, progress=False)
    assert fit.kept >= 0 and fit.twin.factors is not None and fit.nonfinite == 0
    other = motion(body, phase=1.0)
    expected, again = seen(model(body).with_factors(factors), other)
    errors = []
    for twin in (model(body), fit.twin):
        with torch.no_grad():
            predicted = twin.rollout(again.state, again.actions).states.positions[:, :, : body.points]
        errors.append(float((predicted - expected).norm(dim=-1).mean()))
    assert errors[1] < 0.65 * errors[0]
    logs, own = fit.twin.factors.log(), ~body.attached
    assert float(logs[own & (middle > 0.06)].mean()) > 0.15 + float(logs[own & (middle < 0.04)].mean())


def test_factors_that_do_not_help_are_not_kept() -> None:
    """Where the recording is of the twin itself there is nothing to gain but noise."""
    body = beam()
    _, recording = seen(model(body), motion(body), noise=0.003)
    fit = fit_springs(model(body), recording, steps=9, progress=False)
    assert fit.kept == -1 or fit.checks[-1] >= 0.99 * fit.checks[0]


def test_a_calibration_goes_on_from_the_beginning_of_a_motion() -> None:
    body = beam()
    _, recording = seen(model(body), motion(body))
    early = recording.until(10)
    assert early.actions.shape[1] == 10 and early.measurements[0].size() == (1, 10)
    whole, part = (r.compare(model(body).rollout(r.state, r.actions))["tracks"] for r in (recording, early))
    assert torch.equal(whole[:, :10].nan_to_num(), part.nan_to_num())
    with pytest.raises(ValueError, match="from 1 to 29 steps"):
        recording.until(30)
    with pytest.raises(ValueError, match="opening"):
        Settings(opening=0.0)


def test_clouds_ask_only_for_what_was_seen() -> None:
    body = beam()
    twin = model(body)
    path = motion(body)
    truth, recording = seen(twin, path)
    trajectory = twin.rollout(recording.state, recording.actions)
    whole = CloudMeasurement(truth)
    assert float(whole.magnitude(whole.residual(trajectory)["cloud"]).max()) < 1e-12
    shifted = CloudMeasurement(truth[:, :, :5] + torch.tensor([0.0, -0.004, 0.0]))  # off the beam's side
    found = shifted.magnitude(shifted.residual(trajectory)["cloud"])
    assert float(found.median()) == pytest.approx(0.004, rel=0.1)
    holes = truth.clone()
    holes[:, 4], holes[:, 5, 3:] = math.nan, math.nan
    residual = CloudMeasurement(holes).residual(trajectory)["cloud"]
    assert bool(residual[:, 3].isnan().all()) and int(residual[:, 4].isfinite().sum()) == 9
    few = CloudMeasurement.of_clouds(holes, 7)
    assert few.points.shape[2] == 7 and bool(few.points[:, 0].isfinite().all()) and int(few.points[0, 5].isfinite().all(-1).sum()) == 3
    surface = CloudMeasurement(truth, among=(0,))
    expected = (truth[:, 1:] - truth[:, 1:, :1]).norm(dim=-1).mean(-1)
    assert torch.allclose(surface.magnitude(surface.residual(trajectory)["cloud"]), expected)


def test_gradients_flow_through_clouds() -> None:
    body = beam()
    _, recording = seen(model(body), motion(body))
    stiffness = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)

    def loss(value: Tensor) -> Tensor:
        found = recording.compare(model(body).with_parameters({"stiffness": value}).rollout(recording.state, recording.actions))
        return sum((part.nan_to_num().square().sum() for part in found.values()), torch.zeros(()))

    (gradient,) = torch.autograd.grad(loss(stiffness), stiffness)
    with torch.no_grad():
        slope = (loss(stiffness + 1e-6) - loss(stiffness - 1e-6)) / 2e-6
    assert float(gradient) == pytest.approx(float(slope), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"controllers": torch.zeros(1, 5, 1, 3)}, r"controllers \(N, T, 2, 3\)"),
        ({"controllers": torch.full((1, 5, 2, 3), math.nan)}, "every controller seen"),
        ({"controllers": torch.arange(30.0).reshape(1, 5, 2, 3)}, "are units and dt right"),
        ({"tracks": None}, "tracks, clouds or measurements"),
        ({"tracks": torch.zeros(1, 4, 3, 3)}, r"tracks \(1, 5, n, 3\)"),
        ({"positions": torch.full((1, 54, 3), math.nan)}, "finite positions"),
    ],
)
def test_recordings_of_something_else_are_refused(change: dict[str, Any], words: str) -> None:
    good = {"controllers": torch.zeros(1, 5, 2, 3), "tracks": torch.zeros(1, 5, 3, 3)}
    with pytest.raises(ValueError, match=words):
        spring_recording(model(beam()), **{**good, **change})  # type: ignore[arg-type]


def test_other_measurements_stand_alone_or_after_tracks_and_clouds() -> None:
    body, path, places = beam(), motion(beam())[:, :5], torch.zeros(1, 5, 3, 3)
    other = TrackMeasurement(places, (0, 1, 2))
    assert spring_recording(model(body), path, measurements=(other,)).measurements == (other,)
    cloud, last = spring_recording(model(body), path, clouds=places, measurements=(other,)).measurements
    assert isinstance(cloud, CloudMeasurement) and last is other
    with pytest.raises(ValueError, match=r"TrackMeasurement is of \(1, 3\) trajectories and steps; the recording has \(1, 4\)"):
        spring_recording(model(body), path, measurements=(TrackMeasurement(places[:, 1:]),))


def test_what_cannot_be_fitted_is_refused() -> None:
    body = beam()
    _, recording = seen(model(body), motion(body))
    with pytest.raises(ValueError, match="held_back"):
        fit_springs(model(body), recording, held_back=1.0)
    with pytest.raises(ValueError, match="a step at least"):
        fit_springs(model(body), recording, steps=0)
    assert Prior.of(model(body).space(["stiffness"])).mean.shape == (1,)
