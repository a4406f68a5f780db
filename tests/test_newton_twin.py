"""`NewtonTwin`: free flight, contacts, joints and parameters in Newton, beside `RigidTwin` and closed forms.

One file, so that one worker compiles Newton's kernels (a minute when the cache is cold).
"""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import warp as wp

from structwm.check import check_model
from structwm.data.errors import BadData
from structwm.geometry.soft_mesh import SoftMesh
from structwm.physics.newton_soft import NewtonSoftTwin
from structwm.physics.newton_twin import NewtonTwin
from structwm.physics.rigid import RigidTwin
from structwm.physics.rigid_scene import RigidState
from structwm.physics.rigid_world import (
    GROUND,
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
from structwm.physics.soft_world import SoftBody, SoftWorld
from structwm.physics.world_twin import WorldTwin

pytest.importorskip("newton")
pytestmark = pytest.mark.slow

HALF = 0.1  # of the box [m]
BOX = Body("box", 1.0, box_inertia(1.0, (HALF,) * 3), (Geometry(BoxShape((HALF,) * 3)),), material=Material(friction=0.3))
TIP = Body("tip", 1.0, 0.1, (Geometry(SphereShape(0.02)),), joint=Joint("driven"))
SLIDING = RigidWorld((BOX,))
PUSHING = RigidWorld((BOX, TIP), actuators=drive("tip", 0.5, axes=(0, 1), turning=1.0))
FREE_SOLVERS = ("semi_implicit", "featherstone", "xpbd")
Make = Callable[..., NewtonTwin]
KERNELS = ("sim.articulation", "solvers.solver", "solvers.semi_implicit.kernels_body", "solvers.semi_implicit.kernels_contact")
KERNELS += ("solvers.featherstone.kernels", "solvers.xpbd.kernels", "solvers.xpbd.restitution_kernels")
KERNELS += ("geometry.kernels", "geometry.narrow_phase", "sim.collide")


@pytest.fixture(scope="module", autouse=True)
def no_backward_pass() -> None:
    """Newton's kernels without the backward passes that nothing here runs: they take most of the time to compile."""
    for name in KERNELS:
        wp.get_module(f"newton._src.{name}").options["enable_backward"] = False


@pytest.fixture(scope="module")
def make() -> Make:
    """A twin of a world and settings, the same one each time, as the first step takes longest."""
    made: dict[tuple, NewtonTwin] = {}

    def twin(world: RigidWorld, **settings: object) -> NewtonTwin:
        key = (id(world), *sorted(settings.items()))
        if key not in made:
            made[key] = NewtonTwin(world, **settings)  # type: ignore[arg-type]
        return made[key]

    return twin


def pose(z: float, *, x: float = 0.0) -> torch.Tensor:
    return torch.tensor([[x, 0.0, z, 1.0, 0.0, 0.0, 0.0]])


def after(twin: WorldTwin, state: RigidState, steps: int, action: list[float] | None = None) -> RigidState:
    """States (1, steps + 1) under a constant action."""
    actions = torch.tensor(action or [], dtype=torch.float32).expand(*state.batch_size, steps, len(twin.world.actuators))
    return twin.rollout(state, actions).states


@pytest.mark.parametrize("solver", FREE_SOLVERS)
def test_free_flight(make: Make, solver: str) -> None:
    twin = make(SLIDING, dt=0.01, substeps=10, solver=solver)
    states = after(twin, twin.state(pose(5.0), torch.tensor([[1.0, 0, 2.0, 0.3, -0.4, 1.2]])), 30)
    x, _, z = states.configuration[0, -1, :3].tolist()
    assert x == pytest.approx(0.3, abs=1e-5)
    assert z == pytest.approx(5 + 0.6 - 9.81 * 0.09 / 2, abs=3e-3)  # symplectic Euler is off by half a substep's speed
    angle = 2 * math.acos(float(states.configuration[0, -1, 3]))
    assert angle == pytest.approx(0.3 * 1.3, abs=1e-3)  # about a fixed axis, as a cube's moments are equal
    torch.testing.assert_close(states.velocity[0, -1], torch.tensor([1.0, 0, 2 - 9.81 * 0.3, 0.3, -0.4, 1.2]), atol=2e-3, rtol=0)


@pytest.mark.parametrize("solver", FREE_SOLVERS)
def test_a_box_slides_to_a_stop(make: Make, solver: str) -> None:
    twin = make(SLIDING, dt=0.01, substeps=10, solver=solver)
    states = after(twin, twin.state(pose(HALF), torch.tensor([[1.0, 0, 0, 0, 0, 0]])), 60)
    assert float(states.configuration[0, -1, 0]) == pytest.approx(1 / (2 * 0.3 * 9.81), rel=0.02)
    assert float(states.configuration[0, -1, 2]) == pytest.approx(HALF, abs=1e-3)
    assert float(states.velocity[0, -1].abs().max()) < 1e-2


@pytest.mark.parametrize("solver", FREE_SOLVERS)
@pytest.mark.parametrize("restitution", [0.2, 0.7, 0.9])
def test_a_ball_bounces(make: Make, solver: str, restitution: float) -> None:
    world = RigidWorld((Body("ball", 0.5, 0.4 * 0.5 * 0.05**2, (Geometry(SphereShape(0.05)),)),))
    twin = NewtonTwin(world, dt=0.005, substeps=20, solver=solver).with_parameters({"ball.restitution": restitution})
    states = after(twin, twin.state(pose(0.55)), 150)
    z = states.configuration[0, :, 2]
    low = int(z[:80].argmin())
    assert float(z[low:].max()) - 0.05 == pytest.approx(0.5 * restitution**2, abs=0.03)


def test_newton_agrees_with_our_own_twin_on_a_push(make: Make) -> None:
    start = {"box": pose(HALF), "tip": torch.tensor([[-0.15, 0.03, HALF, 1, 0, 0, 0]])}
    action = [0.2, 0.0, 0.0, 0.0, 0.5]
    ours = RigidTwin(PUSHING, dt=0.01, substeps=10)
    expected = after(ours, ours.state(start), 100, action).configuration[0, -1]
    for solver in ("semi_implicit", "featherstone"):
        twin = make(PUSHING, dt=0.01, substeps=10, solver=solver)
        found = after(twin, twin.state(start), 100, action)
        torch.testing.assert_close(found.configuration[0, -1], expected, atol=0.01, rtol=0)
        torch.testing.assert_close(found.configuration[0, -1, 7:10], torch.tensor([0.05, 0.03, HALF]), atol=1e-5, rtol=0)
        torch.testing.assert_close(found.velocity[0, -1, 6:], torch.tensor([0.2, 0, 0, 0, 0, 0.5]))


def pendulum(**joint: float) -> RigidWorld:
    rod = Body("rod", 1.0, 0.03, com=(0, 0, -0.3), joint=Joint("hinge", axis=(0, 1, 0), position=(0, 0, 1.0), **joint))
    return RigidWorld((rod,), (), (Actuator("rod", "position", -1, 1, stiffness=2.0, damping=0.1),))


def test_the_period_of_a_pendulum(make: Make) -> None:
    bare = RigidWorld((Body("rod", 1.0, 0.03, com=(0, 0, -0.3), joint=Joint("hinge", axis=(0, 1, 0))),), ())
    twin = make(bare, dt=0.01, substeps=10)
    assert twin.solver == "featherstone"
    angle = after(twin, twin.state(positions={"rod": torch.tensor([0.05])}), 300).configuration[0, :, 0]
    falling = [k for k in range(300) if angle[k] >= 0 > angle[k + 1]]
    crossings = [k + float(angle[k] / (angle[k] - angle[k + 1])) for k in falling]
    period = 0.01 * (crossings[-1] - crossings[0]) / (len(crossings) - 1)
    assert period == pytest.approx(2 * math.pi * math.sqrt((0.03 + 0.09) / (9.81 * 0.3)), rel=2e-3)


def test_joints_agree_with_our_own_twin() -> None:
    """Spring, damper, dry friction, armature, limits, position and effort actuators, a chain with a slide and a fixed body."""
    rail = Joint("slide", axis=(0, 0, 1), position=(0, 0, -0.5), rotation=(0.8, 0.6, 0, 0), stiffness=40.0, rest=0.05, low=-0.1, high=0.1, damping=1.0)
    arm = (
        Body("upper", 1.0, (0.03, 0.02, 0.01), com=(0, 0.02, -0.3), joint=Joint("hinge", axis=(0, 1, 0), damping=0.05, friction=0.02, armature=0.01)),
        Body("lower", 0.5, (0.01, 0.02, 0.01), com=(0, 0, -0.1), parent="upper", joint=rail),
        Body("hand", 0.2, 0.001, com=(0.1, 0, 0), parent="lower", joint=Joint("fixed", position=(0, 0, -0.2))),
    )
    actuators = (Actuator("upper", "position", -1, 1, stiffness=3.0, damping=0.2), Actuator("lower", "effort", -5, 5, gain=2.0))
    world = RigidWorld(arm, (), actuators)
    states = []
    for twin in (RigidTwin(world, dt=0.01, substeps=20), NewtonTwin(world, dt=0.01, substeps=20)):
        state = twin.state(positions={"upper": torch.tensor([0.8])}, rates={"lower": torch.tensor([0.2])})
        states.append(after(twin, state, 100, [0.5, 1.5]))
    torch.testing.assert_close(states[1].configuration, states[0].configuration, atol=0.01, rtol=0)


def test_wrenches_drag_and_centre_of_mass() -> None:
    body = Body("b", 1.0, (0.02, 0.03, 0.04), com=(0.1, 0, 0.05), damping=0.3, angular_damping=0.2)
    world = RigidWorld((body,), (), tuple(Actuator("b", "wrench", -1, 1, axis=k) for k in range(6)))
    states = []
    for kind in (RigidTwin, NewtonTwin):
        twin = kind(world, dt=0.01, substeps=10)
        state = twin.state(pose(1.0), torch.tensor([[0.1, 0.2, 0.3, 1.0, 0.5, 0.2]]))
        states.append(after(twin, state, 50, [0.3, 0.1, 0.5, 0.01, 0.02, 0.03]))
    torch.testing.assert_close(states[1].configuration, states[0].configuration, atol=5e-3, rtol=0)
    torch.testing.assert_close(states[1].velocity, states[0].velocity, atol=0.02, rtol=0)


def test_shapes_rest_where_they_touch(make: Make) -> None:
    """Capsule, mesh, rounded box and sphere on a raised slab, each at the height of its shape."""
    corners = [(x, y, z) for x in (-0.05, 0.05) for y in (-0.04, 0.04) for z in (-0.03, 0.03)]
    flat = (math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0)  # z along x
    shapes = {
        "capsule": (Geometry(CapsuleShape(0.03, 0.05), rotation=flat), 0.03),
        "mesh": (Geometry(ConvexShape(torch.tensor(corners).double().numpy())), 0.03),
        "rounded": (Geometry(BoxShape((0.04, 0.04, 0.02)), rounding=0.01), 0.03),
        "sphere": (Geometry(SphereShape(0.03)), 0.03),
    }
    bodies = tuple(Body(name, 0.2, 2e-4, (geometry,), material=Material(0.5, 0.05)) for name, (geometry, _) in shapes.items())
    slab = Fixture((Geometry(BoxShape((2.0, 2.0, 0.1)), position=(0, 0, -0.1)),), name="slab")
    world = RigidWorld(bodies, (slab,))
    for solver in ("semi_implicit", "xpbd"):
        twin = NewtonTwin(world, dt=0.01, substeps=20, solver=solver, values={"slab.offset": 0.05})
        state = twin.state({name: pose(0.05 + height + 0.005, x=0.5 * k) for k, (name, (_, height)) in enumerate(shapes.items())})
        z = after(twin, state, 100).configuration[0, -1].reshape(4, 7)[:, 2]
        torch.testing.assert_close(z, torch.full((4,), 0.08), atol=1.5e-3, rtol=0)


def test_parameters_change_what_they_should(make: Make) -> None:
    twin = make(PUSHING, dt=0.01, substeps=10)
    away, moving = torch.tensor([-0.5, 0.0, HALF, 1, 0, 0, 0]).expand(1, 3, 7), torch.tensor([1.0, 0, 0, 0, 0, 0]).expand(1, 3, 6)
    start = twin.state({"box": pose(HALF).expand(1, 3, 7), "tip": away}, {"box": moving})
    several = twin.with_parameters({"box.friction": torch.tensor([0.2, 0.3, 0.6])})
    assert several.spec.members == 3
    actions = torch.zeros(1, 80, 5)
    x = several.rollout(start, actions).states.configuration[0, :, -1, 0]
    torch.testing.assert_close(x, 1 / (2 * torch.tensor([0.2, 0.3, 0.6]) * 9.81), rtol=0.03, atol=0)
    grown = twin.with_parameters({"box.size": torch.tensor([1.0, 1.1, 1.2]), "ground.offset": 0.01})
    sizes = torch.tensor([1.0, 1.1, 1.2])
    lifted = twin.state({"box": torch.cat([pose(0.01 + HALF * float(size)) for size in sizes]).unsqueeze(0), "tip": away})
    z = grown.rollout(lifted, actions).states.configuration[0, :, -1, 2]
    torch.testing.assert_close(z, HALF * sizes + 0.01, atol=1e-3, rtol=0)
    free = twin.state({"box": pose(5.0).expand(1, 2, 7), "tip": pose(9.0).expand(1, 2, 7)})
    v = twin.with_parameters({"gravity": torch.tensor([9.0, 10.0])}).rollout(free, torch.zeros(1, 10, 5)).states.velocity[0, :, -1, 2]
    torch.testing.assert_close(v, torch.tensor([-0.9, -1.0]), rtol=1e-4, atol=0)
    assert float(twin.rollout(start[:, 1], actions).states.configuration[0, -1, 0]) == pytest.approx(float(x[1]), abs=1e-5)  # the first is as it was


def test_mass_and_centre_of_mass_matter() -> None:
    world = RigidWorld((Body("b", 1.0, 0.01),), (), (Actuator("b", "wrench", -1, 1, axis=0),), gravity=1.0)
    twin = NewtonTwin(world, dt=0.01)
    heavy = twin.with_parameters({"b.mass": torch.tensor([1.0, 2.0]), "b.com_z": torch.tensor([0.0, 0.1])})
    state = heavy.state(pose(0.0).expand(1, 2, 7))
    velocity = heavy.step(state, torch.ones(1, 1)).velocity[0]
    assert float(velocity[0, 0]) == pytest.approx(0.01, rel=1e-4)
    assert float(velocity[1, 4]) == pytest.approx(-0.01 * 0.1 / 0.01, rel=1e-2)  # force at the origin, below the centre of mass


@pytest.mark.parametrize("solver", FREE_SOLVERS)
@pytest.mark.parametrize("members", [1, 3])
def test_the_contract_is_kept(make: Make, solver: str, members: int) -> None:
    twin = make(PUSHING, dt=0.02, substeps=5, solver=solver)
    box = pose(HALF).repeat(3, 1) + torch.tensor([[0.0], [0.05], [0.02]]) * torch.eye(7)[:1]
    state = twin.state({"box": box, "tip": torch.tensor([-0.13, 0.03, HALF, 1, 0, 0, 0]).expand(3, 7)})
    if members > 1:
        twin = twin.with_parameters({"box.friction": torch.tensor([0.1, 0.3, 0.6]), "box.mass": torch.tensor([1.0, 2.0, 0.5])})
        state = state.unsqueeze(-1).expand(3, members)
    check_model(twin, state)


def test_the_contract_is_kept_with_joints() -> None:
    twin = NewtonTwin(pendulum(friction=0.05, damping=0.1), dt=0.02)
    check_model(twin, twin.state(positions={"rod": torch.tensor([0.1, 0.5, -1.0])}))


def test_without_a_recording_results_are_the_same(make: Make) -> None:
    recorded, eager = (NewtonTwin(SLIDING, dt=0.01, substeps=3) for _ in range(2))
    state = recorded.state(pose(HALF), torch.tensor([[1.0, 0, 0, 0, 0, 0]]))
    eager.step(state, torch.zeros(1, 0))
    engine = eager.engines[1]
    engine.graph, engine.recordable = None, False
    found = [after(twin, state, 10).configuration for twin in (recorded, eager)]
    assert recorded.engines[1].graph is not None and engine.graph is None
    torch.testing.assert_close(*found, atol=0, rtol=0)


def test_with_timing_and_settings_come_back() -> None:
    twin = NewtonTwin(SLIDING, dt=0.01, solver="xpbd", values={"box.friction": 0.7}).with_timing(dt=0.02, substeps=4)
    assert (twin.solver, twin.spec.dt, twin.substeps, float(twin.values["box.friction"])) == ("xpbd", 0.02, 4, pytest.approx(0.7))
    again = NewtonTwin(**twin.config())
    assert again.solver == "xpbd" and set(again.values) == set(again.physical)


def test_what_newton_cannot_do_is_refused() -> None:
    spinning = RigidWorld((Body("b", 1.0, 1.0, (Geometry(SphereShape(0.1)),), material=Material(torsional_friction=0.01)),))
    with pytest.raises(ValueError, match=r"NewtonTwin cannot express 'b.torsional_friction', which is 0.01"):
        NewtonTwin(spinning, dt=0.01)
    for solver in ("semi_implicit", "xpbd"):
        with pytest.raises(ValueError, match=rf"solver {solver} holds joints .* use featherstone"):
            NewtonTwin(pendulum(), dt=0.01, solver=solver)
    with pytest.raises(ValueError, match=r"solvers semi_implicit, featherstone, xpbd, got 'magic'"):
        NewtonTwin(SLIDING, dt=0.01, solver="magic")
    with pytest.raises(ValueError, match=r"no parameter 'box.torsional_friction'"):
        NewtonTwin(SLIDING, dt=0.01).with_parameters({"box.torsional_friction": 0.1})
    with pytest.raises(ValueError, match=r"no parameter 'box.stiffness'"):
        NewtonTwin(SLIDING, dt=0.01, solver="xpbd").with_parameters({"box.stiffness": 1e4})


# scenes through Newton's importers


def test_a_real_urdf_through_newton(data_dir) -> None:
    twin = NewtonTwin.from_file(data_dir("contactnets_cube") / "assets" / "contactnets_cube.urdf", dt=0.01, ground=True)
    (body,) = twin.world.bodies
    assert (body.name, body.mass) == ("body", pytest.approx(0.37)) and [fixture.name for fixture in twin.world.fixtures] == ["ground"]
    states = after(twin, twin.state(pose(0.2)), 100)
    assert float(states.configuration[0, -1, 2]) == pytest.approx(0.0524, abs=2e-3)


ARM = """<robot name="arm"><link name="base"/>
  <link name="upper"><inertial><origin xyz="0 0 -0.2"/><mass value="1"/><inertia ixx="0.02" ixy="0" ixz="0" iyy="0.02" iyz="0" izz="0.01"/></inertial></link>
  <link name="lower"><inertial><origin xyz="0 0 -0.1"/><mass value="0.5"/><inertia ixx="0.01" ixy="0" ixz="0" iyy="0.01" iyz="0" izz="0.01"/></inertial></link>
  <joint name="shoulder" type="revolute"><origin xyz="0 0 1" rpy="0.1 0.2 0.3"/><parent link="base"/><child link="upper"/><axis xyz="0 1 0"/>
    <limit lower="-2" upper="2" effort="3" velocity="9"/><dynamics damping="0.1" friction="0.02"/></joint>
  <joint name="elbow" type="prismatic"><origin xyz="0 0 -0.4" rpy="0.5 0 0"/><parent link="upper"/><child link="lower"/><axis xyz="0 0 1"/>
    <limit lower="-0.5" upper="0.5" effort="20" velocity="9"/><dynamics damping="2"/></joint></robot>"""


def test_newton_reads_a_urdf_as_we_do(tmp_path: Path) -> None:
    from structwm.physics.scene_files import read_world

    path = tmp_path / "arm.urdf"
    path.write_text(ARM)
    twin, ours = NewtonTwin.from_file(path, dt=0.01), RigidTwin(read_world(path), dt=0.01, substeps=10)
    assert [body.name for body in twin.world.bodies] == ["upper", "lower"] == [body.name for body in ours.world.bodies]
    assert [a.name for a in twin.world.actuators] == ["shoulder", "elbow"] == [a.name for a in ours.world.actuators]
    states = [after(model, model.state(positions={"upper": torch.tensor([0.3])}), 50, [0.5, 3.0]) for model in (twin, ours)]
    torch.testing.assert_close(states[0].configuration, states[1].configuration, atol=0.01, rtol=0)


def test_usd_through_newton(tmp_path: Path) -> None:
    pytest.importorskip("pxr")
    path = tmp_path / "scene.usda"
    path.write_text("""#usda 1.0
(
    upAxis = "Z"
    metersPerUnit = 1
)
def PhysicsScene "scene" {
    vector3f physics:gravityDirection = (0, 0, -1)
    float physics:gravityMagnitude = 9.81
}
def Cube "box" (prepend apiSchemas = ["PhysicsRigidBodyAPI", "PhysicsCollisionAPI", "PhysicsMassAPI"]) {
    double size = 0.2
    float physics:mass = 1.5
    double3 xformOp:translate = (0, 0, 0.3)
    uniform token[] xformOpOrder = ["xformOp:translate"]
}
""")
    twin = NewtonTwin.from_file(path, dt=0.01, ground=True)
    assert twin.world.bodies[0].mass == pytest.approx(1.5)
    torch.testing.assert_close(twin.start.configuration, pose(0.3)[0])
    assert float(after(twin, twin.start.unsqueeze(0), 100).configuration[0, -1, 2]) == pytest.approx(0.1, abs=2e-3)


def test_mjcf_through_newton(tmp_path: Path) -> None:
    path = tmp_path / "scene.xml"
    path.write_text("""<mujoco><worldbody><geom type="plane" size="1 1 1" friction="0.7"/>
      <body name="pole" pos="0 0 1"><joint name="h" axis="0 1 0" pos="0 0 0.05" armature="0.01" damping="0.02"/>
        <geom type="capsule" size=".02 .3" pos="0 0 .3"/></body></worldbody>
      <actuator><position name="hold" joint="h" kp="5" kv="1" ctrlrange="-1 1"/></actuator></mujoco>""")
    twin = NewtonTwin.from_file(path, dt=0.01)
    (pole,) = twin.world.bodies
    assert pole.joint.position == pytest.approx((0, 0, 1.05)) and pole.joint.armature == pytest.approx(0.01)
    assert [a.kind.name for a in twin.world.actuators] == ["POSITION"] and twin.world.fixtures[0].material.friction == pytest.approx(0.7)
    assert isinstance(twin.world.fixtures[0].geometries[0].shape, PlaneShape)
    assert float(after(twin, twin.start.unsqueeze(0), 5, [0.5]).configuration[0, -1, 0]) > 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.urdf", '<robot name="a"><joint type="fixed"><parent link="world"/><child link="b"/></joint><link name="b"/></robot>', "a scene that Newton reads"),
        ("a.xml", '<mujoco><worldbody><body name="b"><joint type="ball"/><geom size="1"/></body></worldbody></mujoco>', "body 'b', field joint"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><mujoco/>', "DOCTYPE"),
        ("a.txt", "", "a file .urdf, .xml or .usd"),
    ],
)
def test_files_that_newton_cannot_read_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadData, match=message) as caught:
        NewtonTwin.from_file(tmp_path / name, dt=0.01)
    assert "\n" not in str(caught.value)


