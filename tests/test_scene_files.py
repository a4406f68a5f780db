"""Rigid worlds from URDF and MJCF files, and our own JSON form."""

import json
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from structwm.data.errors import BadData
from structwm.data.stl import read_stl
from structwm.kernels.rigid_layout import JointKind
from structwm.physics.rigid import RigidTwin
from structwm.physics.rigid_scene import RigidScene, RigidState
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
    drive,
)
from structwm.physics.scene_files import read_world, write_world

INERTIAL = '<inertial><mass value="2"/><inertia ixx="0.1" iyy="0.2" izz="0.3"/></inertial>'
ARM = f"""<robot name="arm" xmlns:drake="https://drake.mit.edu/">
  <material name="red"><color rgba="1 0 0 1"/></material>
  <link name="base"><collision><origin xyz="0 0 0.05"/><geometry><box size="0.2 0.2 0.1"/></geometry></collision></link>
  <link name="upper">
    <inertial><origin xyz="0 0 0.2" rpy="0 0 1.5707963267948966"/><mass value="2"/>
      <inertia ixx="0.1" ixy="0.01" ixz="0.02" iyy="0.2" iyz="0.03" izz="0.3"/></inertial>
    <visual><geometry><box size="1 1 1"/></geometry><material name="red"/></visual>
    <collision><origin xyz="0 0 0.2" rpy="1.5707963267948966 0 0"/><geometry><cylinder radius="0.03" length="0.4"/></geometry>
      <drake:proximity_properties><drake:mu_static value="0.4"/></drake:proximity_properties></collision>
  </link>
  <link name="lower">{INERTIAL}<collision><geometry><drake:capsule radius="0.02" length="0.3"/></geometry></collision>
    <contact><lateral_friction value="0.7"/><rolling_friction value="0.01"/></contact></link>
  <link name="tool"/>
  <link name="cup">{INERTIAL}<collision><geometry><sphere radius="0.05"/></geometry></collision></link>
  <link name="frame"/>
  <link name="payload">{INERTIAL}</link>
  <link name="cube">{INERTIAL}<collision><geometry><box size="0.1 0.1 0.1"/></geometry></collision></link>
  <joint name="shoulder" type="revolute"><origin xyz="0 0 0.1" rpy="0 0 1.5707963267948966"/><parent link="base"/><child link="upper"/><axis xyz="0 2 0"/>
    <limit lower="-1" upper="2" effort="5" velocity="1"/><dynamics damping="0.1" friction="0.2"/></joint>
  <joint name="spill" type="floating"><origin xyz="0 0 1"/><parent link="upper"/><child link="cube"/></joint>
  <joint name="elbow" type="continuous"><origin xyz="0 0 0.4"/><parent link="upper"/><child link="lower"/></joint>
  <joint name="flange" type="fixed"><origin xyz="0 0 0.3"/><parent link="lower"/><child link="tool"/></joint>
  <joint name="held" type="fixed"><origin xyz="0.1 0 0"/><parent link="tool"/><child link="cup"/></joint>
  <joint name="rail" type="prismatic"><parent link="base"/><child link="frame"/><axis xyz="0 0 1"/><limit lower="0" upper="1" effort="20" velocity="1"/></joint>
  <joint name="bolt" type="fixed"><origin xyz="0 0.5 0" rpy="0 0 1.5707963267948966"/><parent link="frame"/><child link="payload"/></joint>
</robot>"""


def save(folder: Path, content: str, name: str = "scene.urdf") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def poses_of(world: RigidWorld, positions: dict[str, float]) -> dict[str, np.ndarray]:
    """Pose (7,) of each body at joint coordinates, all else at zero."""
    q = [[0.0, 0, 0, 1, 0, 0, 0] if body.joint.kind.sizes[0] == 7 else [positions.get(body.name, 0.0)] * body.joint.kind.sizes[0] for body in world.bodies]
    configuration = torch.tensor([part for body in q for part in body], dtype=torch.float64)
    state = RigidState(configuration=configuration, velocity=torch.zeros(world.sizes()[1], dtype=torch.float64), batch_size=())
    return dict(zip([body.name for body in world.bodies], RigidScene(world).poses(state).numpy(), strict=True))


# URDF


