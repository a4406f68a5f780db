"""Twins in PyBullet and MuJoCo: the contract, and agreement with `RigidTwin` where the laws are the same."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from structwm.check import check_model
from structwm.physics.bullet_twin import BulletTwin
from structwm.physics.engine_twin import EngineTwin
from structwm.physics.mujoco_twin import MujocoTwin
from structwm.physics.rigid import RigidTwin
from structwm.physics.rigid_world import (
    Actuator,
    Body,
    BoxShape,
    CapsuleShape,
    ConvexShape,
    Fixture,
    Geometry,
    Joint,
    Material,
    PlaneShape,
    RigidWorld,
    SphereShape,
    box_inertia,
    drive,
)
from structwm.physics.world_twin import WorldTwin

HALF = 0.05
UP = (1.0, 0.0, 0.0, 0.0)


@pytest.fixture(params=["bullet", "mujoco"])
def engine(request: pytest.FixtureRequest) -> type[EngineTwin]:
    pytest.importorskip({"bullet": "pybullet", "mujoco": "mujoco"}[request.param])
    return BulletTwin if request.param == "bullet" else MujocoTwin


@pytest.fixture(params=["rigid", "bullet", "mujoco"])
def kind(request: pytest.FixtureRequest) -> type[WorldTwin]:
    if request.param != "rigid":
        pytest.importorskip({"bullet": "pybullet", "mujoco": "mujoco"}[request.param])
    return {"rigid": RigidTwin, "bullet": BulletTwin, "mujoco": MujocoTwin}[request.param]


def box(name: str = "box", *, mass: float = 0.5, half: tuple[float, float, float] = (HALF, HALF, HALF), **fields: Any) -> Body:
    return Body(name, mass, box_inertia(mass, half), (Geometry(BoxShape(half)),), **fields)


def pendulum(**joint: Any) -> Body:
    """A rod of 0.3 m that hangs from a hinge at a height of 1 m."""
    rod = Geometry(CapsuleShape(0.01, 0.14), position=(0.0, 0.0, -0.15))
    return Body(
        "rod", 0.2, (0.0015, 0.0015, 1e-5), (rod,), com=(0.0, 0.0, -0.15), joint=Joint("hinge", axis=(0.0, 1.0, 0.0), position=(0.0, 0.0, 1.0), **joint)
    )


def pushed(**fields: Any) -> RigidWorld:
    """A box and a driven sphere on a plane."""
    pusher = Body("pusher", 1.0, 0.01, (Geometry(SphereShape(0.02)),), joint=Joint("driven"))
    return RigidWorld((box(**fields), pusher), actuators=drive("pusher", 0.5))


def pose(*place: float, turn: tuple[float, ...] = UP) -> Tensor:
    return torch.tensor([*place, *turn], dtype=torch.float64)


def twist(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def run(twin: WorldTwin, state: Any, steps: int, action: Tensor | None = None) -> Any:
    """States (*B, H+1) under a constant action (A,)."""
    actions = torch.zeros(twin.spec.action.size, dtype=torch.float64) if action is None else action
    problems = state.batch_size[:-1] if twin.spec.members > 1 else state.batch_size
    return twin.rollout(state, actions.expand(*problems, steps, -1)).states


@torch.no_grad()
def test_they_keep_the_contract(engine: type[EngineTwin]) -> None:
    twin = engine(pushed(), dt=0.02, substeps=4)
    boxes = torch.stack([pose(0.0, 0.0, HALF), pose(0.1, 0.0, 0.3, turn=(0.8, 0.6, 0.0, 0.0)), pose(0.0, 0.2, HALF)])
    pushers = torch.stack([pose(-0.08, 0.0, HALF), pose(0.3, 0.0, 0.1), pose(-0.3, 0.2, HALF)])
    check_model(twin, twin.state({"box": boxes, "pusher": pushers}, {"box": torch.randn(3, 6, dtype=torch.float64) * 0.3}))


def test_jointed_worlds_keep_the_contract(engine: type[EngineTwin]) -> None:
    world = RigidWorld((pendulum(damping=0.001), box(mass=0.3)), actuators=(Actuator("rod", "effort", -0.2, 0.2), Actuator("box", "wrench", -2.0, 2.0, axis=0)))
    twin = engine(world, dt=0.01, substeps=4)
    starts = torch.stack([pose(1.0, 0.0, HALF), pose(1.0, 0.0, 0.4), pose(1.0, 1.0, 1.0)])
    check_model(twin, twin.state({"box": starts}, positions={"rod": torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)}))


def test_free_flight(kind: type[WorldTwin]) -> None:
    """Parabola and precession of an uneven box, exact to first order in the substep."""
    body = box(half=(0.03, 0.05, 0.08), damping=0.3, angular_damping=0.2)
    states = []
    for twin in (kind(RigidWorld((body,), fixtures=()), dt=0.01, substeps=8), RigidTwin(RigidWorld((body,), fixtures=()), dt=0.01, substeps=64)):
        states.append(run(twin, twin.state(pose(0.0, 0.0, 1.0, turn=(0.8, 0.0, 0.6, 0.0)), twist(1.0, -0.5, 2.0, 3.0, 1.0, 2.0)), 40)[..., -1])
    mine, exact = states
    torch.testing.assert_close(mine.configuration, exact.configuration, atol=6e-3, rtol=0)  # Euler steps of 1.25 ms over 0.4 s
    torch.testing.assert_close(mine.velocity, exact.velocity, atol=4e-2, rtol=0)


def test_an_offset_center_of_mass_turns_about_itself(kind: type[WorldTwin]) -> None:
    body = Body("box", 0.5, ((1e-3, 2e-4, 0.0), (2e-4, 2e-3, 0.0), (0.0, 0.0, 2e-3)), (Geometry(BoxShape((HALF,) * 3)),), com=(0.02, 0.01, -0.01))
    states = []
    for twin in (kind(RigidWorld((body,), fixtures=(), gravity=1.0), dt=0.01, substeps=8), RigidTwin(RigidWorld((body,), fixtures=(), gravity=1.0), dt=0.01)):
        states.append(run(twin, twin.state(pose(0.0, 0.0, 0.0), twist(0.2, 0.0, 0.5, 2.0, -1.0, 3.0)), 30)[..., -1])
    torch.testing.assert_close(states[0].configuration, states[1].configuration, atol=1e-2, rtol=0)
    torch.testing.assert_close(states[0].velocity, states[1].velocity, atol=5e-2, rtol=0)


@pytest.mark.parametrize("joint", [{}, {"damping": 0.02}, {"stiffness": 0.5, "rest": -0.4}, {"friction": 0.05}], ids=["bare", "damped", "sprung", "dry"])
def test_a_pendulum_swings_alike(engine: type[EngineTwin], joint: dict[str, float]) -> None:
    states = []
    for twin in (engine(RigidWorld((pendulum(**joint),)), dt=0.005, substeps=4), RigidTwin(RigidWorld((pendulum(**joint),)), dt=0.005, substeps=16)):
        states.append(run(twin, twin.state(positions={"rod": torch.tensor(1.0, dtype=torch.float64)}), 200))
    torch.testing.assert_close(states[0].configuration, states[1].configuration, atol=0.02, rtol=0)


def test_a_chain_on_a_free_body_and_a_slide(engine: type[EngineTwin]) -> None:
    """A cart on a rail with a pole under an effort, and a free body with an arm; no contacts."""
    arm = Geometry(BoxShape((0.01, 0.01, 0.05)), position=(0.0, 0.0, 0.05))
    cart = Body("cart", 1.0, 0.002, (), joint=Joint("slide", axis=(1.0, 0.0, 0.0), position=(0.0, 0.0, 2.0), damping=0.3))
    pole = Body("pole", 0.1, (1e-4, 1e-4, 1e-5), (arm,), com=(0.0, 0.0, 0.05), joint=Joint("hinge", axis=(0.0, 1.0, 0.0)), parent="cart")
    hull = box("hull", com=(0.01, 0.0, 0.0))
    limb = Body("limb", 0.1, 1e-4, (arm,), com=(0.0, 0.0, 0.05), joint=Joint("hinge", axis=(1.0, 0.0, 0.0), position=(0.0, 0.0, 0.07)), parent="hull")
    motors = (Actuator("cart", "effort", -1.0, 1.0, gain=2.0), Actuator("limb", "position", -1.0, 1.0, stiffness=0.2, damping=0.01))
    world = RigidWorld((cart, pole, hull, limb), actuators=motors)
    angle = torch.tensor(0.3, dtype=torch.float64)
    states = []
    for make in (engine, RigidTwin):
        twin = make(world, dt=0.01, substeps=16)
        start = twin.state({"hull": pose(0.0, 1.0, 5.0)}, {"hull": twist(0.0, 0.0, 0.0, 1.0, 2.0, 0.0)}, positions={"pole": angle})
        states.append(run(twin, start, 30, torch.tensor([0.5, -0.4], dtype=torch.float64))[..., -1])
    torch.testing.assert_close(states[0].configuration, states[1].configuration, atol=0.02, rtol=0.01)


def test_a_sliding_box_stops_where_coulomb_says(kind: type[WorldTwin]) -> None:
    twin = kind(RigidWorld((box(),)), dt=0.01, substeps=4, values={"friction": 0.3})
    states = run(twin, twin.state(pose(0.0, 0.0, HALF - 1e-3), twist(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)), 60)
    assert states.configuration[-1, 0].item() == pytest.approx(1 / (2 * 0.3 * 9.81), rel=0.08)
    assert abs(states.velocity[-1, 0].item()) < 0.01


def test_momentum_is_kept_in_a_collision(kind: type[WorldTwin]) -> None:
    world = RigidWorld((box("one", mass=0.5), box("two", mass=0.2)), fixtures=(), gravity=1.0)
    twin = kind(world, dt=0.01, substeps=4)
    start = twin.state({"one": pose(-0.1, 0.0, 0.0), "two": pose(0.05, 0.01, 0.0)}, {"one": twist(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)})
    velocity = run(twin, start, 20).velocity
    momentum = 0.5 * velocity[:, :3] + 0.2 * velocity[:, 6:9]
    assert velocity[-1, 6].item() > 0.5
    torch.testing.assert_close(momentum[-1, :2], momentum[0, :2], atol=2e-3, rtol=0)


def test_draws_make_members(engine: type[EngineTwin]) -> None:
    draws = {"friction": torch.tensor([0.1, 0.3, 0.6]), "box.size": torch.tensor([1.0, 1.2, 0.8]), "com_x": torch.tensor([0.0, 0.01, 0.0])}
    twin = engine(RigidWorld((box(),)), dt=0.02, substeps=4)
    many = twin.with_parameters(draws)
    assert many.spec.members == 3
    place, speed = pose(0.0, 0.0, 0.08), twist(0.5, 0.2, -0.3, 1.0, 2.0, 3.0)
    together = run(many, many.state(place.expand(2, 3, 7), speed.expand(2, 3, 6)), 10)
    assert together.batch_size == (2, 3, 11)
    for k in range(3):
        alone = twin.with_parameters({name: value[k] for name, value in draws.items()})
        states = run(alone, alone.state(place, speed), 10)
        torch.testing.assert_close(together.configuration[1, k], states.configuration, atol=1e-9, rtol=0)


def test_more_draws_than_models_at_once() -> None:
    pytest.importorskip("mujoco")
    frictions = torch.linspace(0.05, 0.9, 150)
    twin = MujocoTwin(RigidWorld((box(),)), dt=0.02, substeps=2, values={"friction": frictions})
    start = twin.state(pose(0.0, 0.0, HALF).expand(2, 150, 7), twist(1.0, 0.0, 0.0, 0.0, 0.0, 0.0).expand(2, 150, 6))
    reach = run(twin, start, 20).configuration[..., -1, 0]
    assert bool((reach.diff(dim=-1) < 1e-9).all())
    torch.testing.assert_close(reach[0], reach[1], atol=1e-12, rtol=0)


CHANGES: dict[str, tuple[float, float, Any]] = {
    "friction": (0.2, 0.4, lambda s: -s.configuration[-1, 0]),  # slides less far
    "gravity": (8.0, 11.0, lambda s: -s.configuration[-1, 0]),
    "tilt_x": (0.0, 0.1, lambda s: s.configuration[-1, 1]),
    "ground.offset": (0.0, 0.004, lambda s: s.configuration[-1, 2]),
    "box.size": (1.0, 1.1, lambda s: s.configuration[-1, 2]),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_parameter_does_what_it_says(kind: type[WorldTwin], name: str) -> None:
    """A box that slides and turns until near rest."""
    low, high, read = CHANGES[name]
    twin = kind(RigidWorld((box(),)), dt=0.01, substeps=4, values={"friction": 0.3})
    found = []
    for value in (low, high):
        other = twin.with_parameters({name: value})
        size = value if name == "box.size" else 1.0
        found.append(float(read(run(other, other.state(pose(0.0, 0.0, HALF * size), twist(0.8, 0.0, 0.0, 0.0, 0.0, 1.0)), 40))))
    assert found[1] - found[0] > {"ground.offset": 0.003, "box.size": 0.004}.get(name, 0.01)


@pytest.mark.parametrize(("name", "column"), [("box.mass", 0), ("box.inertia", 3)])
def test_force_over_mass_and_torque_over_inertia(kind: type[WorldTwin], name: str, column: int) -> None:
    world = RigidWorld((box(),), fixtures=(), actuators=tuple(Actuator("box", "wrench", -1.0, 1.0, axis=axis) for axis in (0, 3)))
    twin = kind(world, dt=0.01, substeps=4)
    action = torch.tensor([1.0, 0.01], dtype=torch.float64)
    start = twin.state(pose(0.0, 0.0, 0.0, turn=(math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5))))
    for value in (twin.physical[name].default, 2 * twin.physical[name].default):
        other = twin.with_parameters({name: value})
        assert run(other, start, 20, action).velocity[-1, column].item() == pytest.approx(0.2 * action[column // 3].item() / value, rel=1e-3)


def test_torsional_friction_stops_a_spin(kind: type[WorldTwin]) -> None:
    """A ball that spins on the spot: omega falls by mu_t g / (2/5 r^2) a second."""
    ball = Body("ball", 0.3, 0.4 * 0.3 * 0.05**2, (Geometry(SphereShape(0.05)),), material=Material(torsional_friction=0.002))
    twin = kind(RigidWorld((ball,)), dt=0.01, substeps=4)
    depth = 0.3 * 9.81 / float(twin.values["ball.stiffness"])
    spin = run(twin, twin.state(pose(0.0, 0.0, 0.05 - depth), twist(0.0, 0.0, 0.0, 0.0, 0.0, 10.0)), 20).velocity[-1, 5].item()
    assert spin == pytest.approx(10 - 0.2 * 0.002 * 9.81 / (0.4 * 0.05**2), rel=0.1)


def test_rolling_friction_slows_a_ball(kind: type[WorldTwin]) -> None:
    """A ball that rolls: its speed falls by 5/7 mu_r g / r a second."""
    ball = Body("ball", 0.3, 0.4 * 0.3 * 0.05**2, (Geometry(SphereShape(0.05)),), material=Material(rolling_friction=0.002, friction=0.8))
    twin = kind(RigidWorld((ball,)), dt=0.01, substeps=4)
    depth = 0.3 * 9.81 / float(twin.values["ball.stiffness"])
    speed = run(twin, twin.state(pose(0.0, 0.0, 0.05 - depth), twist(1.0, 0.0, 0.0, 0.0, 20.0, 0.0)), 50).velocity[-1, 0].item()
    assert speed == pytest.approx(1 - 0.5 * 5 / 7 * 0.002 * 9.81 / 0.05, rel=0.05)


def test_surfaces_of_two_materials(engine: type[EngineTwin]) -> None:
    """Two boxes of different friction on one plane, and one on a fixture with its own."""
    rough = Fixture((Geometry(BoxShape((2.0, 0.2, 0.1)), position=(0.0, 2.0, -0.1)),), Material(friction=0.4), name="rough")
    world = RigidWorld((box("one"), box("two"), box("three")), fixtures=(Fixture((Geometry(PlaneShape(), position=(0.0, 0.0, -0.1)),)), rough))
    twin = engine(world, dt=0.01, substeps=4, values={"one.friction": 0.2, "two.friction": 0.5, "three.friction": 0.1})
    starts = {"one": pose(0.0, 0.0, HALF - 0.101), "two": pose(0.0, 0.5, HALF - 0.101), "three": pose(0.0, 2.0, HALF - 0.001)}
    states = run(twin, twin.state(starts, {name: twist(1.0, 0.0, 0.0, 0.0, 0.0, 0.0) for name in starts}), 60).configuration[-1]
    reached = [states[7 * k].item() for k in range(3)]
    expected = [1 / (2 * mu * 9.81) for mu in (0.2, 0.5, math.sqrt(0.4 * 0.1))]
    assert reached == pytest.approx(expected, rel=0.1)


def test_a_driven_ball_pushes_a_box(kind: type[WorldTwin]) -> None:
    twin = kind(pushed(), dt=0.02, substeps=4, values={"friction": 0.3})
    start = twin.state({"box": pose(0.0, 0.0, HALF), "pusher": pose(-0.1, 0.0, HALF)})
    states = run(twin, start, 50, torch.tensor([0.2, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(states.configuration[-1, 7:10], torch.tensor([0.1, 0.0, HALF], dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(states.velocity[-1, 6:9], torch.tensor([0.2, 0.0, 0.0], dtype=torch.float64), atol=1e-9, rtol=0)
    assert states.configuration[-1, 0].item() == pytest.approx(0.1 + 0.02 + HALF, abs=0.012)


@pytest.mark.parametrize("shape", ["capsule", "hull", "rounded"])
def test_shapes_come_to_rest_on_the_ground(kind: type[WorldTwin], shape: str) -> None:
    points = BoxShape((HALF,) * 3).hull.vertices
    geometry, height = {
        "capsule": (Geometry(CapsuleShape(0.03, 0.05), rotation=(math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)), 0.03),
        "hull": (Geometry(ConvexShape(points)), HALF),
        "rounded": (Geometry(BoxShape((HALF,) * 3), rounding=0.01), HALF + 0.01),
    }[shape]
    twin = kind(RigidWorld((Body("thing", 0.5, 1e-3, (geometry,)),)), dt=0.01, substeps=4, values={"stiffness": 5000.0})
    states = run(twin, twin.state(pose(0.0, 0.0, height + 0.01)), 60)
    assert states.configuration[-1, 2].item() == pytest.approx(height, abs=2e-3)


@pytest.mark.parametrize("restitution", [0.1, 0.5])
def test_a_ball_bounces(kind: type[WorldTwin], restitution: float) -> None:
    ball = Body("ball", 0.3, 0.4 * 0.3 * 0.05**2, (Geometry(SphereShape(0.05)),))
    twin = kind(RigidWorld((ball,)), dt=0.01, substeps=16, values={"restitution": restitution, "stiffness": 20_000.0})
    speed = run(twin, twin.state(pose(0.0, 0.0, 0.06), twist(0.0, 0.0, -2.0, 0.0, 0.0, 0.0)), 8).velocity[:, 2].max().item()
    assert speed == pytest.approx(2 * restitution, abs=0.25)


def test_copies_do_not_disturb_each_other(engine: type[EngineTwin]) -> None:
    twin = engine(RigidWorld((box(),)), dt=0.02, substeps=2)
    other = twin.with_parameters({"friction": 0.05, "box.size": 1.3})
    start = twin.state(pose(0.0, 0.0, 0.07, turn=(0.8, 0.6, 0.0, 0.0)), twist(1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    first = run(twin, start, 10).configuration
    assert not torch.allclose(run(other, start, 10).configuration, first, atol=1e-3)
    torch.testing.assert_close(run(twin, start, 10).configuration, first, atol=0, rtol=0)
    for same in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin)), engine(**twin.config())):
        torch.testing.assert_close(run(same, start, 10).configuration, first, atol=0, rtol=0)


def test_many_short_lived_draws(engine: type[EngineTwin]) -> None:
    """What is kept of a draw must not be taken for another's that has its address in memory."""
    twin = engine(RigidWorld((box(),)), dt=0.02, substeps=2)
    start = twin.state(pose(0.0, 0.0, HALF), twist(1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    reached = []
    for friction in torch.linspace(0.2, 0.8, 25).tolist():
        reached.append(run(twin.with_parameters({"friction": friction}), start, 10).configuration[-1, 0].item())
    assert all(later < earlier for earlier, later in itertools.pairwise(reached))


def test_what_an_engine_cannot_express_is_refused(engine: type[EngineTwin]) -> None:
    twin = engine(RigidWorld((box(),)), dt=0.02)
    with pytest.raises(ValueError, match="has no parameter 'slip_speed'; it has gravity"):
        twin.space(["slip_speed"])
    with pytest.raises(ValueError, match="has no parameter 'smoothing'"):
        engine(RigidWorld((box(),)), dt=0.02, values={"smoothing": 1e-3})
    forearm = Body("forearm", 0.1, 1e-4, joint=Joint("hinge"), parent="rod", damping=0.5)
    with pytest.raises(ValueError, match=r"cannot express 'forearm.damping', which is 0.5 in this world"):
        engine(RigidWorld((pendulum(), forearm)), dt=0.02)


def test_nothing_to_roll_out(engine: type[EngineTwin]) -> None:
    """No worlds, alone or under several draws, have as many axes as some; and a world in which nothing can move has no numbers, but a rollout."""
    block = Geometry(BoxShape((HALF, HALF, HALF)))
    twin = engine(RigidWorld((Body("cube", 0.4, 1e-3, (block,)),)), dt=0.01)
    for shape, given in (((0,), twin), ((0, 2), twin.with_parameters({"cube.mass": torch.tensor([0.3, 0.4])}))):
        states = given.rollout(given.state(torch.zeros(*shape, 7)), torch.zeros(0, 5, 0)).states
        assert (tuple(states.configuration.shape), tuple(states.velocity.shape)) == ((*shape, 6, 7), (*shape, 6, 6))
    still = engine(RigidWorld((Body("cube", 0.4, 1e-3, (block,), joint=Joint("fixed", position=(0.0, 0.0, 0.2))),)), dt=0.01)
    assert tuple(still.rollout(still.state().expand(2), torch.zeros(2, 3, 0)).poses().shape) == (2, 4, 1, 7)


def test_a_missing_engine_is_named(engine: type[EngineTwin], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{engine.__module__}.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=f"{engine.__name__} needs .*pip install"):
        engine(RigidWorld((box(),)), dt=0.02)
