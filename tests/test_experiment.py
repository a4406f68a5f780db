"""Suggested experiments tell more than others, by what is known after they were done; and what cannot be suggested is refused."""

from __future__ import annotations

from collections.abc import Callable
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
    PoseMeasurement,
    Recording,
    RigidState,
    RigidTwin,
    RigidWorld,
    Settings,
    SphereShape,
    box_inertia,
    calibrate,
)
from structwm.physics.experiment import InformationGain, stencil
from structwm.planning import CEM, MPPI
from tests.test_calibration import recorded

H = 20
HALF = (0.05, 0.05, 0.05)
PARAMETERS = ("mass", "friction")
BLOCK = Body("block", 0.4, box_inertia(0.4, HALF), (Geometry(BoxShape(HALF)),), material=Material(friction=0.4, restitution=0.1))
PUSHED = RigidTwin(RigidWorld((BLOCK,), actuators=(Actuator("block", "wrench", -6.0, 6.0, axis=0, name="push"),)), dt=0.02)
BALL = Body("ball", 0.2, 1e-4, (Geometry(SphereShape(0.03)),), material=Material(restitution=0.5, stiffness=2000.0))
LIFTED = RigidTwin(RigidWorld((BALL,), actuators=(Actuator("ball", "wrench", -4.0, 4.0, axis=2, name="lift"),)), dt=0.02)


