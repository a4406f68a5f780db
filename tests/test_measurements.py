"""What poses, clouds and images say of a trajectory: nothing where it is as measured, more the further it is off, and enough to find a parameter by."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from structwm.geometry import Camera
from structwm.physics import (
    Body,
    BoxShape,
    Geometry,
    ImageMeasurement,
    Material,
    Measurement,
    PointMeasurement,
    PoseMeasurement,
    Recording,
    RigidState,
    RigidTwin,
    RigidWorld,
    Settings,
    box_inertia,
    calibrate,
    surface_splats,
)
from structwm.render import render
from structwm.transition import Trajectory

HALF, H, DT = (0.05, 0.04, 0.03), 8, 0.04
BLOCK = Body("block", 0.4, box_inertia(0.4, HALF), (Geometry(BoxShape(HALF), color=(0.8, 0.3, 0.1)),), material=Material(friction=0.5, restitution=0.1))
TWIN = RigidTwin(RigidWorld((BLOCK,)), dt=DT, substeps=8, appearance={"block": surface_splats(BLOCK.geometries, spacing=0.012)})
STARTS = torch.tensor([[0.0, 0.0, 0.0299, 1.0, 0.0, 0.0, 0.0]] * 2, dtype=torch.float64)
TWISTS = torch.tensor([[0.9, 0.0, 0.0, 0.0, 0.0, 2.0], [0.6, 0.5, 0.0, 0.0, 0.0, -3.0]], dtype=torch.float64)
TRUTH = 0.3


def slid(friction: float | Tensor) -> Trajectory:
    """Two slides under a friction, batch axes (2,) or (2, E)."""
    twin, state = TWIN.with_parameters({"friction": friction}), TWIN.state(STARTS, TWISTS)
    members = twin.spec.members
    return twin.rollout(state.unsqueeze(1).expand(2, members) if members > 1 else state, torch.zeros(2, H, 0, dtype=torch.float64))


def cameras() -> Camera:
    """Two, which look down on the slides from two sides."""
    each = [Camera.look_at(eye, (0.12, 0.05, 0.0), width=48, height=32) for eye in ((0.1, -0.4, 0.5), (0.6, 0.2, 0.5))]
    return Camera(torch.stack([c.intrinsics for c in each]), torch.stack([c.world_from_camera for c in each]), 48, 32)


def measured(kind: str, noise: float = 0.0) -> Measurement:
    """The slides under the true friction, as a sensor sees them."""
    trajectory, generator = slid(TRUTH), torch.Generator().manual_seed(0)
    if kind == "poses":
        return PoseMeasurement(trajectory.poses(), ("block",))
    if kind in ("both", "a_to_b", "b_to_a"):
        points = trajectory.points().positions
        return PointMeasurement(points + noise * torch.randn(points.shape, generator=generator, dtype=torch.float64), direction=kind)  # type: ignore[arg-type]
    splats = trajectory.scene.splats(trajectory.states).float().reshape(-1)
    drawn = render(splats, cameras()[None], background=(1.0, 1.0, 1.0), antialiased=True)
    picture = (drawn.alpha if kind == "masks" else drawn.image).unflatten(0, (2, H + 1)).clone()
    picture[:, 1::2] = math.nan  # every second instant was not filmed
    return ImageMeasurement(picture + noise * torch.randn(picture.shape, generator=generator), cameras())


KINDS = ("poses", "both", "a_to_b", "b_to_a", "masks", "pictures")


@pytest.mark.parametrize("kind", KINDS)
def test_residuals_are_zero_at_the_truth_and_grow_away_from_it(kind: str) -> None:
    """Also beside members, one of which is the truth."""
    measurement = measured(kind)
    frictions = torch.tensor([TRUTH, 0.33, 0.4, 0.5], dtype=torch.float64)
    found = measurement.residual(slid(frictions))
    assert set(found) == set(measurement.scales)
    for name, alone in measurement.residual(slid(TRUTH)).items():
        assert found[name].shape == (2, 4, H, alone.shape[-1]) and alone.shape[:2] == (2, H)
        torch.testing.assert_close(found[name][:, 0], alone, rtol=0, atol=1e-4, equal_nan=True)
        size = found[name].square().nanmean(dim=(0, 2, 3)).sqrt()
        assert float(size[0]) < 1e-4
        assert size.tolist() == sorted(size.tolist()) and float(size[1]) > 10 * float(size[0]) and float(size[1]) > 1e-4
        magnitude = measurement.magnitude(found[name])
        assert magnitude.shape == (2, 4, H) and float(magnitude[:, 3].nanmean()) > float(magnitude[:, 1].nanmean())
        second = measurement[1:].residual(slid(frictions)[1:])[name]
        torch.testing.assert_close(second[0], found[name][1], equal_nan=True, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "noise"), [("both", 2e-3), ("b_to_a", 2e-3), ("masks", 0.02), ("pictures", 0.02)])
def test_friction_is_found_without_poses(kind: str, noise: float) -> None:
    """With an interval that holds it and is narrow: what is compared has a slope at the truth, unlike a distance."""
    recording: Recording[RigidState] = Recording(TWIN.state(STARTS, TWISTS), torch.zeros(2, H, 0, dtype=torch.float64), measurements=(measured(kind, noise),))
    settings = Settings(evaluations=12, iterations=5, step=0.02 if kind in ("masks", "pictures") else 1e-3, explore=0)
    fit = calibrate(TWIN, recording, ("friction",), held_out=None, settings=settings, progress=False)
    assert fit.values["block.friction"] == pytest.approx(TRUTH, rel=0.03)
    low, high = fit.intervals()["block.friction"]
    assert low < TRUTH * 1.01 and high > TRUTH * 0.99 and high - low < 0.06
    assert not fit.warnings


def test_a_cloud_tells_where_a_body_is_and_how_it_is_turned() -> None:
    """In metres, and seen half only: the other side is not missed."""
    trajectory = slid(TRUTH)
    points = trajectory.points().positions.clone()
    points[..., 32:, :] = math.nan
    moved = points + torch.tensor([0.004, 0.0, 0.0])
    found = PointMeasurement(moved).residual(trajectory)["points"]
    assert found.shape == (2, H, 6)
    torch.testing.assert_close(found[..., 0], torch.full((2, H), -0.004, dtype=torch.float64), rtol=0.1, atol=0)
    assert float(found[..., 1:3].abs().max()) < 1e-3


def test_clouds_with_gaps() -> None:
    """Instants and points without numbers say nothing; a prediction that is no number is one of the residual, and stops nothing."""
    measurement = measured("b_to_a")
    assert isinstance(measurement, PointMeasurement)
    holes = measurement.points.clone()
    holes[:, 3], holes[0, 5, :10] = math.nan, math.nan
    found = PointMeasurement(holes).residual(slid(TRUTH))["points"]
    assert bool(found[:, 2].isnan().all()) and bool(found[:, 4].isfinite().all()) and float(found.nan_to_num().abs().max()) < 1e-9
    trajectory = slid(TRUTH)
    configuration = trajectory.states.configuration.clone()
    configuration[0, 4] = math.nan
    broken = replace(trajectory, states=trajectory.states.replace(configuration=configuration))
    found = measurement.residual(broken)["points"]
    assert bool(found[0, 3].isnan().all()) and bool(found[1].isfinite().all()) and bool(found[0, 4:].isfinite().all())


@pytest.mark.parametrize("kind", ["poses", "b_to_a", "masks"])
def test_what_was_measured_since_an_instant(kind: str) -> None:
    """Before it nothing is compared, from it on all as it was; the trajectories are whole, and the measurement itself stays."""
    measurement, trajectory = measured(kind), slid(0.5)
    whole, late = measurement.residual(trajectory), measurement.since(4).residual(trajectory)
    for name, value in late.items():
        assert value.shape == whole[name].shape and bool(value[:, :3].isnan().all())  # residuals begin at instant 1
        assert torch.equal(value[:, 3:].nan_to_num(7.0), whole[name][:, 3:].nan_to_num(7.0)) and bool(value[:, 3:].isfinite().any())
    assert bool(measurement.measured[:, 0].isfinite().all())
    with pytest.raises(ValueError, match=f"since needs an instant from 0 to {H}, got {H + 1}"):
        measurement.since(H + 1)
    holes = replace(measurement, **{fields(measurement)[0].name: measurement.measured.index_fill(1, torch.arange(4, H + 1), math.nan)})
    with pytest.raises(ValueError, match="after the start"):
        holes.since(4)


def test_gradients_of_a_cloud_are_those_of_differences() -> None:
    measurement = measured("both")

    def loss(friction: Tensor) -> Tensor:
        return measurement.residual(slid(friction))["points"].square().sum()

    at = torch.tensor(0.34, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(at), at)
    with torch.no_grad():
        difference = (loss(at + 1e-5) - loss(at - 1e-5)) / 2e-5
    assert float(gradient) == pytest.approx(float(difference), rel=1e-2)


POSES = torch.zeros(2, H + 1, 1, 7, dtype=torch.float64)
POSES[..., 3] = 1.0
CLOUD = torch.zeros(2, H + 1, 5, 3)
MASKS = torch.zeros(2, H + 1, 2, 32, 48)


def recorded(*measurements: Measurement, **observed: Tensor) -> Recording[RigidState]:
    return Recording(TWIN.state(STARTS, TWISTS), torch.zeros(2, H, 0), observed, dict.fromkeys(observed, 0.01), measurements=measurements)


REFUSED: list[tuple[Any, str]] = [
    (lambda: PoseMeasurement(POSES, ("block", "other")), r"poses \(N, H\+1, 2, 7\)"),
    (lambda: PoseMeasurement(POSES.repeat(1, 1, 2, 1), ("block", "block")), "each body once, got 'block' twice"),
    (lambda: PoseMeasurement(POSES * math.nan, ("block",)), "no finite pose"),
    (lambda: PoseMeasurement(POSES.flip(-1) * 2, ("block",)), "unit quaternions"),
    (lambda: PointMeasurement(CLOUD[..., :2]), r"points \(N, H\+1, P, 3\)"),
    (lambda: PointMeasurement(CLOUD * math.nan), "no finite point"),
    (lambda: PointMeasurement(CLOUD, direction="there"), "both, a_to_b or b_to_a, got 'there'"),  # type: ignore[arg-type]
    (lambda: PointMeasurement(CLOUD, scale=0.0), "scale must be above zero"),
    (lambda: ImageMeasurement(MASKS[..., :40], cameras()), r"masks \(N, H\+1, V, 32, 48\)"),
    (lambda: ImageMeasurement(MASKS[:, :, :1], cameras()), "of \\(2,\\) cameras"),
    (lambda: ImageMeasurement(MASKS, cameras(), tile=5), "tile that divides 48 x 32"),
    (lambda: ImageMeasurement(MASKS * math.nan, cameras()), "no image after the start"),
    (lambda: recorded(PointMeasurement(CLOUD), PointMeasurement(CLOUD)), "Two measurements are called 'points'; join them into one"),
    (lambda: recorded(PointMeasurement(CLOUD[:1])), r"of \(1, 8\) trajectories and steps; the recording has \(2, 8\)"),
    (lambda: recorded(PointMeasurement(CLOUD), points=torch.zeros(2, H + 1)), "both called 'points'; leave one out"),
    (lambda: PoseMeasurement(POSES, ("brick",)).residual(slid(TRUTH)), "poses of 'brick', which is no body of this model; it has block"),
    (lambda: ImageMeasurement(MASKS, cameras()).check(RigidTwin(RigidWorld((BLOCK,)), dt=DT).scene), "needs the view 'splats', which the model does not offer"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_measurements_that_cannot_be(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
