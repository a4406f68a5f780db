"""What rigid worlds, their twins and their recordings refuse: before any work, in one sentence that names the thing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from structwm.physics.rigid import RigidTwin
from structwm.physics.rigid_runs import RigidRun, rigid_recording
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
from structwm.state import Splats

from .rigid_worlds import arm, numbers, pose, pushed, run

HALF = 0.05


@contextmanager
def refused(*words: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """An error of one sentence that holds some words."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    assert re.search(r"[.?]$", message), f"no end of a sentence: {message}"
    assert not re.search(r"[a-z)][.?] [A-Z]", message), f"more than one sentence: {message}"


def box(name: str = "box", **fields: Any) -> Body:
    return Body(name, **{"mass": 0.5, "inertia": 8e-4, "geometries": (Geometry(BoxShape((HALF,) * 3)),)} | fields)


def link(name: str = "link", parent: str | None = None, **joint: Any) -> Body:
    return Body(name, 0.2, 1e-3, com=(0.0, 0.0, -0.1), joint=Joint(**{"kind": "hinge"} | joint), parent=parent)


# shapes, bodies, joints, actuators


@pytest.mark.parametrize("size", [0.0, -0.1, math.nan, math.inf])
def test_sizes_of_shapes(size: float) -> None:
    with refused("Sphere", "radius above zero", str(size)):
        SphereShape(size)
    with refused("Capsule", "radius above zero"):
        CapsuleShape(size, 0.1)
    with refused("Capsule", "half_length above zero"):
        CapsuleShape(0.1, size)
    with refused("Box", "half_extents[1] above zero"):
        BoxShape((0.1, size, 0.1))


def test_shapes_that_are_none() -> None:
    with refused("Box", "three half_extents", "(0.1, 0.1)"):
        BoxShape((0.1, 0.1))  # type: ignore[arg-type]
    with refused("ConvexShape", "at least four", "(3, 3)"):
        ConvexShape(np.eye(3))
    with refused("ConvexShape", "finite"):
        ConvexShape(np.full((4, 3), math.nan))
    with refused("plane"):
        ConvexShape(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]))
    with refused("rounding", "-0.01 m"):
        Geometry(SphereShape(0.1), rounding=-0.01)
    with refused("unit quaternion wxyz"):
        Geometry(SphereShape(0.1), rotation=(1.0, 1.0, 0.0, 0.0))


@pytest.mark.parametrize("mass", [0.0, -1.0, math.nan, math.inf])
def test_masses(mass: float) -> None:
    with refused("'box'", "mass above zero", str(mass)):
        box(mass=mass)


@pytest.mark.parametrize(
    "inertia",
    [0.0, -1e-3, (1e-3, 0.0, 1e-3), math.nan, ((1e-3, 2e-3, 0.0), (2e-3, 1e-3, 0.0), (0.0, 0.0, 1e-3))],
    ids=["none", "negative", "flat", "nan", "mixed"],
)
def test_inertias(inertia: Any) -> None:
    with refused("'box'", "inertia above zero about every axis"):
        box(inertia=inertia)


def test_bodies_that_cannot_be() -> None:
    with refused("'box'", "Plane", "Fixture"):
        box(geometries=(Geometry(PlaneShape()),))
    with refused("'box'", "free", "no parent", "'other'"):
        box(parent="other")
    with refused("'tip'", "driven", "no parent"):
        Body("tip", 1.0, 1.0, joint=Joint("driven"), parent="box")


def test_joints_that_cannot_be() -> None:
    with refused("free, hinge, slide, fixed, driven", "'ball'"):
        Joint("ball")
    with refused("axis", "(0.0, 0.0, 0.0)"):
        Joint("hinge", axis=(0.0, 0.0, 0.0))
    for name in ("damping", "friction", "armature", "stiffness"):
        with refused(name, "-1.0"):
            Joint("hinge", **{name: -1.0})
        with refused(name, "nan"):
            Joint("hinge", **{name: math.nan})
    with refused("low < high", "1.0 and -1.0"):
        Joint("hinge", low=1.0, high=-1.0)


