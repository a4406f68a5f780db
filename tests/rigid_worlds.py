"""Small rigid worlds with a start in which everything touches or moves: shared by the tests of rigid twins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.physics.rigid import RigidTwin
from structwm.physics.rigid_parameters import physical_parameters
from structwm.physics.rigid_scene import RigidState
from structwm.physics.rigid_world import (
    Actuator,
    Body,
    BoxShape,
    CapsuleShape,
    ConvexShape,
    Geometry,
    Joint,
    Material,
    RigidWorld,
    SphereShape,
    box_inertia,
    drive,
)

UP = (1.0, 0.0, 0.0, 0.0)
EIGHTH = (math.cos(math.pi / 8), 0.0, 0.0, math.sin(math.pi / 8))  # a turn of 45 degrees about z
G = 9.81
HALF = 0.05  # of the cubes [m]
BALL = 0.4 * 0.3 * 0.05**2  # inertia of a solid ball of 0.3 kg and 0.05 m [kg m^2]


def numbers(*values: float) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


def pose(*place: float, turn: tuple[float, ...] = UP) -> Tensor:
    """(7,) of a position [m] and a quaternion wxyz of any length."""
    length = math.hypot(*turn)
    return numbers(*place, *(part / length for part in turn))


def rod(*, axis: tuple[float, float, float] = (0.0, 1.0, 0.0), name: str = "rod", parent: str | None = None, place: float = 0.0, **joint: Any) -> Body:
    """A rod of 0.3 m that hangs from a hinge; its inertia about the hinge is 0.006 kg m^2."""
    return Body(name, 0.2, (0.0015, 0.0015, 1e-5), com=(0.0, 0.0, -0.15), joint=Joint("hinge", axis, (0.0, 0.0, place), **joint), parent=parent)


def ball(name: str = "ball", **fields: Any) -> Body:
    return Body(name, 0.3, BALL, (Geometry(SphereShape(0.05)),), **fields)


def block(name: str = "block", *, mass: float = 0.5, half: tuple[float, float, float] = (HALF, HALF, HALF), **fields: Any) -> Body:
    return Body(name, mass, box_inertia(mass, half), (Geometry(BoxShape(half)),), **fields)


def still(value: float = 0.0) -> Tensor:
    """A number of a joint, float64."""
    return torch.tensor(value, dtype=torch.float64)


def exact(world: RigidWorld, *, dt: float, substeps: int = 4, **values: float) -> RigidTwin:
    """A twin whose parameters are float64, not float32 in a float64 state; `values` have dots as two underscores."""
    given = {name: still(value) for name, (_, value) in physical_parameters(world, dt / substeps).items()}
    return RigidTwin(world, dt=dt, substeps=substeps, values=given | {name.replace("__", "."): still(value) for name, value in values.items()})


def run(twin: Any, state: RigidState, steps: int, action: Tensor | None = None) -> RigidState:
    """States (*B, H+1) under a constant action (A,), nothing by default."""
    actions = torch.zeros(twin.spec.action.size, dtype=torch.float64) if action is None else action
    problems = state.batch_size[:-1] if twin.spec.members > 1 else state.batch_size
    return twin.rollout(state, actions.expand(*problems, steps, -1)).states


@dataclass(frozen=True, eq=False)
class SmallWorld:
    """A world and what `RigidTwin.state` is to be given for its start."""

    name: str
    world: RigidWorld
    poses: dict[str, Tensor] = field(default_factory=dict)
    twists: dict[str, Tensor] = field(default_factory=dict)
    positions: dict[str, Tensor] = field(default_factory=dict)
    rates: dict[str, Tensor] = field(default_factory=dict)

    def start(self, twin: RigidTwin) -> RigidState:
        """Batch size (), float64."""
        return twin.state(self.poses, self.twists, positions=self.positions, rates=self.rates, dtype=torch.float64)


def cube(**fields: Any) -> Body:
    """An uneven box with rounded edges, offset centre of mass, drag, and all kinds of friction."""
    given: dict[str, Any] = {
        "com": (0.004, -0.003, 0.002),
        "damping": 0.1,
        "angular_damping": 0.2,
        "material": Material(friction=0.3, restitution=0.4, torsional_friction=0.003, rolling_friction=0.002),
    }
    return Body("cube", 0.37, (7e-4, 9e-4, 1.2e-3), (Geometry(BoxShape((0.05, 0.06, 0.04)), rounding=0.002),), **given | fields)


def cube_on_plane() -> SmallWorld:
    """A rounded cube that hits the ground with a corner."""
    start = pose(0.0, 0.0, 0.062, turn=(0.9, 0.3, 0.2, -0.1))
    return SmallWorld("cube", RigidWorld((cube(),)), {"cube": start}, {"cube": numbers(0.5, 0.2, -1.0, 2.0, -1.0, 3.0)})


def arm_links(**first: Any) -> tuple[Body, Body, Body]:
    """Two hinges and a slide, one behind the other, with skewed axes, and offset centres of mass."""
    near, far = Geometry(CapsuleShape(0.02, 0.1), position=(0.0, 0.0, -0.1)), Geometry(SphereShape(0.03), position=(0.0, 0.0, -0.2))
    upper = Joint("hinge", axis=(0.0, 1.0, 0.0), position=(0.0, 0.0, 0.5), **first)
    lower = Joint("hinge", axis=(0.2, 1.0, 0.0), position=(0.01, 0.0, -0.2), rotation=EIGHTH, armature=0.001)
    sled = Joint("slide", axis=(0.0, 0.3, -1.0), position=(0.0, 0.0, -0.2), stiffness=3.0, rest=0.01)
    return (
        Body("upper", 0.5, (2e-3, 2e-3, 1e-3), (near,), com=(0.01, 0.0, -0.1), joint=upper),
        Body("lower", 0.4, ((1.5e-3, 1e-4, 0.0), (1e-4, 1.4e-3, 0.0), (0.0, 0.0, 7e-4)), (far,), com=(0.0, 0.01, -0.12), joint=lower, parent="upper"),
        Body("sled", 0.2, 5e-4, (Geometry(SphereShape(0.03), position=(0.0, 0.0, -0.05)),), com=(0.0, 0.0, -0.02), joint=sled, parent="lower"),
    )


def arm() -> SmallWorld:
    """A three-link arm with limits, springs, dry friction and every kind of actuator of a joint; its tip touches the ground, its first joint the limit."""
    links = arm_links(damping=0.01, friction=0.02, armature=0.003, stiffness=0.1, rest=0.2, low=-1.2, high=1.4)
    motors = (
        Actuator("upper", "effort", -1.0, 1.0, gain=0.7),
        Actuator("lower", "position", -1.0, 1.0, stiffness=2.0, damping=0.05),
        Actuator("sled", "wrench", -1.0, 1.0, axis=0),
        Actuator("lower", "wrench", -1.0, 1.0, axis=4, gain=0.1),
    )
    positions = {"upper": still(1.4004), "lower": still(-0.3), "sled": still(0.02)}
    return SmallWorld("arm", RigidWorld(links, actuators=motors), positions=positions, rates={"upper": still(0.5), "lower": still(-1.0), "sled": still(0.1)})


def arm_on_the_ground() -> SmallWorld:
    """The same arm near its lowest, the ball at its end in the ground."""
    low = arm()
    positions = {"upper": still(0.1), "lower": still(-0.1), "sled": still(0.022)}
    return SmallWorld("arm down", low.world, positions=positions, rates={"upper": still(1.5), "lower": still(0.5), "sled": still(0.6)})


def ball_and_capsule() -> SmallWorld:
    """A ball that falls onto a capsule that falls onto the ground."""
    ball = Body("ball", 0.2, 1e-4, (Geometry(SphereShape(0.04)),), material=Material(0.4, 0.5, None, 0.001, 0.001))
    capsule = Body("capsule", 0.3, (1e-3, 1e-3, 3e-4), (Geometry(CapsuleShape(0.03, 0.05), position=(0.0, 0.0, 0.01)),), material=Material(0.3, 0.3))
    poses = {"ball": pose(0.0, 0.01, 0.118), "capsule": pose(0.0, 0.0, 0.052, turn=(0.8, 0.6, 0.1, 0.0))}
    twists = {"ball": numbers(0.1, 0.0, -0.5, 1.0, 2.0, 3.0), "capsule": numbers(0.0, 0.1, -0.2, 1.0, 0.0, 1.0)}
    return SmallWorld("round", RigidWorld((ball, capsule)), poses, twists)


def box_on_box() -> SmallWorld:
    """The cube on a box whose geometry is offset and turned, on the ground."""
    block = Body("block", 0.5, (1e-3, 1.1e-3, 1.2e-3), (Geometry(BoxShape((0.06, 0.05, 0.04)), (0.0, 0.005, 0.0), EIGHTH),), material=Material(0.4, 0.3))
    poses = {"cube": pose(0.01, 0.0, 0.123, turn=(0.95, 0.2, 0.1, 0.05)), "block": pose(0.0, 0.0, 0.0405, turn=(1.0, 0.01, 0.02, 0.0))}
    twists = {"cube": numbers(0.1, 0.0, -0.5, 1.0, 2.0, 3.0), "block": numbers(0.3, 0.0, 0.0, 0.0, 0.0, 0.0)}
    return SmallWorld("boxes", RigidWorld((cube(), block)), poses, twists)


def mesh() -> Body:
    """The hull of some points."""
    points = np.random.default_rng(0).normal(size=(12, 3)) * 0.04
    return Body("mesh", 0.5, (1e-3, 1.1e-3, 1.2e-3), (Geometry(ConvexShape(points)),), material=Material(0.4, 0.3))


def pusher() -> Body:
    """A driven sphere."""
    return Body("pusher", 1.0, 1.0, (Geometry(SphereShape(0.02)),), joint=Joint("driven"))


def pushed() -> SmallWorld:
    """A driven sphere that pushes the cube into a mesh, all on the ground; the sphere touches a face of the cube from outside."""
    poses = {
        "pusher": pose(-0.0705, 0.0, 0.03),
        "cube": pose(0.0, 0.0, 0.0415, turn=(1.0, 0.0, 0.0, 0.1)),
        "mesh": pose(0.118, 0.0, 0.04, turn=(1.0, 0.1, 0.2, 0.1)),
    }
    return SmallWorld("pushed", RigidWorld((pusher(), cube(), mesh()), actuators=drive("pusher", 1.0, turning=2.0)), poses)


def impaled() -> SmallWorld:
    """A driven sphere whose centre is inside a mesh, and a capsule with an end inside the cube."""
    rod = Body("rod", 0.2, (4e-4, 4e-4, 1e-4), (Geometry(CapsuleShape(0.01, 0.04)),), material=Material(0.3, 0.2))
    poses = {
        "pusher": pose(0.215, 0.0, 0.1),
        "cube": pose(0.0, 0.0, 0.0415),
        "mesh": pose(0.2, 0.0, 0.04, turn=(1.0, 0.1, 0.2, 0.1)),
        "rod": pose(0.0, 0.01, 0.119, turn=(1.0, 0.1, 0.05, 0.0)),
    }
    twists = {"rod": numbers(0.1, 0.0, -0.3, 1.0, 0.0, 0.5)}
    return SmallWorld("impaled", RigidWorld((pusher(), cube(), mesh(), rod), actuators=drive("pusher", 1.0)), poses, twists)


def floating_base() -> SmallWorld:
    """A free body with a leg, falling onto the ground."""
    trunk = Body("trunk", 1.0, (0.01, 0.012, 0.011), (Geometry(BoxShape((0.1, 0.1, 0.03))),), com=(0.01, 0.0, 0.0), material=Material(0.5, 0.3))
    foot = Geometry(CapsuleShape(0.02, 0.06), position=(0.0, 0.0, -0.08))
    leg = Body(
        "leg", 0.3, (2e-3, 2e-3, 5e-4), (foot,), com=(0.0, 0.0, -0.08), joint=Joint("hinge", (0.0, 1.0, 0.0), (0.1, 0.0, 0.0), damping=0.01), parent="trunk"
    )
    return SmallWorld(
        "floating",
        RigidWorld((trunk, leg), actuators=(Actuator("leg", "effort", -2.0, 2.0),)),
        {"trunk": pose(0.0, 0.0, 0.17, turn=(0.98, 0.1, 0.1, 0.05))},
        {"trunk": numbers(0.3, 0.1, -0.4, 1.0, 2.0, -1.0)},
        {"leg": still(0.2)},
        {"leg": still(1.0)},
    )


WORLDS: tuple[Callable[[], SmallWorld], ...] = (
    cube_on_plane,
    arm,
    arm_on_the_ground,
    ball_and_capsule,
    box_on_box,
    pushed,
    impaled,
    floating_base,
)