def at(twin: RigidTwin, height: float) -> RigidState:
    """At rest above the ground, batch size (1,), float64."""
    return twin.state(torch.tensor([[0.0, 0.0, height, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64))


def done(twin: RigidTwin, truth: dict[str, float], height: float, actions: Tensor, seed: int = 0) -> Recording[RigidState]:
    """What is seen when actions (1, H, 1) are done: poses with an error of a millimetre and a hundredth of a radian."""
    generator = torch.Generator().manual_seed(seed)
    start = at(twin, height)
    poses = twin.with_parameters(truth).rollout(start, actions.double()).states.configuration.clone()
    poses[:, 1:] += torch.tensor([1e-3] * 3 + [5e-3] * 4) * torch.randn(1, H, 7, generator=generator, dtype=torch.float64)
    poses[..., 3:] /= poses[..., 3:].norm(dim=-1, keepdim=True)
    return Recording(start, actions.double(), measurements=(PoseMeasurement(poses.unsqueeze(2), (twin.world.bodies[0].name,), 2e-3, 0.01),))


def by_chance(seed: int, size: float) -> Tensor:
    """Even actions (1, H, 1) between bounds."""
    return size * (2 * torch.rand(1, H, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1)


def width(calibration: Calibration[Any]) -> Tensor:
    """Geometric mean over parameters of the posterior's standard deviations."""
    return calibration.covariance.diagonal().log().mean().mul(0.5).exp()


QUICK = Settings(evaluations=0, iterations=6, block=1)
TRUTH = {"block.mass": 0.55, "block.friction": 0.25}


@pytest.fixture(scope="module")
def block() -> Calibration[RigidTwin]:
    """A block of which one weak push was seen."""
    return calibrate(PUSHED, done(PUSHED, TRUTH, 0.0499, by_chance(1, 3.0)), PARAMETERS, held_out=None, settings=QUICK, progress=False)


@pytest.mark.parametrize("planner", [CEM(horizon=H, samples=48, iterations=3, knots=4), MPPI(horizon=H, samples=48, iterations=3, knots=4)])
def test_a_suggested_push_tells_more_than_others(block: Calibration[RigidTwin], planner: CEM | MPPI) -> None:
    """What is known of mass and friction once it was done and seen, against pushes at random, each done and seen likewise."""
    plan = block.suggest_actions(planner, at(PUSHED, 0.0499))
    after = block.update(done(PUSHED, TRUTH, 0.0499, plan.actions, seed=1), settings=QUICK)
    others = [width(block.update(done(PUSHED, TRUTH, 0.0499, by_chance(seed, 6.0), seed), settings=QUICK)) for seed in range(10, 16)]
    assert width(after) < 0.6 * torch.stack(others).mean()
    assert width(after) < 0.3 * width(block)
    for name, value in TRUTH.items():
        assert after.values[name] == pytest.approx(value, rel=0.05)


def test_a_gain_is_what_an_update_finds(block: Calibration[RigidTwin]) -> None:
    """The information promised is about that by which log det of the covariance falls: the promise reads points without rotations' own errors."""
    plan = block.suggest_actions(CEM(horizon=H, samples=32, iterations=2, knots=4), at(PUSHED, 0.0499))
    after = block.update(done(PUSHED, TRUTH, 0.0499, plan.actions, seed=2), settings=QUICK)
    gained = 0.5 * (torch.logdet(block.covariance) - torch.logdet(after.covariance))
    assert float(gained) == pytest.approx(-float(plan.cost), rel=0.5)


@pytest.fixture(scope="module")
def ball() -> Calibration[RigidTwin]:
    """A ball that was seen to fly only."""
    settings = Settings(evaluations=0, iterations=4, block=1)
    return calibrate(LIFTED, done(LIFTED, {}, 0.3, torch.full((1, H, 1), 3.0)), ("restitution",), held_out=None, settings=settings, progress=False)


def test_a_flight_that_touches_nothing_tells_nothing(ball: Calibration[RigidTwin]) -> None:
    assert any("restitution is not identified" in sentence for sentence in ball.warnings)
    gain, twins, start = InformationGain(1, error=0.002), stencil(ball), at(LIFTED, 0.3).unsqueeze(1).expand(1, 2)
    assert float(gain(twins.rollout(start, torch.full((1, H, 1), 2.5, dtype=torch.float64)))) == pytest.approx(0.0, abs=1e-6)
    assert float(gain(twins.rollout(start, torch.zeros(1, H, 1, dtype=torch.float64)))) < -3.0  # it falls and bounces


def test_a_suggested_throw_touches(ball: Calibration[RigidTwin]) -> None:
    plan = ball.suggest_actions(CEM(horizon=H, samples=32, iterations=2, knots=3), at(LIFTED, 0.3))
    after = ball.update(done(LIFTED, {"ball.restitution": 0.7}, 0.3, plan.actions))
    assert float(LIFTED.rollout(at(LIFTED, 0.3), plan.actions).states.configuration[..., 2].min()) < 0.03
    low, high = after.intervals()["ball.restitution"]
    assert low < 0.7 < high and high - low < 0.05
    assert not after.warnings  # what was not identified is


def test_bodies_that_stand_by_do_not_dilute_a_gain() -> None:
    """The points of each body count as one: a second block far away says nothing, and takes nothing away."""
    gains = []
    for bodies in ((BLOCK,), (BLOCK, Body("far", 1.0, 0.01, (Geometry(BoxShape(HALF)),)))):
        twin = RigidTwin(RigidWorld(bodies, actuators=(Actuator("block", "wrench", -6.0, 6.0, axis=0),)), dt=0.02)
        pair = twin.with_parameters({"block.friction": torch.tensor([0.2, 0.3])})
        poses = {body.name: torch.tensor([[[float(k), 0.0, 0.0499, 1.0, 0.0, 0.0, 0.0]] * 2]) for k, body in enumerate(bodies)}
        gains.append(float(InformationGain(1, error=0.002)(pair.rollout(twin.state(poses), torch.full((1, H, 1), 4.0)))))
    assert gains[0] < -1.0
    assert gains[1] == pytest.approx(gains[0], rel=1e-4)


BAD: list[tuple[Callable[[Calibration[RigidTwin]], Any], type[Exception], str]] = [
    (lambda c: c.suggest_actions(CEM(horizon=H), at(PUSHED, 0.05), horizon=5), ValueError, "asked for 5 steps, and the planner plans 20"),
    (lambda c: c.suggest_actions("cem", at(PUSHED, 0.05)), TypeError, "needs a planner of structwm.planning.* got str"),
    (lambda c: c.suggest_actions(CEM(horizon=H), torch.zeros(13)), ValueError, "needs a RigidState of batch size .* got Tensor"),
    (lambda c: c.suggest_actions(CEM(horizon=H), at(PUSHED, 0.05).unsqueeze(0)), ValueError, r"batch size \(1, 1\)"),
    (lambda c: InformationGain(0, error=0.01), ValueError, "one direction or more"),
    (lambda c: InformationGain(1, error=0.0), ValueError, "above zero"),
    (lambda c: InformationGain(3, error=0.1)(stencil(c).rollout(at(PUSHED, 0.05).unsqueeze(1).expand(1, 4), torch.zeros(1, H, 1))), ValueError, "6 members"),
]


@pytest.mark.parametrize(("call", "kind", "words"), BAD)
def test_what_cannot_be_suggested(block: Calibration[RigidTwin], call: Callable[[Any], Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call(block)


def test_a_twin_without_actions_has_none_to_suggest() -> None:
    twin = RigidTwin(RigidWorld((BLOCK,)), dt=0.02)
    poses = twin.rollout(at(twin, 0.0499), torch.zeros(1, H, 0)).states.configuration.unsqueeze(2)
    recording = Recording(at(twin, 0.0499), torch.zeros(1, H, 0), measurements=(PoseMeasurement(poses, ("block",)),))
    calibration = calibrate(twin, recording, ("friction",), held_out=None, settings=Settings(evaluations=0, iterations=1), progress=False)
    with pytest.raises(ValueError, match="takes no actions, so there is none to suggest; give its world an actuator"):
        calibration.suggest_actions(CEM(horizon=H), at(twin, 0.05))


def test_planar_pushes_can_be_suggested() -> None:
    """Another family of twins: a pusher that stands off a side is told to push, not to go away."""
    twin, recording = recorded(6)
    short = calibrate(twin, recording, ("friction",), held_out=None, settings=Settings(evaluations=0, iterations=3), progress=False)
    plan = short.suggest_actions(CEM(horizon=1, samples=24, iterations=2), recording.state[:1])
    away = InformationGain(1, error=0.005)(stencil(short).rollout(recording.state[:1].unsqueeze(1).expand(1, 2), -plan.actions.double()))
    assert float(away) == pytest.approx(0.0, abs=1e-6)
    assert float(plan.cost) < -0.1