# cloths and soft solids

CLOTH, BAR = SoftMesh.cloth((6, 6), (0.3, 0.3)), SoftMesh.beam((6, 2, 2), (0.3, 0.06, 0.06))
TOP = tuple((CLOTH.nodes[:, 1] > 0.149).nonzero().flatten().tolist())
END = tuple((BAR.nodes[:, 0] < -0.149).nonzero().flatten().tolist())


def soft(world: SoftWorld, steps: int, action: tuple[float, ...] = (), *, velocity: tuple[float, ...] = (0.0, 0.0, 0.0), iterations: int = 10, **values: float):
    """A twin and its states (steps + 1,) under a constant action, all particles at one velocity first."""
    twin = NewtonSoftTwin(world, dt=1 / 30, iterations=iterations, values=values)
    start = twin.state(velocities=torch.tensor(velocity).expand(world.particles, 3))
    return twin, twin.rollout(start, torch.tensor(action).expand(steps, len(action))).states


def test_soft_bodies_fall_freely() -> None:
    _, states = soft(SoftWorld((SoftBody("bar", BAR), SoftBody("cloth", CLOTH))), 9, velocity=(1.0, 0.0, 0.0))
    moved = states.positions[-1] - states.positions[0]
    expected = torch.tensor([0.3, 0.0, -9.81 * 0.3 * (0.3 + 1 / 300) / 2])  # as implicit Euler falls
    torch.testing.assert_close(moved, expected.expand_as(moved), atol=2e-4, rtol=0)