def test_a_robot_is_read_as_written(tmp_path: Path) -> None:
    world = read_world(save(tmp_path, ARM), ground=True)
    assert [body.name for body in world.bodies] == ["upper", "lower", "cup", "frame", "cube"]
    assert [fixture.name for fixture in world.fixtures] == ["ground", "base"]
    upper, lower, cup, frame, cube = world.bodies
    assert upper.joint.kind is JointKind.HINGE and upper.parent is None
    assert (upper.joint.low, upper.joint.high, upper.joint.damping, upper.joint.friction) == (-1, 2, 0.1, 0.2)
    assert upper.joint.axis == (0, 1, 0) and upper.joint.position == (0, 0, 0.1)
    np.testing.assert_allclose(upper.joint.rotation, (math.sqrt(0.5), 0, 0, math.sqrt(0.5)), atol=1e-12)
    # a quarter turn about z takes x to y and y to -x
    np.testing.assert_allclose(upper.inertia, [[0.2, -0.01, -0.03], [-0.01, 0.1, 0.02], [-0.03, 0.02, 0.3]], atol=1e-12)
    assert upper.com == (0, 0, 0.2) and upper.mass == 2
    assert upper.material.friction == 0.4 and upper.geometries[0].color == (1, 0, 0)
    shape = upper.geometries[0].shape
    assert isinstance(shape, ConvexShape) and len(shape.vertices) == 48
    assert math.isinf(lower.joint.high) and lower.joint.axis == (1, 0, 0)
    assert lower.geometries[0].shape == CapsuleShape(0.02, 0.15)
    assert (lower.material.friction, lower.material.rolling_friction) == (0.7, 0.01)
    assert (cup.parent, cup.joint.kind, cup.joint.position) == ("lower", JointKind.FIXED, (0.1, 0, 0.3))  # through the tool, which has no mass
    assert frame.joint.kind is JointKind.SLIDE and frame.mass == 2 and frame.com == (0, 0.5, 0)  # takes up its payload
    np.testing.assert_allclose(np.diag(frame.inertia), (0.2, 0.1, 0.3), atol=1e-12)
    assert cube.joint.kind is JointKind.FREE
    assert [(a.name, a.body, a.low, a.high) for a in world.actuators] == [("shoulder", "upper", -5, 5), ("rail", "frame", -20, 20)]
    twin = RigidTwin(world, dt=0.01, substeps=10)
    assert twin.rollout(twin.state().unsqueeze(0), torch.zeros(1, 3, 2)).states.configuration.isfinite().all()


def test_one_link_floats_unless_told_otherwise(tmp_path: Path) -> None:
    path = save(tmp_path, f'<robot><link name="a">{INERTIAL}</link></robot>')
    assert read_world(path).bodies[0].joint.kind is JointKind.FREE
    assert read_world(path).fixtures == ()
    with pytest.raises(BadData, match=r"a link that moves"):
        read_world(path, floating=False)
    assert read_world(save(tmp_path, ARM), floating=False).bodies[0].parent is None
    with pytest.raises(BadData, match=r"link 'base'.*mass above zero"):
        read_world(save(tmp_path, ARM), floating=True)


def test_a_point_mass_is_added_to_what_it_is_welded_to(tmp_path: Path) -> None:
    joint = '<joint name="j" type="fixed"><origin xyz="0.2 0 0"/><parent link="a"/><child link="b"/></joint>'
    point = '<inertial><mass value="2"/><inertia ixx="0" iyy="0" izz="0"/></inertial>'
    (body,) = read_world(save(tmp_path, f'<robot><link name="a">{INERTIAL}</link><link name="b">{point}</link>{joint}</robot>'), floating=True).bodies
    assert body.mass == 4 and body.com == (0.1, 0, 0)
    np.testing.assert_allclose(np.diag(body.inertia), (0.1, 0.2 + 0.04, 0.3 + 0.04))  # two masses of 2 kg, 0.1 m from the middle


def test_transmissions_choose_the_actuators(tmp_path: Path) -> None:
    driven = ARM.replace("</robot>", '<transmission name="t"><actuator name="m"/><joint name="rail"/></transmission></robot>')
    assert [a.name for a in read_world(save(tmp_path, driven)).actuators] == ["rail"]