def test_actuators_that_cannot_be() -> None:
    with refused("effort, position, wrench, velocity", "'torque'"):
        Actuator("link", "torque", -1.0, 1.0)
    with refused("'link'", "low < high", "1.0 and 1.0"):
        Actuator("link", "effort", 1.0, 1.0)


def test_worlds_that_cannot_be() -> None:
    with refused("at least one body"):
        RigidWorld(())
    with refused("one name", "'box' twice"):
        RigidWorld((box(), box()))
    with refused("one name", "'ground' twice"):
        RigidWorld((box("ground"),))
    with refused("'link'", "'nothing'", "there are box"):
        RigidWorld((box(), link(parent="nothing")))
    with refused("'hand'", "'link'", "before"):
        RigidWorld((link("hand", "link"), link()))
    with refused("'lever_effort'", "'lever'", "there are box"):
        RigidWorld((box(),), actuators=(Actuator("lever", "effort", -1.0, 1.0),))
    with refused("'box_effort'", "hinge or slide", "is free"):
        RigidWorld((box(),), actuators=(Actuator("box", "effort", -1.0, 1.0),))
    with refused("'box_velocity_0'", "driven", "is free"):
        RigidWorld((box(),), actuators=drive("box", 1.0))
    driven = Body("tip", 1.0, 1.0, joint=Joint("driven"))
    with refused("'tip_wrench_0'", "is driven"):
        RigidWorld((driven,), actuators=(Actuator("tip", "wrench", -1.0, 1.0),))
    with refused("one after another"):
        RigidTwin(RigidWorld((link(), box(), link("hand", "link"))), dt=0.01)


# twins


@pytest.mark.parametrize("sizes", [{"dt": 0.0}, {"dt": -0.01}, {"dt": math.nan}, {"dt": 0.01, "substeps": 0}, {"dt": 0.01, "substeps": 2.5}])
def test_steps(sizes: dict[str, float]) -> None:
    with refused("RigidTwin", "substeps" if "substeps" in sizes else "dt", "above zero"):
        RigidTwin(RigidWorld((box(),)), **sizes)  # type: ignore[arg-type]


def test_a_substep_that_is_unstable() -> None:
    """Names body, substep, stiffness, and the substep that would do."""
    stiff = box(material=Material(stiffness=1e6))
    with refused("substep of 0.0025 s", "'box'", "1e+06 N/m", "take more substeps or a softer material"):
        RigidTwin(RigidWorld((stiff,)), dt=0.01)
    with pytest.raises(ValueError) as caught:
        RigidTwin(RigidWorld((stiff,)), dt=0.01)
    enough = float(re.search(r"need one of ([\d.e-]+) s", str(caught.value)).group(1))  # type: ignore[union-attr]
    RigidTwin(RigidWorld((stiff,)), dt=0.9 * enough, substeps=1)
    twin = RigidTwin(RigidWorld((box(),)), dt=0.01, substeps=16)
    with refused("box.stiffness", "must lie in"):
        twin.with_timing(dt=0.01, substeps=1)


def test_parameters() -> None:
    world = RigidWorld((box("one"), box("two")))
    twin = RigidTwin(world, dt=0.01)
    with refused("RigidTwin has no parameter 'grip'", "one.friction"):
        twin.with_parameters({"grip": 0.3})
    with refused("several parameters 'friction'", "one.friction, two.friction", "say which"):
        twin.with_parameters({"friction": 0.3})
    with refused("has no parameter 'three.friction'"):
        RigidTwin(world, dt=0.01, values={"three.friction": 0.3})
    with refused("several parameters 'mass'"):
        twin.space(["mass"])
    for value in (-0.1, 3.1, math.nan):
        with refused("one.friction must lie in [0, 3]", str(value)):
            twin.with_parameters({"one.friction": value})
    with refused("one.mass must lie in [0.05, 5] kg", "got 6"):
        twin.with_parameters({"one.mass": torch.tensor([0.3, 6.0])})
    with refused("do not broadcast", "'one.mass': (3,)", "'two.mass': (2,)"):
        twin.with_parameters({"one.mass": torch.full((3,), 0.3), "two.mass": torch.full((2,), 0.3)})
    with refused("ground.offset must lie in", "m, got 1"):
        twin.with_parameters({"offset": 1.0})