def test_a_bar_held_at_its_end_gains_no_energy_and_comes_to_rest() -> None:
    twin, states = soft(SoftWorld((SoftBody("bar", BAR),), driven=(END,)), 120, (0.0, 0.0, 0.0), shear_modulus=2e4, lame_lambda=2e4)
    mass = torch.from_numpy(twin.engines[1].model_views["particle_mass"][0]).clone()
    mass[list(END)] = 0.0
    motion = (mass * states.velocities.square().sum(-1)).sum(-1) / 2
    height = 9.81 * (mass * (states.positions[..., 2] - states.positions[0, :, 2])).sum(-1)
    assert float((motion + height).max()) < 1e-5  # what is not there is in the springs, which were at rest
    assert float(motion.max()) > 1e-3 and float(motion[-1]) < 0.02 * float(motion.max())
    assert float(states.positions[-1, -1, 2]) < -0.03


def test_a_hanging_cloth_is_as_long_as_its_weight_makes_it() -> None:
    """Strain grows from the lower edge to the upper: `density g L^2 / (2 E)`, with E of a sheet that may get narrower."""
    upright = CLOTH.placed((0, 0, 0), torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]))
    world = SoftWorld((SoftBody("cloth", upright),), driven=(TOP,))
    _, states = soft(world, 60, (0.0, 0.0, 0.0), iterations=40, stretch_stiffness=20.0, area_stiffness=20.0, membrane_damping=0.2)
    modulus = 4 * 20 * (20 + 20) / (20 + 2 * 20)
    longer = float(upright.nodes[:, 2].min() - states.positions[-1, :, 2].min())
    assert longer == pytest.approx(0.2 * 9.81 * 0.3**2 / (2 * modulus), rel=0.03)
    assert float(states.velocities[-1].abs().max()) < 1e-3