def stl_bytes(triangles: np.ndarray) -> bytes:
    records = b"".join(struct.pack("<12fH", 0, 0, 0, *triangle.reshape(-1), 0) for triangle in triangles)
    return b"solid, yet binary".ljust(80) + struct.pack("<I", len(triangles)) + records


def tetrahedron() -> np.ndarray:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    return corners[[[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]]


def test_a_detailed_mesh_has_a_hull_of_few_vertices() -> None:
    points = np.random.default_rng(0).normal(size=(2000, 3))
    points *= 0.05 / np.linalg.norm(points, axis=1, keepdims=True)
    ball = ConvexShape.of_mesh(points)
    assert len(ball.vertices) == 64
    assert np.linalg.norm(ball.vertices, axis=1) == pytest.approx(np.full(64, 0.05), rel=0.03)
    assert len(ConvexShape.of_mesh(points, limit=32).vertices) == 32


def test_meshes_stand_for_their_hulls(tmp_path: Path) -> None:
    package = tmp_path / "robots" / "meshes"
    package.mkdir(parents=True)
    (package / "t.stl").write_bytes(stl_bytes(tetrahedron()))
    two = "".join(f"o {k}\nv {k} 0 0\nv {k + 0.5} 0 0\nv {k} 1 0\nv {k} 0 1\nf {4 * k + 1} {4 * k + 2} {4 * k + 3}\n" for k in range(2))
    (package / "two.obj").write_text(two)
    mesh = '<collision><geometry><mesh filename="{}" scale="2 1 -1"/></geometry></collision>'
    for name, count in (("package://robots/meshes/t.stl", 1), ("meshes/t.stl", 1), ("meshes/two.obj", 2)):
        path = save(tmp_path / "robots", f'<robot><link name="a">{INERTIAL}{mesh.format(name)}</link></robot>')
        (body,) = read_world(path).bodies
        assert len(body.geometries) == count
    moved = save(tmp_path, path.read_text().replace("meshes/two.obj", "package://other/t.stl"))
    with pytest.raises(BadData, match=r"link 'a', field mesh/filename: .*packages="):
        read_world(moved)
    (body,) = read_world(moved, packages={"other": package}).bodies
    assert sorted(body.geometries[0].shape.vertices.tolist()) == [[0, 0, -1], [0, 0, 0], [0, 1, 0], [2, 0, 0]]


def test_stl_files(tmp_path: Path) -> None:
    path = tmp_path / "a.stl"
    path.write_bytes(stl_bytes(tetrahedron()))
    np.testing.assert_array_equal(read_stl(path), tetrahedron())
    text = "solid a\n" + "".join(
        "facet normal 0 0 0\nouter loop\n" + "".join(f"vertex {x} {y} {z}\n" for x, y, z in triangle) + "endloop\nendfacet\n" for triangle in tetrahedron()
    )
    path.write_text(text + "endsolid a\n")
    np.testing.assert_array_equal(read_stl(path), tetrahedron())
    broken = tetrahedron()
    broken[1, 0, 0] = np.nan
    damaged = {
        "size": stl_bytes(tetrahedron())[:-3].replace(b"solid", b"other"),
        "finite": stl_bytes(broken),
        "at least one triangle": stl_bytes(tetrahedron()[:0]),
        "3 coordinates": text.replace("vertex 1.0 0.0 0.0", "vertex 1.0 zero 0.0").encode(),
        "3 corners": text.replace("vertex 1.0 0.0 0.0\n", "", 1).encode(),
    }
    for words, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(BadData, match=words):
            read_stl(path)
    with pytest.raises(BadData, match="can be read"):
        read_stl(tmp_path / "none.stl")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<mass value="2"/>', '<mass value="heavy"/>', r"link 'upper', field inertial/mass/value: expected a finite number, got 'heavy'"),
        ('<mass value="2"/>', '<mass value="nan"/>', r"link 'upper', field inertial/mass/value: expected a finite number, got 'nan'"),
        ('<mass value="2"/>', '<mass value="-2"/>', r"link 'upper', field inertial/mass: expected a mass above zero"),
        ('<mass value="2"/>', '<mass value="0"/>', r"link 'upper', field mass: expected a mass above zero of what moves, got 0 kg"),
        ('izz="0.3"/></inertial>\n    <visual>', 'izz="-0.3"/></inertial>\n    <visual>', r"link 'upper', field inertia: expected an inertia above zero"),
        (' iyy="0.2" iyz="0.03"', ' iyz="0.03"', r"link 'upper', field inertial/inertia/iyy: expected a finite number, got none"),
        ('axis xyz="0 2 0"', 'axis xyz="0 0 0"', r"joint 'shoulder', field axis"),
        ('axis xyz="0 2 0"', 'axis xyz="0 2"', r"joint 'shoulder', field axis/xyz: expected 3 finite numbers, got '0 2'"),
        ('lower="-1" upper="2"', "", r"joint 'shoulder', field limit: expected lower < upper"),
        ('effort="5"', 'effort="-5"', r"joint 'shoulder', field limit/effort"),
        ('damping="0.1"', 'damping="-0.1"', r"joint 'shoulder', field dynamics/damping"),
        ('name="shoulder" type="revolute"', 'name="shoulder" type="planar"', r"joint 'shoulder', field type: expected one of revolute"),
        ('name="shoulder" type="revolute"', 'name="elbow" type="revolute"', r"joint 'elbow', field name: expected one joint of each name"),
        ('<child link="lower"/>', '<child link="upper"/>', r"link 'upper', field joint: expected one parent, got two"),
        ('<child link="lower"/>', '<child link="nobody"/>', r"joint 'elbow', field child: expected the name of a link, got 'nobody'"),
        ('<parent link="base"/><child link="upper"/>', '<parent link="lower"/><child link="upper"/>', r"parent: expected a tree of joints, got a loop"),
        ('<joint name="elbow" type="continuous">', '<joint name="elbow" type="continuous"><mimic joint="shoulder"/>', r"joint 'elbow', field mimic"),
        ('<link name="tool"/>', "", r"joint 'flange', field child"),
        ('<link name="tool"/>', '<link name="tool"/><link name="tool"/>', r"link 'tool', field name: expected one link of each name"),
        ('<link name="tool"/>', '<link name="tool"/><link name="loose"/>', r"expected one link without a parent, got 2: base, loose"),
        ('<sphere radius="0.05"/>', '<sphere radius="0"/>', r"link 'cup', field collision/geometry/sphere: expected a shape that has a volume"),
        ('<sphere radius="0.05"/>', "<cone/>", r"link 'cup', field collision/geometry/cone: expected box, sphere"),
        ('<sphere radius="0.05"/>', '<mesh filename="none.obj"/>', r"link 'cup', field mesh/filename: expected the name of a file"),
        ('<sphere radius="0.05"/>', '<mesh filename="scene.urdf"/>', r"expected an .obj or .stl file"),
        ('<lateral_friction value="0.7"/>', '<lateral_friction value="-1"/>', r"link 'lower', field friction: expected 0 or more"),
        ("</robot>", "", r"the whole file, field XML"),
        ("<robot ", "<model ", r"field XML|root is <robot>"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in ARM
    path = save(tmp_path, ARM.replace(old, new, 1))
    with pytest.raises(BadData, match=message) as caught:
        read_world(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["scene.urdf", "scene.xml"])
def test_definitions_of_entities_are_refused(tmp_path: Path, name: str) -> None:
    pytest.importorskip("mujoco")
    bomb = '<!DOCTYPE robot [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><robot name="&b;"/>'
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / name).write_bytes(bomb.encode(encoding))
        with pytest.raises(BadData, match="DOCTYPE"):
            read_world(tmp_path / name)


def test_long_chains_are_read(tmp_path: Path) -> None:
    links = "".join(f'<link name="l{k}">{INERTIAL}</link>' for k in range(1500))
    joints = "".join(f'<joint name="j{k}" type="continuous"><parent link="l{k}"/><child link="l{k + 1}"/><axis xyz="0 0 1"/></joint>' for k in range(1499))
    assert len(read_world(save(tmp_path, f"<robot>{links}{joints}</robot>")).bodies) == 1499


def test_real_files(data_dir) -> None:
    (cube,) = read_world(data_dir("contactnets_cube") / "assets" / "contactnets_cube.urdf", ground=True).bodies
    assert (cube.mass, cube.material.friction, cube.joint.kind) == (0.37, 0.15, JointKind.FREE)
    np.testing.assert_allclose(cube.geometries[0].shape.half_extents, 0.0524)


def test_real_convex_pieces(data_dir) -> None:
    (piece,) = read_world(data_dir("pinwm_push_t") / "envs" / "asset" / "cube_t" / "cube_t_mesh.urdf").bodies
    assert len(piece.geometries) == 2 and piece.mass == 1


def test_real_double_pendulum(data_dir) -> None:
    folder = data_dir("double_pendulum") / "identified_parameters" / "design_C.1" / "model_1.0"
    for name, driven in (("acrobot", "Joint2"), ("pendubot", "Joint1")):
        world = read_world(folder / f"{name}.urdf")
        assert [(body.name, body.parent, body.joint.friction) for body in world.bodies] == [("Link1", None, 0.16), ("Link2", "Link1", 0.12)]
        assert [a.name for a in world.actuators] == [driven] and world.fixtures == ()


@pytest.mark.parametrize("name", ["kuka_iiwa/model.urdf", "laikago/laikago_toes_zup.urdf", "r2d2.urdf"])
def test_links_stand_where_pybullet_has_them(name: str) -> None:
    pybullet, data = pytest.importorskip("pybullet"), pytest.importorskip("pybullet_data")
    world = read_world(Path(data.getDataPath()) / name)
    client = pybullet.connect(pybullet.DIRECT)
    try:
        robot = pybullet.loadURDF(str(Path(data.getDataPath()) / name), useFixedBase=True, physicsClientId=client)
        rng = np.random.default_rng(0)
        positions = {}
        for k in range(pybullet.getNumJoints(robot, client)):
            info = pybullet.getJointInfo(robot, k, client)
            if info[2] in (pybullet.JOINT_REVOLUTE, pybullet.JOINT_PRISMATIC):
                positions[info[12].decode()] = value = float(rng.uniform(-1, 1))
                pybullet.resetJointState(robot, k, value, physicsClientId=client)
        place, turn = pybullet.getBasePositionAndOrientation(robot, client)
        local, tilt = pybullet.getDynamicsInfo(robot, -1, client)[3:5]  # the base is reported at its centre of mass
        base = pybullet.multiplyTransforms(place, turn, *pybullet.invertTransform(local, tilt))
        found = poses_of(world, positions)
        compared = 0
        for k in range(pybullet.getNumJoints(robot, client)):
            link = pybullet.getJointInfo(robot, k, client)[12].decode()
            if link in found:
                state = pybullet.getLinkState(robot, k, computeForwardKinematics=True, physicsClientId=client)
                place, (x, y, z, w) = pybullet.multiplyTransforms(*pybullet.invertTransform(*base), *state[4:6])
                np.testing.assert_allclose(found[link][:3], place, atol=1e-5)
                assert abs(np.dot(found[link][3:], (w, x, y, z))) > 1 - 1e-6
                compared += 1
        assert compared == len(world.bodies)
    finally:
        pybullet.disconnect(client)


@pytest.mark.slow
def test_every_file_of_pybullet_is_read_or_refused_in_a_sentence() -> None:
    data = pytest.importorskip("pybullet_data")
    paths = sorted(Path(data.getDataPath()).rglob("*.urdf"))
    paths = [path for path in paths if "random_urdfs" not in str(path) or path.stem.endswith("49")]
    read = 0
    for path in paths:
        try:
            read += bool(read_world(path).bodies)
        except BadData as error:
            assert re.fullmatch(r"[^\n]+, field [^\n]+: expected [^\n]+, got [^\n]+; [^\n]+\.", str(error)), str(error)
    assert read >= 45  # of 105; others have no mass or no inertia, are no XML, or mimic


# MJCF

MJCF = """<mujoco><compiler angle="radian"/><option gravity="0 0 -5"/>
  <asset><mesh name="tet" vertex="0 0 0 0.1 0 0 0 0.1 0 0 0 0.1"/></asset>
  <worldbody><geom type="plane" size="1 1 1" friction="0.7"/><geom type="box" size="1 1 .1" pos="3 0 0" friction="0.2"/>
    <body name="cart" pos="0 0.3 1" euler="0.1 0.2 0.3">
      <joint name="x" type="slide" axis="1 1 0" damping="0.1" range="-2 2" limited="true" ref="0.3" pos="0.1 0 0"/>
      <geom type="box" size=".1 .1 .1" pos=".1 0 0"/>
      <body name="pole" pos="0 0 .1" euler="0.5 0 0">
        <joint name="h" axis="0 1 0" pos="0 0.02 0.05" armature="0.01" ref="0.4" stiffness="2" springref="0.2"/>
        <geom type="capsule" size=".02 .3" pos="0 0 .3" euler="0.3 0.1 0"/><geom type="mesh" mesh="tet"/>
        <geom type="sphere" size="5" contype="0" conaffinity="0" mass="0"/>
        <body name="tip" pos="0.1 0 .6"><geom type="cylinder" size=".05 .02" friction="0.3 0.002 0.001" condim="6"/></body>
      </body></body>
    <body name="ball" pos="1 1 1"><freejoint/><geom type="sphere" size="0.1"/></body>
  </worldbody>
  <actuator><motor name="push" joint="x" gear="10" ctrlrange="-1 1"/><position name="hold" joint="h" kp="5" kv="1" ctrlrange="-1 1"/></actuator></mujoco>"""


def test_mjcf_is_read_as_mujoco_compiles_it(tmp_path: Path) -> None:
    mujoco = pytest.importorskip("mujoco")
    world = read_world(save(tmp_path, MJCF, "scene.xml"))
    cart, pole, tip, ball = world.bodies
    assert [(body.name, body.joint.kind.name) for body in world.bodies] == [("cart", "SLIDE"), ("pole", "HINGE"), ("tip", "FIXED"), ("ball", "FREE")]
    assert (cart.joint.low, cart.joint.high, cart.joint.damping) == (-2, 2, 0.1)
    assert (pole.joint.armature, pole.joint.stiffness, pole.joint.rest, len(pole.geometries)) == (0.01, 2, 0.2, 2)
    assert (tip.material.friction, tip.material.torsional_friction, tip.material.rolling_friction) == (0.3, 0.002, 0.001)
    assert [(f.name, f.material.friction) for f in world.fixtures] == [("world", 0.7), ("world_2", 0.2)]
    assert [(a.name, a.kind.name, a.gain, a.stiffness, a.damping) for a in world.actuators] == [
        ("push", "EFFORT", 10, 0, 0),
        ("hold", "POSITION", 1, 5, 1),
    ]
    assert world.gravity == 5 and isinstance(ball.geometries[0].shape, SphereShape)

    model = mujoco.MjModel.from_xml_string(MJCF)
    data = mujoco.MjData(model)
    data.qpos[:2] = 0.7, -0.9
    mujoco.mj_kinematics(model, data)
    poses = poses_of(world, {"cart": 0.7, "pole": -0.9})
    for name in ("cart", "pole", "tip"):
        k = model.body(name).id
        assert abs(poses[name][3:] @ data.xquat[k]) == pytest.approx(1, abs=1e-9)
        joint = model.body_jntadr[k]
        anchor = model.jnt_pos[joint] if joint >= 0 else np.zeros(3)
        np.testing.assert_allclose(poses[name][:3], data.xpos[k] + data.xmat[k].reshape(3, 3) @ anchor, atol=1e-6)


def test_what_is_read_from_mjcf_moves_as_in_mujoco(tmp_path: Path) -> None:
    """Accelerations agree: masses, inertias and their orientation, centres of mass, springs, armature and gears are right."""
    mujoco = pytest.importorskip("mujoco")
    apart = MJCF.replace('type="plane"', 'contype="0" conaffinity="0" type="plane"')
    twin = RigidTwin(read_world(save(tmp_path, apart, "scene.xml")), dt=1e-3, substeps=1)
    model = mujoco.MjModel.from_xml_string(apart)
    data = mujoco.MjData(model)
    data.qpos[:2], data.qvel[:2], data.ctrl[:] = (0.7, -0.9), (0.4, 1.5), (0.6, -0.5)
    mujoco.mj_forward(model, data)
    state = twin.state(
        {"ball": torch.tensor([[9.0, 9, 9, 1, 0, 0, 0]], dtype=torch.float64)},
        positions={"cart": torch.tensor([0.7], dtype=torch.float64), "pole": torch.tensor([-0.9], dtype=torch.float64)},
        rates={"cart": torch.tensor([0.4], dtype=torch.float64), "pole": torch.tensor([1.5], dtype=torch.float64)},
    )
    after = twin.step(state, torch.tensor([[0.6, -0.5]], dtype=torch.float64))
    found = ((after.velocity - state.velocity)[0, :2] / 1e-3).numpy()
    np.testing.assert_allclose(found, data.qacc[:2], rtol=0.02)  # dampers act at the end of the substep


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<geom type="sphere" size="0.1"/>', '<joint/><geom type="sphere" size="0.1"/>', r"more than 6 dofs"),
        ("<freejoint/>", '<joint type="ball"/>', r"body 'ball', field joint/type: expected hinge, slide or free, got ball"),
        ("<freejoint/>", '<joint axis="1 0 0"/><joint axis="0 1 0"/>', r"body 'ball', field joint: expected one joint at most"),
        ('type="sphere" size="0.1"', 'type="ellipsoid" size="0.1 0.2 0.3"', r"field type: expected plane, sphere.*got ellipsoid"),
        ("0 0 -5", "1 0 -5", r"field gravity"),
        ('gravity="0 0 -5"', 'gravity="0 0 -5" density="1000"', r"field density, viscosity"),
        ('kp="5" kv="1" ctrlrange="-1 1"', 'kp="5"', r"actuator 'hold', field ctrlrange"),
        ('<position name="hold" joint="h" kp="5" kv="1" ctrlrange="-1 1"/>', '<velocity name="hold" joint="h" kv="1" ctrlrange="-1 1"/>', r"actuator 'hold'"),
        ('<geom type="mesh" mesh="tet"/>', '<geom type="mesh" mesh="tet" friction="0.1"/>', r"body 'pole', field geom: expected one friction"),
        ("</mujoco>", '<equality><weld body1="cart" body2="ball"/></equality></mujoco>', r"field equality"),
        ('<body name="tip"', '<body name="tip" mass="1"', r"expected a model that MuJoCo compiles"),
    ],
)
def test_what_mjcf_asks_in_vain_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    pytest.importorskip("mujoco")
    assert old in MJCF
    with pytest.raises(BadData, match=message) as caught:
        read_world(save(tmp_path, MJCF.replace(old, new, 1), "scene.xml"))
    assert "\n" not in str(caught.value)