def test_states_that_do_not_fit() -> None:
    twin = RigidTwin(pushed().world, dt=0.01)
    with refused("poses by name", "3 such bodies", "pusher, cube, mesh"):
        twin.state(pose(0.0, 0.0, 0.0))
    with refused("poses of 'ball'", "there are pusher, cube, mesh"):
        twin.state({"ball": pose(0.0, 0.0, 0.0)})
    with refused("poses (*B, 7)", "(6,)", "'cube'"):
        twin.state({"cube": torch.zeros(6)})
    with refused("twists (*B, 6)", "(7,)", "'cube'"):
        twin.state(twists={"cube": torch.zeros(7)})
    with refused("positions of 'cube'", "there are none"):
        twin.state(positions={"cube": 0.1})
    with refused("rates of 'hand'", "there are upper, lower, sled"):
        RigidTwin(arm().world, dt=0.01).state(rates={"hand": 0.1})


def test_actions_that_do_not_fit() -> None:
    case = pushed()
    twin = RigidTwin(case.world, dt=0.01)
    start = case.start(twin)
    with refused("6", "5"):
        twin.rollout(start, torch.zeros(4, 5, dtype=torch.float64))
    with refused("pusher_velocity_0"):
        twin.rollout(start, torch.full((4, 6), 1.5, dtype=torch.float64))
    with refused("pusher_velocity_0"):
        twin.rollout(start, torch.full((4, 6), math.nan, dtype=torch.float64))
    with refused("H >= 1"):
        twin.rollout(start, torch.zeros(0, 6, dtype=torch.float64))
    with refused("do not broadcast"):
        twin.rollout(start.expand(2), torch.zeros(3, 4, 6, dtype=torch.float64))
    members = twin.with_parameters({"cube.friction": torch.tensor([0.1, 0.2])})
    with refused("2 members"):
        members.rollout(start, torch.zeros(4, 6, dtype=torch.float64))
    with refused("kernels", "float32 or float64", "float16", kind=TypeError):
        twin.rollout(RigidState(configuration=start.configuration.half(), velocity=start.velocity.half(), batch_size=()), torch.zeros(4, 6))


def test_the_appearance_of_nothing() -> None:
    splats = Splats(
        means=torch.zeros(1, 3), rotations=torch.zeros(1, 4), scales=torch.ones(1, 3), opacities=torch.ones(1), colors=torch.zeros(1, 1, 3), batch_size=[]
    )
    with refused("'ball'", "no body", "there are box"):
        RigidScene(RigidWorld((box(),)), appearance={"ball": splats})


# starts


def test_starts_that_cannot_be() -> None:
    world = RigidWorld((box("one"), box("two"), link("rod", axis=(0.0, 1.0, 0.0), position=(0.0, 0.0, 1.0))))
    twin = RigidTwin(world, dt=0.01)
    fine = twin.state({"one": pose(0.0, 0.0, HALF), "two": pose(0.3, 0.0, HALF - 0.001)})
    twin.check_start(fine)
    with refused("configuration", "not finite"):
        twin.check_start(twin.state({"one": pose(math.nan, 0.0, HALF), "two": pose(0.3, 0.0, HALF)}))
    with refused("velocity", "not finite"):
        twin.check_start(twin.state({"one": pose(0.0, 0.0, HALF), "two": pose(0.3, 0.0, HALF)}, rates={"rod": math.inf}))
    with refused("'two'", "unit quaternion wxyz", "length 1.41"):
        twin.check_start(twin.state({"one": pose(0.0, 0.0, HALF), "two": numbers(0.3, 0.0, HALF, 1.0, 0.0, 0.0, 1.0)}))
    with refused("'two'", "length 0"):
        twin.check_start(twin.state({"one": pose(0.0, 0.0, HALF), "two": numbers(0.3, 0.0, HALF, 0.0, 0.0, 0.0, 0.0)}))
    with refused("'one'", "0.05 m deep in 'ground'", "start 0"):
        twin.check_start(twin.state({"one": pose(0.0, 0.0, 0.0), "two": pose(0.3, 0.0, HALF)}))
    with refused("'two'", "'one'", "deep in"):
        twin.check_start(twin.state({"one": pose(0.0, 0.0, HALF), "two": pose(0.04, 0.0, HALF)}))
    several = torch.stack([pose(0.3, 0.0, HALF), pose(0.3, 0.0, -0.1)])
    with refused("'two'", "'ground'", "start 1"):
        twin.check_start(twin.state({"one": pose(0.0, 0.0, HALF).expand(2, 7), "two": several}))
    twin.with_parameters({"offset": -0.06}).check_start(twin.state({"one": pose(0.0, 0.0, 0.0), "two": pose(0.3, 0.0, HALF)}))