def test_a_soft_block_slides_to_a_stop() -> None:
    block = SoftMesh.beam((2, 2, 1), (0.1, 0.1, 0.04)).placed((0, 0, 0.03))
    world = SoftWorld((SoftBody("block", block),), obstacles=(GROUND,))
    values = {"radius": 0.01, "friction": 0.3, "shear_modulus": 1e5, "lame_lambda": 1e5, "contact_stiffness": 500.0}
    twin, resting = soft(world, 30, iterations=40, **values)
    assert float(resting.velocities[-1].abs().max()) < 1e-3
    start = twin.state(resting.positions[-1], torch.tensor([0.5, 0.0, 0.0]).expand(world.particles, 3))
    slid = twin.rollout(start, torch.zeros(30, 0)).states.positions
    assert float((slid[-1] - slid[0])[:, 0].mean()) == pytest.approx(0.5**2 / (2 * 0.3 * 9.81), rel=0.02)
    assert float((slid[-1] - slid[-6])[:, 0].mean()) < 2e-4


@pytest.mark.parametrize("shape", [BoxShape((0.1, 0.1, 0.1)), SphereShape(0.1), CapsuleShape(0.1, 0.05)])
def test_cloth_lies_on_what_it_falls_on(shape: BoxShape | SphereShape | CapsuleShape) -> None:
    flat = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)  # the capsule's axis along y
    obstacle = Fixture((Geometry(shape, position=(0, 0, 0.1), rotation=flat),), name="obstacle")
    world = SoftWorld((SoftBody("cloth", CLOTH.placed((0, 0, 0.22))),), obstacles=(obstacle, GROUND))
    _, states = soft(world, 45, radius=0.01, friction=1.0)
    middle = states.positions[-1, 24]
    assert float(middle[2]) == pytest.approx(0.2 + 0.01, abs=4e-3)
    assert float(states.positions[-1, :, 2].min()) > 0.0 and float(states.positions[-1, 0, 2]) < 0.17


