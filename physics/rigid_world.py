"""What a rigid world is made of: shapes, materials, bodies, joints, actuators. Engines are built from it, and twins of it have the same parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.geometry.convex import VERTICES, few_vertices
from structwm.kernels.rigid_layout import ActuatorKind, JointKind

Array = NDArray[Any]
Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

ORIGIN: Vector = (0.0, 0.0, 0.0)
UPRIGHT: Quaternion = (1.0, 0.0, 0.0, 0.0)
EDGE_SAMPLES = 3  # points between the corners of an edge that are tested against other polytopes
AXIS_SAMPLES = 32  # at most, along a capsule


@dataclass(frozen=True)
class SphereShape:
    """A ball about the origin of its frame."""

    radius: float  # [m]

    def __post_init__(self) -> None:
        _positive("Sphere", radius=self.radius)


@dataclass(frozen=True)
class CapsuleShape:
    """A segment along z about the origin of its frame, rounded by a radius."""

    radius: float  # [m]
    half_length: float  # of the segment [m]

    def __post_init__(self) -> None:
        _positive("Capsule", radius=self.radius, half_length=self.half_length)


@dataclass(frozen=True)
class BoxShape:
    """A box about the origin of its frame."""

    half_extents: Vector  # [m]

    def __post_init__(self) -> None:
        if len(self.half_extents) != 3:
            raise ValueError(f"Box needs three half_extents, got {self.half_extents}.")
        _positive("Box", **{f"half_extents[{k}]": size for k, size in enumerate(self.half_extents)})

    @cached_property
    def hull(self) -> Hull:
        return Hull.of(np.array(np.meshgrid(*((-h, h) for h in self.half_extents), indexing="ij")).reshape(3, 8).T)


@dataclass(frozen=True, eq=False)
class ConvexShape:
    """The convex hull of some points."""

    vertices: Array  # (n, 3) [m]

    def __post_init__(self) -> None:
        vertices = np.asarray(self.vertices, dtype=np.float64)
        if vertices.ndim != 2 or vertices.shape[1] != 3 or len(vertices) < 4 or not np.isfinite(vertices).all():
            raise ValueError(f"ConvexShape needs at least four finite vertices (n, 3), got shape {vertices.shape}.")
        object.__setattr__(self, "vertices", vertices)
        assert self.hull is not None

    @classmethod
    def of_mesh(cls, points: Array, limit: int = VERTICES) -> ConvexShape:
        """The hull of a mesh's vertices (n, 3) [m]; of more than `limit`, one of that many that stands for it (`few_vertices`), for each costs a contact test.

        Raises:
            ValueError: if they do not span a volume.
        """
        corners = cls(points).hull.vertices
        return cls(corners if len(corners) <= limit else few_vertices(corners, limit))

    @cached_property
    def hull(self) -> Hull:
        return Hull.of(self.vertices)


@dataclass(frozen=True)
class PlaneShape:
    """The half-space below z = 0 of its frame; for fixed geometries only."""


Shape = SphereShape | CapsuleShape | BoxShape | ConvexShape | PlaneShape


@dataclass(frozen=True, eq=False)
class Hull:
    """A convex polytope."""

    vertices: Array  # (n, 3) [m]
    faces: Array  # (m, 3) triangles, indices of vertices, counter-clockwise from outside
    normals: Array  # (k, 3) of planes, each once
    offsets: Array  # (k,) of the planes from the origin [m]
    edges: Array  # (e, 2) between faces of different planes

    @classmethod
    def of(cls, points: Array) -> Hull:
        """The hull of points (n, 3).

        Raises:
            ValueError: if they lie in a plane.
        """
        from scipy.spatial import ConvexHull, QhullError

        try:
            hull = ConvexHull(points)
        except QhullError as error:
            raise ValueError("A convex mesh needs points that do not lie in one plane.") from error
        index = -np.ones(len(points), dtype=np.int64)
        index[hull.vertices] = np.arange(len(hull.vertices))
        vertices, faces = points[hull.vertices], index[hull.simplices]
        corners = vertices[faces]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        inward = (normal * hull.equations[:, :3]).sum(1) < 0
        faces[inward] = faces[inward][:, ::-1]
        scale = float(np.ptp(points, axis=0).max())
        rounded = np.round(np.c_[hull.equations[:, :3], -hull.equations[:, 3] / scale], 6)
        _, first, plane = np.unique(rounded, axis=0, return_index=True, return_inverse=True)
        plane = plane.reshape(-1)
        sides: dict[tuple[int, int], set[int]] = {}
        for face, owner in zip(faces, plane, strict=True):
            for k in range(3):
                sides.setdefault((int(min(face[k], face[k - 1])), int(max(face[k], face[k - 1]))), set()).add(int(owner))
        edges = np.array([edge for edge, owners in sides.items() if len(owners) > 1], dtype=np.int64)
        return cls(vertices, faces, hull.equations[first, :3], -hull.equations[first, 3], edges)


@dataclass(frozen=True)
class Material:
    """How a surface touches.

    What is None is, for a body that forces move, a default; for what stands still or is driven, it is left to the surface that it touches. Where both surfaces
    of a contact say something, stiffness is that of two springs in series, everything else the geometric mean.
    """

    friction: float | None = None  # Coulomb coefficient [-]; default 0.5
    restitution: float | None = None  # of the speed along the normal [-]; default 0.3
    stiffness: float | None = None  # of a contact [N/m]; default: as stiff as the time step resolves
    torsional_friction: float | None = None  # torque about the normal over normal force [m]; default 0
    rolling_friction: float | None = None  # torque against rolling over normal force [m]; default 0


@dataclass(frozen=True)
class Geometry:
    """A shape at a place on a body, or in the world."""

    shape: Shape
    position: Vector = ORIGIN  # of its frame in the body's [m]
    rotation: Quaternion = UPRIGHT  # wxyz
    rounding: float = 0.0  # how far a box or mesh is rounded outward [m]
    color: Vector = (0.6, 0.62, 0.66)  # red, green, blue in [0, 1]

    def __post_init__(self) -> None:
        if not self.rounding >= 0:
            raise ValueError(f"Geometry needs rounding of 0 or more, got {self.rounding} m.")
        if not math.isclose(math.hypot(*self.rotation), 1.0, rel_tol=1e-4):
            raise ValueError(f"Geometry needs a unit quaternion wxyz, got {self.rotation}.")

    @property
    def radius(self) -> float:
        """By how much its core is rounded [m]."""
        return self.shape.radius if isinstance(self.shape, SphereShape | CapsuleShape) else self.rounding


@dataclass(frozen=True)
class Fixture:
    """Geometries that stand still in the world, of one material."""

    geometries: tuple[Geometry, ...]
    material: Material = Material()
    name: str = "ground"


GROUND = Fixture((Geometry(PlaneShape()),))  # the plane z = 0


@dataclass(frozen=True)
class Joint:
    """How a body moves with respect to its parent, or to the world.

    A hinge turns about `axis`, a slide moves along it, in the body's frame. In its zero position the body's frame lies at `position` in the parent's, turned by
    `rotation`. Free and driven bodies have no parent; a driven one moves as commanded, whatever it touches.
    """

    kind: Any = JointKind.FREE  # or its name in lower case
    axis: Vector = (0.0, 0.0, 1.0)
    position: Vector = ORIGIN  # [m]
    rotation: Quaternion = UPRIGHT
    damping: float = 0.0  # viscous [Nm s/rad] or [N s/m]
    friction: float = 0.0  # dry [Nm] or [N]
    armature: float = 0.0  # inertia of the motor, seen at the joint [kg m^2] or [kg]
    stiffness: float = 0.0  # of a spring [Nm/rad] or [N/m]
    rest: float = 0.0  # where that spring pulls to [rad] or [m]
    low: float = -math.inf  # limits [rad] or [m]
    high: float = math.inf

    def __post_init__(self) -> None:
        if isinstance(self.kind, str):
            names = [kind.name.lower() for kind in JointKind]
            if self.kind not in names:
                raise ValueError(f"Joint has a kind of {', '.join(names)}, got {self.kind!r}.")
            object.__setattr__(self, "kind", JointKind[self.kind.upper()])
        length = math.hypot(*self.axis)
        if not length > 0:
            raise ValueError(f"Joint needs an axis of some length, got {self.axis}.")
        object.__setattr__(self, "axis", tuple(float(a / length) for a in self.axis))
        for name in ("damping", "friction", "armature", "stiffness"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Joint needs {name} of 0 or more, got {getattr(self, name)}.")
        if not self.low < self.high:
            raise ValueError(f"Joint needs low < high, got {self.low} and {self.high}.")


@dataclass(frozen=True)
class Body:
    """A rigid body. Its frame's origin is where its joint is, or anywhere for a free body.

    Raises:
        ValueError: if mass or inertia is not positive.
    """

    name: str
    mass: float  # [kg]
    inertia: Any  # about the centre of mass, body frame [kg m^2]: one number, three principal moments about the frame's axes, or (3, 3)
    geometries: tuple[Geometry, ...] = ()
    com: Vector = ORIGIN  # centre of mass in the body's frame [m]
    joint: Joint = Joint()
    parent: str | None = None
    material: Material = Material()
    damping: float = 0.0  # drag on translation [1/s]
    angular_damping: float = 0.0  # and on rotation [1/s]

    def __post_init__(self) -> None:
        _positive(f"Body {self.name!r}", mass=self.mass)
        inertia = np.asarray(self.inertia, dtype=np.float64)
        tensor = inertia if inertia.shape == (3, 3) else np.diag(np.broadcast_to(inertia, (3,)))
        moments = np.linalg.eigvalsh((tensor + tensor.T) / 2) if np.isfinite(tensor).all() else np.zeros(3)
        if not moments[0] > 0:
            raise ValueError(f"Body {self.name!r} needs an inertia above zero about every axis, got {inertia.tolist()} kg m^2.")
        object.__setattr__(self, "inertia", (tensor + tensor.T) / 2)
        rooted = self.joint.kind in (JointKind.FREE, JointKind.DRIVEN)
        if rooted and self.parent is not None:
            raise ValueError(f"Body {self.name!r} is {self.joint.kind.name.lower()} and so has no parent, got {self.parent!r}.")
        if any(isinstance(geometry.shape, PlaneShape) for geometry in self.geometries):
            raise ValueError(f"Body {self.name!r} has a Plane; a plane stands still: give it to a Fixture.")


@dataclass(frozen=True)
class Actuator:
    """One number of the action.

    effort: torque or force at the joint of `body`. position: set point of a spring (`stiffness`) and damper (`damping`) there. wrench: force (axis 0 to 2,
    [N]) or torque (3 to 5, [Nm]) along a world axis at the origin of `body`. velocity: component of the twist of a driven body, axis 0 to 2 [m/s], 3 to 5
    [rad/s].
    """

    body: str
    kind: Any  # ActuatorKind, or its name in lower case
    low: float
    high: float
    axis: int = 0
    gain: float = 1.0  # what one unit of the action is worth
    stiffness: float = 0.0
    damping: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.kind, str):
            names = [kind.name.lower() for kind in ActuatorKind]
            if self.kind not in names:
                raise ValueError(f"Actuator has a kind of {', '.join(names)}, got {self.kind!r}.")
            object.__setattr__(self, "kind", ActuatorKind[self.kind.upper()])
        if self.kind is ActuatorKind.VELOCITY and self.gain != 1.0:
            raise ValueError(f"Actuator of {self.body!r} commands a velocity and so has no gain, got {self.gain}.")
        if self.axis not in range(6):
            raise ValueError(f"Actuator of {self.body!r} needs an axis of 0 to 5, got {self.axis}.")
        if not self.low < self.high:
            raise ValueError(f"Actuator of {self.body!r} needs low < high, got {self.low} and {self.high}.")
        if not self.name:
            object.__setattr__(self, "name", f"{self.body}_{self.kind.name.lower()}" + (f"_{self.axis}" if self.kind in (2, 3) else ""))

    @property
    def unit(self) -> str:
        """Of its number, times the gain."""
        units: dict[ActuatorKind, tuple[str, str]] = {ActuatorKind.WRENCH: ("N", "Nm"), ActuatorKind.VELOCITY: ("m/s", "rad/s")}
        return units.get(self.kind, ("", ""))[self.axis > 2]


def drive(body: str, speed: float, *, turning: float | None = None, axes: Sequence[int] = (0, 1, 2)) -> tuple[Actuator, ...]:
    """Actuators that command the velocity of a driven body along some axes, up to `speed` [m/s] and, with `turning`, its angular velocity [rad/s]."""
    found = [Actuator(body, "velocity", -speed, speed, axis) for axis in axes]
    if turning is not None:
        found += [Actuator(body, "velocity", -turning, turning, axis) for axis in (3, 4, 5)]
    return tuple(found)


@dataclass(frozen=True)
class RigidWorld:
    """Bodies, what stands still, and what moves them.

    Raises:
        ValueError: on names that are missing or double, parents that come after their children, or actuators that do not fit their joints.
    """

    bodies: tuple[Body, ...]
    fixtures: tuple[Fixture, ...] = field(default=(GROUND,))
    actuators: tuple[Actuator, ...] = ()
    gravity: float = 9.81  # downward [m/s^2]
    self_contact: bool = False  # whether bodies of one tree of joints touch each other

    def __post_init__(self) -> None:
        if not self.bodies:
            raise ValueError("RigidWorld needs at least one body.")
        seen: set[str] = set()
        things: tuple[Body | Fixture, ...] = (*self.bodies, *self.fixtures)
        names = [thing.name for thing in things]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"RigidWorld needs one name for each body and fixture, got {double[0]!r} twice.")
        for body in self.bodies:
            if body.parent is not None and body.parent not in seen:
                raise ValueError(
                    f"Body {body.name!r} has the parent {body.parent!r}, which must stand before it; there are {', '.join(sorted(seen)) or 'none'}."
                )
            seen.add(body.name)
        for actuator in self.actuators:
            if actuator.body not in seen:
                raise ValueError(f"Actuator {actuator.name!r} is of the body {actuator.body!r}, which there is not; there are {', '.join(sorted(seen))}.")
            kind = self.body(actuator.body).joint.kind
            fits = {
                ActuatorKind.EFFORT: (JointKind.HINGE, JointKind.SLIDE),
                ActuatorKind.POSITION: (JointKind.HINGE, JointKind.SLIDE),
                ActuatorKind.VELOCITY: (JointKind.DRIVEN,),
                ActuatorKind.WRENCH: tuple(k for k in JointKind if k is not JointKind.DRIVEN),
            }[actuator.kind]
            if kind not in fits:
                wanted = " or ".join(k.name.lower() for k in fits)
                raise ValueError(f"Actuator {actuator.name!r} needs a body whose joint is {wanted}; that of {actuator.body!r} is {kind.name.lower()}.")

    def body(self, name: str) -> Body:
        """The body of a name."""
        return next(body for body in self.bodies if body.name == name)

    def sizes(self) -> tuple[int, int]:
        """Q and V, the numbers in configuration and velocity."""
        sizes = [body.joint.kind.sizes for body in self.bodies]
        return sum(q for q, _ in sizes), sum(v for _, v in sizes)


def box_inertia(mass: float, half_extents: Sequence[float]) -> Vector:
    """Principal moments [kg m^2] of a solid box."""
    x, y, z = (2 * h for h in half_extents)
    return mass * (y * y + z * z) / 12, mass * (x * x + z * z) / 12, mass * (x * x + y * y) / 12


def _positive(what: str, **sizes: float) -> None:
    for name, size in sizes.items():
        if not 0 < size < math.inf:
            raise ValueError(f"{what} needs {name} above zero, got {size}.")
