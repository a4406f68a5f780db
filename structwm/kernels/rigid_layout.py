"""How a rigid world lies in memory: codes of joints, actuators and contact tests, and the columns of its parameter table. No Warp here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class JointKind(IntEnum):
    """How a body moves with respect to its parent; in brackets the numbers in configuration and velocity."""

    FREE = 0  # (7: position, quaternion wxyz; 6: velocity of the origin, angular velocity, both in the world frame)
    HINGE = 1  # (1, 1) turns about an axis
    SLIDE = 2  # (1, 1) moves along an axis
    FIXED = 3  # (0, 0)
    DRIVEN = 4  # (7, 6) as FREE, but moved by command, whatever touches it

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers in configuration and velocity."""
        return {JointKind.FREE: (7, 6), JointKind.DRIVEN: (7, 6), JointKind.FIXED: (0, 0)}.get(self, (1, 1))


class ActuatorKind(IntEnum):
    """What an action's number does."""

    EFFORT = 0  # torque [Nm] or force [N] at a joint, times the gain
    POSITION = 1  # set point of a joint's spring and damper
    WRENCH = 2  # force [N] or torque [Nm] along one world axis at a body's origin, times the gain
    VELOCITY = 3  # component of the commanded twist of a driven body


class TestKind(IntEnum):
    """How contacts between two geometries A and B are found."""

    POINTS_PLANE = 0  # points of A, each with A's radius, against the half-space of B
    POINTS_PLANES = 1  # samples of A against the planes of a polytope B, joined smoothly
    POINTS_FACES = 2  # samples of A, each with A's radius, against the triangles of a polytope B
    SEGMENTS = 3  # the segment of A against the segment of B, with both radii


GRAVITY = 0  # columns 0 to 2: acceleration [m/s^2], world frame
HEAD = 3

BODY = 18
MASS, COM, INERTIA, INVERSE_INERTIA, LINEAR_DRAG, ANGULAR_DRAG = 0, 1, 4, 10, 16, 17
"""Columns of a body: mass [kg], centre of mass [m] (3), inertia about it [kg m^2] as xx yy zz xy xz yz and its inverse so, in the body frame; drag [1/s]."""

JOINT = 12
ANCHOR, DAMPING, DRY, ARMATURE, SPRING, REST, LOW, HIGH, LIMIT_SPRING, LIMIT_DAMPING = 0, 3, 4, 5, 6, 7, 8, 9, 10, 11
"""Columns of a joint: anchor in the parent's frame [m] (3), viscous damping, dry friction, motor inertia, spring, its rest, limits, their spring and damper."""

GEOMETRY = 5
OFFSET, SCALE, RADIUS = 0, 3, 4
"""Columns of a geometry: origin in the body frame [m] (3), factor of size [-], radius by which its core is rounded [m]."""

PAIR = 8
STIFFNESS, DAMPING_RATIO, FRICTION, TORSION, ROLLING, SMOOTHING, SLIP, SPIN = range(8)
"""Columns of a pair of geometries: stiffness [N/m], damping ratio [-], Coulomb coefficient [-], torsional and rolling friction [m], depth over which contact
sets in [m], speed below which friction fades [m/s], and the same for turning [rad/s]."""

ACTUATOR = 3
GAIN, STIFF, DAMP = 0, 1, 2
"""Columns of an actuator: gain [-], and of POSITION the spring and the damper."""


@dataclass(frozen=True)
class Columns:
    """Where the blocks of the parameter table start."""

    bodies: int
    geometries: int
    pairs: int
    actuators: int

    @property
    def body(self) -> int:
        return HEAD

    @property
    def joint(self) -> int:
        return self.body + BODY * self.bodies

    @property
    def geometry(self) -> int:
        return self.joint + JOINT * self.bodies

    @property
    def pair(self) -> int:
        return self.geometry + GEOMETRY * self.geometries

    @property
    def actuator(self) -> int:
        return self.pair + PAIR * self.pairs

    @property
    def total(self) -> int:
        return self.actuator + ACTUATOR * self.actuators