def test_driven_particles_move_as_commanded_and_pull_the_rest_along() -> None:
    world = SoftWorld((SoftBody("bar", BAR),), driven=(END, (BAR.nodes.shape[0] - 1,)))
    _, states = soft(world, 15, (0.4, 0.0, 0.2, 0.4, 0.2, 0.2), gravity=0.0, viscosity=50.0)
    moved = states.positions - states.positions[0]
    torch.testing.assert_close(moved[-1, list(END)], torch.tensor([0.2, 0.0, 0.1]).expand(len(END), 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(states.velocities[-1, -1], torch.tensor([0.4, 0.2, 0.2]))
    assert float(moved[-1, :, 0].mean()) == pytest.approx(0.2, abs=0.01)


def test_draws_of_soft_parameters_are_members() -> None:
    world = SoftWorld((SoftBody("bar", BAR),), driven=(END,))
    twin = NewtonSoftTwin(world, dt=1 / 30).with_parameters({"shear_modulus": torch.tensor([5e3, 2e4, 8e4]), "gravity": torch.tensor([9.81, 9.81, 0.0])})
    state = twin.state(world.positions.float().expand(2, 3, -1, -1))
    sag = 0.03 - twin.rollout(state, torch.zeros(2, 12, 3)).states.positions[0, :, -1, -1, 2]
    assert twin.spec.members == 3 and float(sag[0]) > 1.5 * float(sag[1]) > 0.03 and abs(float(sag[2])) < 1e-4
    alone = NewtonSoftTwin(world, dt=1 / 30, values={"shear_modulus": 2e4})
    again = 0.03 - alone.rollout(alone.state(), torch.zeros(12, 3)).states.positions[-1, -1, 2]
    assert float(again) == pytest.approx(float(sag[1]), abs=1e-6)


@pytest.mark.parametrize("members", [1, 2])
def test_the_contract_is_kept_by_soft_bodies(members: int) -> None:
    bodies = (SoftBody("cloth", CLOTH.placed((0, 0, 0.1))), SoftBody("bar", BAR.placed((0, 0.4, 0.05))))
    twin = NewtonSoftTwin(SoftWorld(bodies, driven=(TOP, (49,)), obstacles=(GROUND,)), dt=1 / 30, substeps=4, iterations=4)
    state = twin.state(twin.world.positions.float() + 0.02 * torch.arange(2)[:, None, None])
    if members > 1:
        twin, state = twin.with_parameters({"friction": torch.tensor([0.2, 0.8])}), state.unsqueeze(-1).expand(2, members)
    check_model(twin, state)


def test_settings_of_soft_twins_come_back() -> None:
    twin = NewtonSoftTwin(SoftWorld((SoftBody("cloth", CLOTH),)), dt=0.01, values={"cloth.density": 0.3}).with_timing(dt=0.02, substeps=4)
    again = NewtonSoftTwin(**twin.config())
    assert (again.spec.dt, again.substeps, float(again.values["cloth.density"])) == (0.02, 4, 0.3)
    assert set(twin.physical) == {"cloth.density", *(f"cloth.{name}" for name in SHEET), "gravity"}


SHEET = ("stretch_stiffness", "area_stiffness", "membrane_damping", "bend_stiffness", "bend_damping")


def test_soft_worlds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bodies of different names, got \['a', 'a'\]"):
        SoftWorld((SoftBody("a", CLOTH), SoftBody("a", BAR)))
    with pytest.raises(ValueError, match="names particles 49 to 49, but there are 49"):
        SoftWorld((SoftBody("a", CLOTH),), driven=((49,),))
    with pytest.raises(ValueError, match="groups that are not empty and share no particle"):
        SoftWorld((SoftBody("a", CLOTH),), driven=((1, 2), (2,)))
    with pytest.raises(ValueError, match="planes, spheres, capsules and boxes, not the ConvexShape"):
        SoftWorld((SoftBody("a", CLOTH),), obstacles=(Fixture((Geometry(ConvexShape(BAR.nodes.numpy())),)),))
    with pytest.raises(ValueError, match=r"positions \(\*B, 49, 3\), got \(2, 3\)"):
        NewtonSoftTwin(SoftWorld((SoftBody("a", CLOTH),)), dt=0.1).state(torch.zeros(2, 3))


@pytest.mark.parametrize("thing", ["beam", "cloth"])
def test_scenes_in_newton_repeat(thing: str) -> None:
    from structwm.worlds.soft_recording import Sensing
    from structwm.worlds.soft_scenarios import record_soft

    small = Sensing(width=40, height=30, cloud_points=100, tracks=20)
    one, two = (record_soft("newton", thing, 1, frames=15, sensing=small) for _ in range(2))
    torch.testing.assert_close(one.nodes, two.nodes, rtol=0, atol=0)
    held = torch.stack([one.nodes[:, list(nodes)].mean(1) for nodes in one.held], 1)
    torch.testing.assert_close(held, one.controllers, atol=1e-4, rtol=0)
    assert one.nodes[-1, :, 2].mean() > one.nodes[0, :, 2].mean() + 0.1