def test_a_start_in_a_fixture() -> None:
    table = Fixture((Geometry(BoxShape((0.5, 0.5, 0.1)), (0.0, 0.0, 0.4)),), name="table")
    twin = RigidTwin(RigidWorld((box(),), fixtures=(Fixture((Geometry(PlaneShape()),)), table)), dt=0.01)
    twin.check_start(twin.state(pose(0.0, 0.0, 0.5 + HALF)))
    with refused("'box'", "'table'"):
        twin.check_start(twin.state(pose(0.0, 0.0, 0.5)))


# recordings


def slid(twin: RigidTwin, steps: int = 20) -> dict[str, Any]:
    """A run of a box that slides and turns, as recorded."""
    states = run(twin, twin.state(pose(0.0, 0.0, HALF), numbers(0.5, 0.0, 0.0, 0.0, 0.0, 2.0)), steps)
    return {"poses": {"box": states.configuration.clone()}, "twists": {"box": states.velocity.clone()}}


@pytest.fixture(scope="module")
def sliding() -> RigidTwin:
    return RigidTwin(RigidWorld((box(),)), dt=0.01)


def test_a_run_becomes_a_recording(sliding: RigidTwin) -> None:
    """As refusals mean little where nothing is accepted."""
    recording = rigid_recording(sliding, [RigidRun(**slid(sliding)), RigidRun(**slid(sliding, 12))])
    assert tuple(recording.actions.shape) == (2, 20, 0)
    states = sliding.rollout(recording.state, recording.actions).states
    torch.testing.assert_close(states.configuration[0, -1], slid(sliding)["poses"]["box"][-1], rtol=0, atol=1e-9)


def test_runs_that_are_empty(sliding: RigidTwin) -> None:
    with refused("at least one run"):
        rigid_recording(sliding, [])
    with refused("run 0 is empty", "at least two instants"):
        rigid_recording(sliding, [RigidRun()])
    with refused("throw 3 is empty"):
        rigid_recording(sliding, [RigidRun(poses={"box": pose(0.0, 0.0, HALF).unsqueeze(0)}, name="throw 3")])
    with refused("run 1 is empty"):
        rigid_recording(sliding, [RigidRun(**slid(sliding)), RigidRun(poses={"box": np.zeros((0, 7))})])


def test_runs_of_unknown_bodies(sliding: RigidTwin) -> None:
    with refused("run 0", "'cube'", "no body", "there are box"):
        rigid_recording(sliding, [RigidRun(poses={"cube": slid(sliding)["poses"]["box"]})])


@pytest.mark.parametrize("series", ["twists", "rates", "positions"])
def test_series_of_unknown_bodies(sliding: RigidTwin, series: str) -> None:
    """Left out, they would start a body at rest without a word."""
    given = slid(sliding)
    width = (21, 6) if series == "twists" else (21,)
    with refused("'cube'", "there are"):
        rigid_recording(sliding, [RigidRun(**given | {series: given.get(series, {}) | {"cube": np.zeros(width)}})])


def test_joints_that_are_no_joints(sliding: RigidTwin) -> None:
    with refused("'box'"):
        rigid_recording(sliding, [RigidRun(positions={"box": np.zeros(5)})])


def test_series_of_different_lengths(sliding: RigidTwin) -> None:
    given = slid(sliding)
    given["twists"]["box"] = given["twists"]["box"][:-3]
    with refused("run 0", "different lengths", "18, 21 instants"):
        rigid_recording(sliding, [RigidRun(**given)])


