"""Joints and actuators of `RigidTwin` against closed forms and conservation laws.

Everything is in float64 but where a test says so. The default substep of these tests, 2.5 ms, is that of a step of 10 ms with four substeps.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ellipk
from torch import Tensor

from structwm.geometry import quaternion_to_matrix
from structwm.physics.rigid import RigidTwin
from structwm.physics.rigid_scene import RigidState
from structwm.physics.rigid_world import (
    Actuator,
    Body,
    BoxShape,
    Geometry,
    Joint,
    RigidWorld,
    drive,
)

from .rigid_worlds import HALF, G, block, exact, numbers, pose, rod, run, still


def swing(twin: RigidTwin, steps: int, *, angle: float = 0.0, rate: float = 0.0) -> tuple[Tensor, Tensor]:
    """Angle and rate (H+1,) of a world of one hinge."""
    states = run(twin, twin.state(positions={"rod": still(angle)}, rates={"rod": still(rate)}), steps)
    return states.configuration[:, 0], states.velocity[:, 0]


def period(times: Tensor, values: Tensor) -> float:
    """Of an oscillation about 0, from its rising zeros."""
    rising = ((values[:-1] < 0) & (values[1:] >= 0)).nonzero().squeeze(-1)
    zeros = times[rising] - values[rising] * (times[rising + 1] - times[rising]) / (values[rising + 1] - values[rising])
    return float(zeros.diff().mean())


@pytest.mark.parametrize("amplitude", [0.05, 1.0, 2.5])
def test_the_period_of_a_pendulum(amplitude: float) -> None:
    twin = RigidTwin(RigidWorld((rod(),), fixtures=()), dt=0.01)
    angle, _ = swing(twin, 600, angle=amplitude)
    small = 2 * math.pi * math.sqrt(0.006 / (0.2 * G * 0.15))
    exact = small * 2 / math.pi * ellipk(math.sin(amplitude / 2) ** 2)
    assert period(torch.arange(601) * 0.01, angle) == pytest.approx(exact, rel=0.01)


def energies(twin: RigidTwin, states: RigidState) -> Tensor:
    """Kinetic and potential energy of all bodies (..., ) [J]."""
    poses, twists = twin.scene.kinematics(states)
    total = torch.zeros(poses.shape[:-2], dtype=torch.float64)
    for k, body in enumerate(twin.world.bodies):
        turn = quaternion_to_matrix(poses[..., k, 3:])
        arm = (turn @ numbers(*body.com).unsqueeze(-1)).squeeze(-1)
        speed = twists[..., k, :3] + torch.linalg.cross(twists[..., k, 3:], arm)
        spin = (turn.mT @ twists[..., k, 3:].unsqueeze(-1)).squeeze(-1)
        total += body.mass * speed.square().sum(-1) / 2 + (spin * (torch.as_tensor(body.inertia) @ spin.unsqueeze(-1)).squeeze(-1)).sum(-1) / 2
        total += body.mass * float(twin.values["gravity"]) * (poses[..., k, 2] + arm[..., 2])
    return total


def drift(links: int, start: float, substeps: int) -> float:
    """Of the energy of links that swing for 2 s, from the mean over the first half second to that over the last, relative to that above rest."""
    bodies = (rod(), rod(name="tip", parent="rod", place=-0.3), rod(name="end", parent="tip", place=-0.3))[:links]
    twin = RigidTwin(RigidWorld(bodies, fixtures=()), dt=0.01, substeps=substeps)
    energy = energies(twin, run(twin, twin.state(positions={body.name: still(start) for body in bodies}), 200))
    energy = energy - energies(twin, twin.state(positions={"rod": still()}))
    return float((energy[-50:].mean() - energy[:50].mean()) / energy[0])


@pytest.mark.parametrize("start", [0.5, 2.0])
@pytest.mark.parametrize(("links", "substeps"), [(1, 2), (1, 4), (2, 2), (2, 4), (3, 4)])
def test_pendulums_keep_their_energy(links: int, start: float, substeps: int) -> None:
    assert abs(drift(links, start, substeps)) < 0.005


def test_a_tumbling_body_keeps_energy_and_momentum() -> None:
    """Without torque, about its unstable middle axis."""
    body = block(half=(0.03, 0.05, 0.08), com=(0.01, -0.02, 0.0))
    twin = RigidTwin(RigidWorld((body,), fixtures=()), dt=0.01)
    states = run(twin, twin.state(pose(0.0, 0.0, 0.0), numbers(0.3, 0.1, 2.0, 0.3, 9.0, 0.2)), 200)
    turn = quaternion_to_matrix(states.configuration[:, 3:])
    inertia = torch.as_tensor(body.inertia)
    spin = (turn.mT @ states.velocity[:, 3:].unsqueeze(-1)).squeeze(-1)
    assert float(spin[:, 1].min()) < -8.0  # it flips
    momentum = (turn @ (inertia @ spin.unsqueeze(-1))).squeeze(-1)
    assert float((momentum - momentum[0]).norm(dim=-1).max()) < 1e-12 * float(momentum[0].norm())
    energy = (spin * (inertia @ spin.unsqueeze(-1)).squeeze(-1)).sum(-1)
    assert float((energy / energy[0] - 1).abs().max()) < 0.005


def test_joint_damping_decays_exponentially() -> None:
    twin = RigidTwin(RigidWorld((rod(axis=(0.0, 0.0, 1.0), damping=2e-5),), fixtures=()), dt=0.01)
    _, rate = swing(twin, 100, rate=3.0)
    assert rate[-1].item() == pytest.approx(3.0 * math.exp(-1.0 * 2e-5 / 1e-5), rel=0.005)


def test_dry_friction_decays_linearly_to_a_stop() -> None:
    twin = RigidTwin(RigidWorld((rod(axis=(0.0, 0.0, 1.0), friction=4e-5),), fixtures=()), dt=0.01)
    _, rate = swing(twin, 100, rate=3.0)
    assert rate[50].item() == pytest.approx(3.0 - 0.5 * 4.0, rel=0.02)
    assert abs(rate[-1].item()) < 0.005


def test_armature_slows_a_pendulum() -> None:
    periods = []
    for armature in (0.0, 0.009):
        twin = RigidTwin(RigidWorld((rod(armature=armature),), fixtures=()), dt=0.01)
        periods.append(period(torch.arange(601) * 0.01, swing(twin, 600, angle=0.3)[0]))
    assert periods[1] / periods[0] == pytest.approx(math.sqrt((0.006 + 0.009) / 0.006), rel=0.002)


def test_the_frequency_of_a_joint_s_spring() -> None:
    """About an upright axis, on which weight has no effect, and of a mass that hangs on a spring."""
    twin = RigidTwin(RigidWorld((rod(axis=(0.0, 0.0, 1.0), stiffness=1e-3, rest=0.4),), fixtures=()), dt=0.01)
    angle, _ = swing(twin, 600, angle=1.0)
    assert period(torch.arange(601) * 0.01, angle - 0.4) == pytest.approx(2 * math.pi * math.sqrt(1e-5 / 1e-3), rel=0.01)
    mass = Body("rod", 0.5, 1e-3, joint=Joint("slide", stiffness=20.0))
    twin = RigidTwin(RigidWorld((mass,), fixtures=()), dt=0.01)
    height, _ = swing(twin, 600)
    assert period(torch.arange(601) * 0.01, height + 0.5 * G / 20) == pytest.approx(2 * math.pi * math.sqrt(0.5 / 20), rel=0.01)
    assert height.min().item() == pytest.approx(-2 * 0.5 * G / 20, rel=0.01)


def test_limits_hold() -> None:
    """A pendulum thrown against its limit comes back and, leaning on it, sags by less than a hundredth of a radian."""
    twin = RigidTwin(RigidWorld((rod(low=-0.5, high=0.7),), fixtures=()), dt=0.01)
    angle, _ = swing(twin, 300, rate=6.0)
    assert 0.7 < angle.max().item() < 0.7 + 6.0 * 0.02
    assert angle.min().item() > -0.5 - 6.0 * 0.02
    for axis, limit in (((0.0, 1.0, 0.0), {"low": 0.5, "high": 1.5}), ((0.0, 1.0, 0.0), {"low": -1.5, "high": -0.5})):
        twin = RigidTwin(RigidWorld((rod(axis=axis, damping=0.01, **limit),), fixtures=()), dt=0.01)
        leaning = math.copysign(0.5, limit["low"])
        angle, rate = swing(twin, 200, angle=leaning * 1.5)
        assert angle[-1].item() == pytest.approx(leaning, abs=0.01)
        assert abs(rate[-1].item()) < 1e-6


# actuators


def test_an_effort_accelerates_by_force_over_mass() -> None:
    cart = Body("rod", 0.5, 1e-3, joint=Joint("slide", axis=(1.0, 0.0, 0.0), armature=0.25))
    twin = RigidTwin(RigidWorld((cart,), fixtures=(), actuators=(Actuator("rod", "effort", -3.0, 3.0, gain=2.0),)), dt=0.01)
    states = run(twin, twin.state(positions={"rod": still()}), 50, numbers(1.5))
    assert states.velocity[-1, 0].item() == pytest.approx(0.5 * 2.0 * 1.5 / 0.75, rel=1e-12)


def test_a_position_servo_reaches_its_set_point() -> None:
    """Beside its weight, by which it sags."""
    servo = Actuator("rod", "position", -2.0, 2.0, gain=0.5, stiffness=3.0, damping=0.2)
    twin = RigidTwin(RigidWorld((rod(),), fixtures=(), actuators=(servo,)), dt=0.01)
    states = run(twin, twin.state(positions={"rod": still()}), 300, numbers(2.0))
    angle, rate = states.configuration[-1, 0].item(), states.velocity[-1, 0].item()
    assert 3.0 * (1.0 - angle) == pytest.approx(0.2 * G * 0.15 * math.sin(angle), rel=1e-6)
    assert abs(rate) < 1e-6


@pytest.mark.parametrize("axis", range(6))
def test_a_wrench_on_a_free_body(axis: int) -> None:
    """Force over mass and torque over inertia, along the world's axes, whichever way the body is turned; beside its weight."""
    quarter = (math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0)  # about y: the body's z is the world's x
    body = block(half=(0.03, 0.05, 0.08))
    twin = exact(RigidWorld((body,), fixtures=(), actuators=(Actuator("block", "wrench", -1.0, 1.0, axis=axis, gain=0.02),)), dt=0.01)
    states = run(twin, twin.state(pose(0.0, 0.0, 0.0, turn=quarter)), 20, numbers(1.0))
    moments = [body.inertia[2, 2], body.inertia[1, 1], body.inertia[0, 0]]
    expected = numbers(0.0, 0.0, -G * 0.2, 0.0, 0.0, 0.0)
    expected[axis] += 0.2 * 0.02 / (0.5 if axis < 3 else moments[axis - 3])
    torch.testing.assert_close(states.velocity[-1], expected, rtol=1e-9, atol=1e-9)