# our own form


def rich_world() -> RigidWorld:
    rng = np.random.default_rng(3)
    root = rng.normal(size=(3, 3))
    turn = rng.normal(size=4)
    turn /= np.linalg.norm(turn)
    rotation = tuple(float(part) for part in turn)
    block = Geometry(BoxShape((0.1, 1 / 7, 0.3)), (0.1, -0.0, 0.3), rotation, 0.01, (0.1, 0.2, 0.3))
    hinge = Joint("hinge", axis=(0.3, 0.7, 0.1), position=(1 / 3, 0, 0), rotation=rotation, damping=0.1, low=-1.5)
    rough = Material(0.9, stiffness=1e4)
    return RigidWorld(
        (
            Body("arm", 1 / 3, root @ root.T + np.eye(3), (block,), com=(0.1, 0.2, 1e-17), joint=hinge, damping=0.1),
            Body("finger", 0.1, 1e-3, (Geometry(CapsuleShape(0.01, 0.1)),), joint=Joint("slide", low=0.0, high=0.04), parent="arm", material=rough),
            Body("stone", 2, (0.1, 0.2, 0.25), (Geometry(ConvexShape(rng.normal(size=(12, 3)))), Geometry(SphereShape(0.1)))),
            Body("tip", 1, 1, joint=Joint("driven")),
        ),
        (Fixture((Geometry(PlaneShape(), rotation=rotation),), Material(0.4, 0.1), "floor"), Fixture((Geometry(SphereShape(1)),), name="hill")),
        (
            Actuator("arm", "effort", -3, math.inf, gain=0.3),
            Actuator("finger", "position", 0, 0.04, stiffness=10.0, name="grip"),
            *drive("tip", 0.5, turning=1.0),
        ),
        9.80665,
    )


