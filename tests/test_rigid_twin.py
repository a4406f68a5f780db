"""`RigidTwin` against independent implementations, and under parameters and batches of all kinds.

Everything is in float64 but where a test says so. The default substep of these tests, 2.5 ms, is that of a step of 10 ms with four substeps.
"""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from structwm.check import check_model
from structwm.geometry import quaternion_to_matrix
from structwm.physics.rigid import RigidTwin
from structwm.physics.rigid_parameters import damping_ratio
from structwm.physics.rigid_scene import RigidState
from structwm.physics.rigid_world import (
    Body,
    Joint,
    RigidWorld,
)

from .rigid_worlds import BALL, WORLDS, G, SmallWorld, arm, arm_links, ball, cube_on_plane, exact, numbers, pose, pushed, rod, run, still

# independent implementations


def double_pendulum(angles: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Accelerations of two equal rods from the textbook's equations in absolute angles, given and returned as the twin's relative ones."""
    mass, length, middle, inertia = 0.2, 0.3, 0.15, 0.0015
    a, b = angles[0], angles[0] + angles[1]
    p, q = rates[0], rates[0] + rates[1]
    coupling = mass * length * middle
    matrix = np.array([[inertia + mass * middle**2 + mass * length**2, coupling * math.cos(a - b)], [coupling * math.cos(a - b), inertia + mass * middle**2]])
    right = np.array(
        [
            -coupling * math.sin(a - b) * q * q - mass * G * (middle + length) * math.sin(a),
            coupling * math.sin(a - b) * p * p - mass * G * middle * math.sin(b),
        ]
    )
    absolute = np.linalg.solve(matrix, right)
    return np.array([absolute[0], absolute[1] - absolute[0]])


def test_a_double_pendulum_by_its_textbook_equations() -> None:
    """Step by step with the same rule (angles half a substep ahead, rates in the middle), and against a far finer Runge-Kutta integration."""
    from scipy.integrate import solve_ivp

    bodies = (rod(), rod(name="tip", parent="rod", place=-0.3))
    twin = exact(RigidWorld(bodies, fixtures=()), dt=0.01)
    states = run(twin, twin.state(positions={"rod": still(1.2), "tip": still(-0.7)}, rates={"rod": still(-2.0), "tip": still(3.0)}), 100)
    angles, rates = np.array([1.2, -0.7]), np.array([-2.0, 3.0])
    for step in range(100):
        angles = angles + 0.00125 * rates
        for _ in range(4):
            middle = rates + 0.00125 * double_pendulum(angles, rates)
            rates = rates + 0.0025 * double_pendulum(angles, middle)
            angles = angles + 0.0025 * rates
        angles = angles - 0.00125 * rates
        np.testing.assert_allclose(states.configuration[step + 1].numpy(), angles, rtol=0, atol=1e-8)
        np.testing.assert_allclose(states.velocity[step + 1].numpy(), rates, rtol=0, atol=1e-7)
    fine = exact(RigidWorld(bodies, fixtures=()), dt=0.01, substeps=1000)
    start = fine.state(positions={"rod": still(1.2), "tip": still(-0.7)}, rates={"rod": still(-2.0), "tip": still(3.0)})
    truth = solve_ivp(lambda t, y: np.r_[y[2:], double_pendulum(y[:2], y[2:])], (0, 0.5), [1.2, -0.7, -2.0, 3.0], rtol=1e-10, atol=1e-10).y[:, -1]
    np.testing.assert_allclose(run(fine, start, 50).configuration[-1].numpy(), truth[:2], rtol=0, atol=1e-3)


def bounce(place: np.ndarray, velocity: np.ndarray, spin: np.ndarray, values: dict[str, float], substeps: int, seconds: float) -> tuple[np.ndarray, ...]:
    """A ball on a plane under the law that `structwm.kernels.rigid_laws` states, in plain numpy; `spin_size` is the ball's radius."""
    up, radius, mass, inertia = np.array([0.0, 0.0, 1.0]), 0.05, 0.3, BALL
    slow = values["slip_speed"]
    place = place + 0.5 * seconds * velocity
    for _ in range(substeps):
        gap, contact = place[2] - radius, velocity + np.cross(spin, -radius * up)
        width = values["smoothing"] + 0.5 * seconds * abs(contact[2])
        force, torque = np.zeros(3), np.zeros(3)
        if gap < width:
            depth = max(-gap, 0.0) if abs(gap) >= width else (width - gap) ** 2 / (4 * width)
            share = 1.0 if -gap >= width else (width - gap) / (2 * width)
            away, slip = contact[2], contact * (1, 1, 0)
            damper = 2 * share * values["ratio"] * math.sqrt(values["stiffness"] * mass)
            press = max(values["stiffness"] * depth - damper * away, 0.0) / (1 + 0.5 * seconds * damper / mass)
            stop = 2 * values["friction"] * press * seconds * (1 / mass + radius**2 / inertia)
            force = press * up - values["friction"] * press * slip / math.sqrt(slip @ slip + slow**2 + stop**2)
            ease, floor = 2 * press * seconds / inertia, (slow / radius) ** 2
            about, roll = spin[2], spin * (1, 1, 0)
            torque = -values["torsion"] * press * about / math.sqrt(about**2 + floor + (values["torsion"] * ease) ** 2) * up
            torque -= values["rolling"] * press * roll / math.sqrt(roll @ roll + floor + (values["rolling"] * ease) ** 2)
            torque += np.cross(-radius * up, force)
        velocity = velocity + seconds * (force / mass - G * up)
        spin = spin + seconds * torque / inertia
        place = place + seconds * velocity
    return place - 0.5 * seconds * velocity, velocity, spin


def test_a_ball_that_bounces_by_the_stated_law() -> None:
    twin = exact(
        RigidWorld((ball(),)),
        dt=0.01,
        ball__friction=0.4,
        ball__restitution=0.6,
        ball__torsional_friction=0.003,
        ball__rolling_friction=0.001,
        smoothing=5e-4,
        slip_speed=0.01,
    )
    values = {name: float(twin.values[name]) for name in ("smoothing", "slip_speed")} | {"stiffness": float(twin.values["ball.stiffness"])}
    values |= {"friction": 0.4, "torsion": 0.003, "rolling": 0.001, "ratio": float(damping_ratio(still(0.6)))}
    states = run(twin, twin.state(pose(0.0, 0.0, 0.07), numbers(0.5, -0.3, -1.0, 3.0, 5.0, 8.0)), 80)
    now = (np.array([0.0, 0.0, 0.07]), np.array([0.5, -0.3, -1.0]), np.array([3.0, 5.0, 8.0]))
    touched = 0
    for step in range(80):
        now = bounce(*now, values, 4, 0.0025)
        touched += now[0][2] < 0.05
        np.testing.assert_allclose(states.configuration[step + 1, :3].numpy(), now[0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(states.velocity[step + 1].numpy(), np.r_[now[1:]].ravel(), rtol=0, atol=1e-7)
    assert touched > 10


def mjcf(world: RigidWorld) -> str:
    """A world without contact as MuJoCo's XML."""

    def row(values: Any) -> str:
        return " ".join(f"{float(value):.17g}" for value in np.asarray(values).ravel())

    def element(body: Body) -> str:
        joint, inertia = body.joint, body.inertia
        moments = row([*np.diag(inertia), inertia[0, 1], inertia[0, 2], inertia[1, 2]])
        inertial = f'<inertial pos="{row(body.com)}" mass="{body.mass:.17g}" fullinertia="{moments}"/>'
        own = f'<joint type="{joint.kind.name.lower()}" axis="{row(joint.axis)}" armature="{joint.armature}" '
        own += f'stiffness="{joint.stiffness}" springref="{joint.rest}"/>'
        frame = f'pos="{row(joint.position)}" quat="{row(joint.rotation)}"'
        if joint.kind.name == "FREE":
            own, frame = "<freejoint/>", ""
        if joint.kind.name == "FIXED":
            own = ""
        children = "".join(element(child) for child in world.bodies if child.parent == body.name)
        return f'<body name="{body.name}" {frame}>{inertial}{own}{children}</body>'

    roots = "".join(element(body) for body in world.bodies if body.parent is None)
    return f'<mujoco><compiler angle="radian"/><option gravity="0 0 {-world.gravity}"/><worldbody>{roots}</worldbody></mujoco>'


def trees() -> dict[str, tuple[Body, ...]]:
    """Tree-like worlds without contact."""
    chain = arm_links(armature=0.003, stiffness=0.1, rest=0.2)
    tool = Body(
        "tool",
        0.1,
        ((2.5e-4, 3e-5, 0.0), (3e-5, 3e-4, 0.0), (0.0, 0.0, 2e-4)),
        com=(0.01, 0.02, 0.0),
        joint=Joint("fixed", position=(0.0, 0.03, -0.1)),
        parent="sled",
    )
    trunk = Body("trunk", 1.0, ((0.01, 1e-3, 0.0), (1e-3, 0.012, -5e-4), (0.0, -5e-4, 0.011)), com=(0.01, -0.02, 0.03))
    left, right = (
        Body(
            name,
            0.3,
            (2e-3, 2.5e-3, 5e-4),
            com=(0.01, 0.0, -0.08),
            joint=Joint("hinge", (0.3, 1.0, 0.1), (side, 0.02, 0.01), (0.8, 0.6, 0.0, 0.0)),
            parent="trunk",
        )
        for name, side in (("left", 0.1), ("right", -0.1))
    )
    foot = Body("foot", 0.1, 1e-4, com=(0.0, 0.0, -0.02), joint=Joint("slide", (0.0, 0.1, 1.0), (0.0, 0.0, -0.15)), parent="left")
    return {"arm": (*chain, tool), "floating": (trunk, left, foot, right)}


@pytest.mark.parametrize("name", ["arm", "floating"])
def test_accelerations_are_mujoco_s(name: str) -> None:
    """Of a chain with a spring, armature and a fixed tool, and of a free body with limbs, in random states: to 1e-6 of the largest."""
    mujoco = pytest.importorskip("mujoco")
    world = RigidWorld(trees()[name], fixtures=())
    seconds = 1e-9
    twin = exact(world, dt=seconds, substeps=1)
    model = mujoco.MjModel.from_xml_string(mjcf(world))
    data = mujoco.MjData(model)
    generator = np.random.default_rng(0)
    for _ in range(10):
        q, v = generator.normal(size=model.nq), 3 * generator.normal(size=model.nv)
        poses, twists = {}, {}
        jointed = [body.name for body in world.bodies if body.joint.kind.sizes[0] == 1]
        base = model.nv - len(jointed)
        if base:
            q[3:7] /= np.linalg.norm(q[3:7])
            poses = {"trunk": torch.from_numpy(q[:7].copy())}
            twists = {"trunk": torch.from_numpy(v[:6].copy())}
        positions, rates = (
            {body: torch.tensor(part[k + start]) for k, body in enumerate(jointed)} for part, start in ((q, model.nq - len(jointed)), (v, base))
        )
        start = twin.state(poses, twists, positions=positions, rates=rates, dtype=torch.float64)
        found = ((run(twin, start, 1).velocity[-1] - start.velocity) / seconds).numpy()
        data.qpos[:], data.qvel[:] = q, v
        turn = quaternion_to_matrix(torch.from_numpy(q[3:7].copy())).numpy() if base else np.eye(3)
        if base:
            data.qvel[3:6] = turn.T @ v[3:6]  # MuJoCo has the spin in the body frame
        mujoco.mj_forward(model, data)
        expected = data.qacc.copy()
        if base:
            expected[3:6] = turn @ expected[3:6]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


# parameters and batches


def test_draws_make_members() -> None:
    """Each member is the twin with that draw's numbers, alone: to the last digit."""
    case = cube_on_plane()
    twin = RigidTwin(case.world, dt=0.01)
    draws = {"friction": numbers(0.1, 0.3, 0.6), "cube.size": numbers(1.0, 1.1, 0.9), "mass": numbers(0.3, 0.4, 0.5), "com_x": numbers(0.0, 0.01, -0.01)}
    many = twin.with_parameters(draws)
    assert many.spec.members == 3 and twin.spec.members == 1
    start = case.start(twin)
    together = run(many, start.expand(2, 3), 20)
    assert together.batch_size == (2, 3, 21)
    for k in range(3):
        alone = run(twin.with_parameters({name: value[k] for name, value in draws.items()}), start, 20)
        for row in range(2):
            torch.testing.assert_close(together.configuration[row, k], alone.configuration, rtol=0, atol=0)
            torch.testing.assert_close(together.velocity[row, k], alone.velocity, rtol=0, atol=0)
    assert not torch.allclose(together.configuration[0, 0], together.configuration[0, 1])


def test_draws_on_two_axes() -> None:
    """Parameters (2, 1) and (3,) roll states (2, 3) out."""
    case = cube_on_plane()
    twin = RigidTwin(case.world, dt=0.01)
    many = twin.with_parameters({"friction": numbers(0.1, 0.6).unsqueeze(-1), "mass": numbers(0.3, 0.4, 0.5)})
    assert many.batch_shape == (2, 3)
    q, _ = many.advance(
        *(part.expand(2, 3, -1) for part in (case.start(twin).configuration, case.start(twin).velocity)), torch.zeros(2, 3, 20, 0, dtype=torch.float64)
    )
    alone = run(twin.with_parameters({"friction": 0.6, "mass": 0.4}), case.start(twin), 20)
    torch.testing.assert_close(q[1, 1], alone.configuration, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", WORLDS)
def test_problems_together_equal_each_alone(make: Any) -> None:
    """Bit for bit, whatever stands beside."""
    case: SmallWorld = make()
    twin = RigidTwin(case.world, dt=0.01)
    start = case.start(twin)
    generator = torch.Generator().manual_seed(0)
    speeds = start.velocity + 0.3 * torch.randn(33, start.velocity.shape[-1], generator=generator, dtype=torch.float64)
    states = RigidState(configuration=start.configuration.expand(33, -1), velocity=speeds, batch_size=[33])
    actions = 2 * torch.rand(33, 12, twin.spec.action.size, generator=generator, dtype=torch.float64) - 1
    together = twin.rollout(states, actions).states
    assert bool(together.configuration.isfinite().all())
    for k in (0, 17, 32):
        alone = twin.rollout(states[k], actions[k]).states
        torch.testing.assert_close(together.configuration[k], alone.configuration, rtol=0, atol=0)
        torch.testing.assert_close(together.velocity[k], alone.velocity, rtol=0, atol=0)


@pytest.mark.parametrize("make", WORLDS)
def test_a_rollout_is_its_steps(make: Any) -> None:
    case: SmallWorld = make()
    twin = RigidTwin(case.world, dt=0.01, substeps=3)
    state = case.start(twin)
    actions = 0.5 * torch.ones(6, twin.spec.action.size, dtype=torch.float64)
    rolled = twin.rollout(state, actions).states
    for k in range(6):
        state = twin.step(state, actions[k])
        torch.testing.assert_close(rolled.configuration[k + 1], state.configuration, rtol=0, atol=0)
        torch.testing.assert_close(rolled.velocity[k + 1], state.velocity, rtol=0, atol=0)


@pytest.mark.parametrize("make", WORLDS)
def test_single_precision_is_close_for_a_while(make: Any) -> None:
    """Twenty substeps, impacts among them."""
    case: SmallWorld = make()
    twin = RigidTwin(case.world, dt=0.01)
    start = case.start(twin)
    actions = 0.3 * torch.ones(5, twin.spec.action.size, dtype=torch.float64)
    double, single = twin.rollout(start, actions).states, twin.rollout(start.to(torch.float32), actions.float()).states
    assert single.configuration.dtype == torch.float32
    torch.testing.assert_close(single.configuration.double(), double.configuration, rtol=0, atol=1e-4)
    torch.testing.assert_close(single.velocity.double(), double.velocity, rtol=0, atol=1e-2)


def test_results_do_not_alias() -> None:
    """Not one another, nor what went in."""
    case = cube_on_plane()
    twin = RigidTwin(case.world, dt=0.01)
    start = case.start(twin)
    kept = start.clone()
    first = run(twin, start, 5)
    before = first.clone()
    second = run(twin, start, 5)
    second.configuration.zero_()
    torch.testing.assert_close(first.configuration, before.configuration, rtol=0, atol=0)
    torch.testing.assert_close(start.configuration, kept.configuration, rtol=0, atol=0)
    first.velocity.zero_()
    torch.testing.assert_close(start.velocity, kept.velocity, rtol=0, atol=0)


def test_replaced_parameters_are_never_mistaken_for_older_ones() -> None:
    """Of which nothing is left but their place in memory."""
    case = cube_on_plane()
    twin = RigidTwin(case.world, dt=0.01)
    start = case.start(twin)
    expected = run(twin.with_parameters({"friction": 0.6}), start, 3).configuration
    for _ in range(40):
        other = twin.with_parameters({"friction": 0.1})
        run(other, start, 3)
        other = other.with_parameters({"friction": 0.2}).with_parameters({"friction": 0.6})
        torch.testing.assert_close(run(other, start, 3).configuration, expected, rtol=0, atol=0)


def test_changing_a_value_in_place_changes_the_twin() -> None:
    case = cube_on_plane()
    twin = RigidTwin(case.world, dt=0.01, values={"friction": still(0.1)})
    start = case.start(twin)
    first = run(twin, start, 5).configuration
    twin.values["cube.friction"].fill_(0.6)
    second = run(twin, start, 5).configuration
    assert not torch.equal(first, second)
    torch.testing.assert_close(second, run(RigidTwin(case.world, dt=0.01, values={"friction": still(0.6)}), start, 5).configuration, rtol=0, atol=0)


def test_inference_mode_leaves_nothing_behind() -> None:
    """A rollout in it is the same, and one after it has gradients."""
    case = cube_on_plane()
    twin = RigidTwin(case.world, dt=0.01)
    start = case.start(twin)
    with torch.inference_mode():
        first = run(twin.with_parameters({"friction": 0.3}), start, 3).configuration
        run(twin, start, 3)
    torch.testing.assert_close(first.clone(), run(twin.with_parameters({"friction": 0.3}), start, 3).configuration, rtol=0, atol=0)
    speed = start.velocity.clone().requires_grad_()
    run(twin, RigidState(configuration=start.configuration, velocity=speed, batch_size=()), 3).velocity.sum().backward()
    assert speed.grad is not None and bool(speed.grad.isfinite().all())


def test_copies_are_the_same_twin() -> None:
    case = pushed()
    twin = RigidTwin(case.world, dt=0.01, substeps=3, values={"cube.friction": 0.2})
    start = case.start(twin)
    first = run(twin, start, 5).configuration
    for same in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin)), RigidTwin(**twin.config())):
        torch.testing.assert_close(run(same, start, 5).configuration, first, rtol=0, atol=0)


@pytest.mark.parametrize("make", [arm, pushed])
def test_it_keeps_the_contract(make: Any) -> None:
    case: SmallWorld = make()
    twin = RigidTwin(case.world, dt=0.01)
    start = case.start(twin)
    speeds = start.velocity + 0.1 * torch.randn(3, start.velocity.shape[-1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    check_model(twin, RigidState(configuration=start.configuration.expand(3, -1).clone(), velocity=speeds, batch_size=[3]))


def test_members_keep_the_contract() -> None:
    case = pushed()
    twin = RigidTwin(case.world, dt=0.01, values={"cube.friction": numbers(0.1, 0.3), "mesh.mass": numbers(0.4, 0.6)})
    start = case.start(twin)
    speeds = start.velocity + 0.1 * torch.randn(3, 2, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    check_model(twin, RigidState(configuration=start.configuration.expand(3, 2, -1).clone(), velocity=speeds, batch_size=[3, 2]))


def test_a_passive_world_is_told_that_its_action_does_not_matter() -> None:
    """There is none, so that none can be refused either; the rest of the contract it keeps."""
    case = cube_on_plane()
    twin = RigidTwin(case.world, dt=0.01)
    start = case.start(twin)
    speeds = start.velocity + 0.1 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states = RigidState(configuration=start.configuration.expand(3, -1).clone(), velocity=speeds, batch_size=[3])
    failed = {finding.check: finding.message for finding in check_model(twin, states, raise_on_failure=False) if not finding.passed}
    assert failed.pop("action matters") == "the prediction does not depend on the action: other actions give the same rollout"
    assert set(failed) <= {"bounds"}