def test_a_wrench_on_a_link_is_its_power() -> None:
    """A force at the origin of the second link of an upright double pendulum turns the first."""
    bodies = (rod(), rod(name="tip", parent="rod", place=-0.3))
    twin = exact(RigidWorld(bodies, fixtures=(), actuators=(Actuator("tip", "wrench", -1.0, 1.0, axis=0),)), dt=1e-5, substeps=1)
    rate = run(twin, twin.state(positions={"rod": still()}), 1, numbers(1.0)).velocity[-1] / 1e-5
    mass = np.array([[0.006 + 0.2 * 0.3**2 + 2 * 0.2 * 0.3 * 0.15 + 0.006, 0.006 + 0.2 * 0.3 * 0.15], [0.006 + 0.2 * 0.3 * 0.15, 0.006]])
    np.testing.assert_allclose(rate.numpy(), np.linalg.solve(mass, [-0.3, 0.0]), rtol=1e-9)


def test_a_driven_body_moves_as_commanded() -> None:
    """Through whatever it touches, in position and rotation; what no actuator commands goes on as it was."""
    driven = Body("pusher", 1.0, 1.0, (Geometry(BoxShape((0.02, 0.02, 0.02))),), joint=Joint("driven"))
    twin = RigidTwin(RigidWorld((block(), driven), actuators=drive("pusher", 1.0, turning=2.0, axes=(0, 1))), dt=0.01)
    start = twin.state({"block": pose(0.0, 0.0, HALF), "pusher": pose(-0.08, 0.0, HALF)}, {"pusher": numbers(0.0, 0.0, 0.05, 0.0, 0.0, 0.0)})
    states = run(twin, start, 50, numbers(0.3, -0.1, 0.0, 0.0, 1.5))
    torch.testing.assert_close(states.configuration[-1, 7:10], numbers(-0.08 + 0.15, -0.05, HALF + 0.025), rtol=0, atol=1e-12)
    torch.testing.assert_close(states.configuration[-1, 10:], numbers(math.cos(0.375), 0.0, 0.0, math.sin(0.375)), rtol=0, atol=1e-9)
    torch.testing.assert_close(states.velocity[-1, 6:], numbers(0.3, -0.1, 0.05, 0.0, 0.0, 1.5), rtol=0, atol=0)
    assert states.configuration[-1, 0].item() > 0.05