def bits(value: object) -> object:
    """All that a world holds, as something that compares bit for bit."""
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if isinstance(value, tuple):
        return tuple(bits(part) for part in value)
    if hasattr(value, "__dataclass_fields__"):
        return type(value).__name__, {name: bits(getattr(value, name)) for name in value.__dataclass_fields__}
    return value if value is None or isinstance(value, str) else repr(float(value))


def test_worlds_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "world.json"
    for world in (rich_world(), RigidWorld((Body("a", 1.0, 1.0),)), RigidWorld((Body("a", 1.0, 1.0),), fixtures=())):
        write_world(world, path)
        assert bits(read_world(path)) == bits(world)
    found = json.loads(path.read_text())
    assert found == {"format": "structwm rigid world", "version": 1, "bodies": [{"name": "a", "mass": 1.0, "inertia": [1.0, 1.0, 1.0]}], "fixtures": []}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"field version: expected 1, got 2"),
        ({"format": "other"}, r"field format: expected 'structwm rigid world', got 'other'"),
        ({"wind": 1.0}, r"the whole file, field wind: expected one of bodies, fixtures"),
        ({"gravity": "down"}, r"field gravity: expected a finite number, got 'down'"),
        ({"gravity": 10**400}, r"field gravity: expected a finite number"),
        ({"bodies": [{"name": "a", "mass": 1, "inertia": 10**400}]}, r"field inertia: expected 1, 3 or 3 x 3"),
        ({"actuators": [{"body": "a", "kind": "wrench", "low": 0, "high": 1, "axis": 6}]}, r"actuators\[0\], field axis: expected an axis of 0 to 5"),
        ({"gravity": True}, r"field gravity: expected a finite number"),
        ({"bodies": {}}, r"field bodies: expected a list"),
        ({"bodies": []}, r"RigidWorld needs at least one body"),
        ({"bodies": [{"name": "a", "inertia": 1}]}, r"bodies\[0\], field mass: expected a value, got none"),
        ({"bodies": [{"name": "a", "mass": -1, "inertia": 1}]}, r"bodies\[0\].*needs mass above zero"),
        ({"bodies": [{"name": "a", "mass": 1, "inertia": [1, 2]}]}, r"bodies\[0\], field inertia: expected 1, 3 or 3 x 3"),
        ({"bodies": [{"name": 3, "mass": 1, "inertia": 1}]}, r"bodies\[0\], field name: expected a text, got 3"),
        ({"bodies": [{"name": "a", "mass": 1, "inertia": 1, "colour": 1}]}, r"bodies\[0\], field colour"),
        ({"bodies": [{"name": "a", "mass": 1, "inertia": 1, "joint": {"kind": "ball"}}]}, r"bodies\[0\].joint.*free, hinge"),
        ({"bodies": [{"name": "a", "mass": 1, "inertia": 1, "joint": {"axis": [0, 0]}}]}, r"bodies\[0\].joint, field axis: expected 3 finite numbers"),
        ({"bodies": [{"name": "a", "mass": 1, "inertia": 1, "joint": 4}]}, r"bodies\[0\].joint.*expected a mapping"),
        ({"bodies": [{"name": "a", "mass": 1, "inertia": 1, "geometries": [{"shape": {"type": "cone"}}]}]}, r"shape, field type: expected one of sphere"),
        ({"bodies": [{"name": "a", "mass": 1, "inertia": 1, "geometries": [{}]}]}, r"geometries\[0\], field shape"),
        ({"bodies": [{"name": "a", "mass": 1, "inertia": 1, "material": {"grip": 1}}]}, r"bodies\[0\].material, field grip"),
        ({"actuators": [{"body": "b", "kind": "effort", "low": 0, "high": 1}]}, r"'b', which there is not"),
    ],
)  # fmt: skip
def test_a_changed_file_is_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "world.json"
    write_world(RigidWorld((Body("a", 1.0, 1.0),)), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadData, match=message) as caught:
        read_world(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1, "a": 2}', '{"format": NaN}', "[" * 100000, "\x00"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(BadData):
        read_world(save(tmp_path, content, "world.json"))


def test_kinds_and_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reads \.urdf, \.xml, \.json, got 'scene.sdf'"):
        read_world(tmp_path / "scene.sdf")
    with pytest.raises(ValueError, match=r"no option 'colour' for .urdf files; it has floating, ground, packages"):
        read_world(save(tmp_path, ARM), colour="red")
    with pytest.raises(ValueError, match=r"writes .json files"):
        write_world(RigidWorld((Body("a", 1.0, 1.0),)), tmp_path / "world.xml")
    with pytest.raises(BadData, match="can be read"):
        read_world(tmp_path / "none.urdf")