def test_actions_of_another_number() -> None:
    twin = RigidTwin(RigidWorld((link(),), actuators=(Actuator("link", "effort", -1.0, 1.0),)), dt=0.01)
    with refused("run 0", "actions (T - 1, A) = (4, 1)", "(5, 1)"):
        rigid_recording(twin, [RigidRun(positions={"link": np.zeros(5)}, actions=np.zeros((5, 1)))])
    with refused("run 0", "(4, 1)", "(4, 2)"):
        rigid_recording(twin, [RigidRun(positions={"link": np.zeros(5)}, actions=np.zeros((4, 2)))])


def test_poses_that_do_not_fit(sliding: RigidTwin) -> None:
    given = slid(sliding)
    with refused("run 0", "(T, 7)", "'box'", "(21, 6)"):
        rigid_recording(sliding, [RigidRun(poses={"box": given["twists"]["box"]})])
    given["poses"]["box"][0] = math.nan
    with refused("run 0", "finite first"):
        rigid_recording(sliding, [RigidRun(**given)])


def test_numbers_in_another_unit(sliding: RigidTwin) -> None:
    given = slid(sliding)
    far = given["poses"]["box"].clone()
    far[:, 0] = torch.linspace(0.0, 0.3, 21)
    with refused("run 0, box", "its size of 0.0866 m", "millimetres"):
        rigid_recording(sliding, [RigidRun(poses={"box": far * numbers(1000, 1000, 1000, 1, 1, 1, 1)})])
    near = given["poses"]["box"] * numbers(1000, 1000, 1000, 1, 1, 1, 1)  # moves by less than its size
    with refused("run 0, box", "mean velocity", "millimetres"):
        rigid_recording(sliding, [RigidRun(poses={"box": near}, twists=given["twists"])])
    with refused("run 0, box", "mean velocity", "millimetres"):
        rigid_recording(sliding, [RigidRun(poses=given["poses"], twists={"box": given["twists"]["box"] * numbers(1000, 1000, 1000, 1, 1, 1)})])
    with refused("run 0, box", "mean angular velocity", "degrees"):
        rigid_recording(sliding, [RigidRun(poses=given["poses"], twists={"box": given["twists"]["box"] * numbers(1, 1, 1, 57.3, 57.3, 57.3)})])
    with refused("run 0, box", "mean velocity"):  # a second of frames, each 10 ms
        rigid_recording(sliding, [RigidRun(poses=given["poses"], twists={"box": given["twists"]["box"] * 0.01})])


def test_a_run_that_starts_in_the_ground(sliding: RigidTwin) -> None:
    given = slid(sliding)
    given["poses"]["box"][:, 2] -= 0.05
    with refused("'box'", "deep in 'ground'"):
        rigid_recording(sliding, [RigidRun(**given)])


def test_quaternions_in_another_order(sliding: RigidTwin) -> None:
    """xyzw gives poses that stand on their head and turn otherwise than their twists say; of any length but one it is refused."""
    given = slid(sliding)
    given["poses"]["box"][:, 3:] *= 2
    with refused("unit quaternion"):
        rigid_recording(sliding, [RigidRun(**given)])


def test_windows_without_states(sliding: RigidTwin) -> None:
    """Windows that start where a pose is missing are left out; with none left there is no recording."""
    given = slid(sliding)
    given["poses"]["box"][10] = math.nan
    recording = rigid_recording(sliding, [RigidRun(**given)], windows=(5, 5))
    assert recording.origin is not None and len(recording.origin) == 3
    assert recording.state.configuration.isfinite().all()


def test_joint_runs() -> None:
    twin = RigidTwin(arm().world, dt=0.01)
    angles = {"upper": torch.linspace(0.0, 0.2, 6), "lower": torch.zeros(6), "sled": torch.zeros(6)}
    recording = rigid_recording(twin, [RigidRun(positions=angles)])
    assert recording.state.velocity[0, 0].item() == pytest.approx(0.04 / 0.01)
    angles["upper"][0] = math.nan
    with refused("run 0", "not finite"):
        rigid_recording(twin, [RigidRun(positions=angles)])
