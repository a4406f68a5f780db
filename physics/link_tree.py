"""From the links of a robot's description, some welded and some without mass, to the bodies and fixtures of a rigid world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.ply import bad

from .rigid_world import ORIGIN, UPRIGHT, Actuator, Body, Fixture, Geometry, Joint, Material, PlaneShape, Quaternion, RigidWorld, Vector

Array = NDArray[Any]

ADVICE = "correct the file"


@dataclass(frozen=True)
class Place:
    """Where a frame lies in another: `x_outer = rotation x_inner + position`."""

    rotation: Array = field(default_factory=lambda: np.eye(3))  # (3, 3)
    position: Array = field(default_factory=lambda: np.zeros(3))  # [m]

    @classmethod
    def of(cls, position: Sequence[float], quaternion: Sequence[float]) -> Place:
        """From [m] and wxyz."""
        from scipy.spatial.transform import Rotation

        return cls(Rotation.from_quat([*quaternion[1:], quaternion[0]]).as_matrix(), np.asarray(position, np.float64))

    def __matmul__(self, inner: Place) -> Place:
        return Place(self.rotation @ inner.rotation, self.rotation @ inner.position + self.position)

    @property
    def vector(self) -> Vector:
        """The position as three numbers [m]."""
        x, y, z = (float(part) + 0.0 for part in self.position)
        return x, y, z

    @property
    def quaternion(self) -> Quaternion:
        """The rotation wxyz, w >= 0."""
        from scipy.spatial.transform import Rotation

        if np.array_equal(self.rotation, np.eye(3)):
            return UPRIGHT
        x, y, z, w = (float(part) for part in Rotation.from_matrix(self.rotation).as_quat(canonical=True))
        return w, x, y, z

    def geometry(self, geometry: Geometry) -> Geometry:
        """A geometry of the inner frame, in the outer."""
        placed = self @ Place.of(geometry.position, geometry.rotation)
        return replace(geometry, position=placed.vector, rotation=placed.quaternion)


@dataclass
class Link:
    """One link as a file has it. Without a parent it stands in the world; `joint` holds fields of `Joint` other than its place."""

    name: str
    parent: str | None = None
    place: Place = field(default_factory=Place)  # of its frame in the parent's, in the joint's zero position
    joint: dict[str, Any] = field(default_factory=lambda: {"kind": "fixed"})
    mass: float = 0.0  # [kg]
    com: Array = field(default_factory=lambda: np.zeros(3))  # in its frame [m]
    inertia: Array = field(default_factory=lambda: np.zeros((3, 3)))  # about the centre of mass, its frame [kg m^2]
    geometries: list[Geometry] = field(default_factory=list)
    material: Material | None = None  # None: the file does not say

    @property
    def fixed(self) -> bool:
        """Whether it is welded to its parent."""
        return self.joint["kind"] == "fixed"


def assemble(
    path: Path, links: Sequence[Link], actuators: Sequence[Actuator], *, fixtures: Sequence[Fixture] = (), gravity: float = 9.81, kind: str = "link"
) -> RigidWorld:
    """The world of some links.

    What is welded to the world is a fixture, if it has geometries. What is welded to a moving link is a body of its own if it has mass and inertia, and
    otherwise a part of that link; a moving link without mass takes up the first link that is welded to it and has some.

    Args:
        path: the file, for errors.
        links: all of them, in any order.
        actuators: of joints, named by their moving links.
        fixtures: what else stands still.
        gravity: [m/s^2].
        kind: what the file calls a link.

    Raises:
        BadData: if links do not form trees, a moving link has no mass, or the world refuses what comes of it.
    """
    hosts: dict[str, tuple[str | None, Place]] = {}  # by link: the body that it is a part of (None: the world), and its frame in that body's
    bodies: dict[str, Link] = {}
    still: list[Fixture] = []
    for link in _ordered(path, links, kind):
        above, frame = (None, Place()) if link.parent is None else hosts[link.parent]
        place = frame @ link.place
        if link.fixed and above is None:
            hosts[link.name] = None, place
            if link.geometries:
                still.append(Fixture(tuple(place.geometry(g) for g in link.geometries), link.material or Material(), link.name))
        elif link.fixed and above is not None and not (link.mass and link.inertia.any() and bodies[above].mass):
            hosts[link.name] = above, place
            _merge(path, bodies[above], link, place, kind)
        else:
            hosts[link.name] = link.name, Place()
            bodies[link.name] = replace(link, parent=above, place=place, geometries=list(link.geometries))
    if not bodies:
        raise bad(path, "the whole file", kind, f"a {kind} that moves", "none", "give floating=True if it is to move")
    made = tuple(_body(path, link, kind) for link in bodies.values())
    try:
        return RigidWorld(made, (*fixtures, *still), tuple(actuators), gravity)
    except ValueError as error:
        raise bad(path, "the whole file", kind, "what makes a rigid world", str(error).rstrip("."), ADVICE) from error


def _ordered(path: Path, links: Sequence[Link], kind: str) -> list[Link]:
    """Parents before children, each tree of joints together."""
    children: dict[str | None, list[Link]] = {}
    named = {link.name for link in links}
    for link in links:
        if link.parent is not None and link.parent not in named:
            raise bad(path, f"{kind} {link.name!r}", "parent", f"the name of a {kind}", repr(link.parent), ADVICE)
        children.setdefault(link.parent, []).append(link)
    found: list[Link] = []
    roots = children.get(None, [])[::-1]
    while roots:
        stack = [roots.pop()]
        while stack:
            link = stack.pop()
            found.append(link)
            below = children.get(link.name, [])[::-1]
            free = [child for child in below if child.joint["kind"] == "free"]
            roots = free + roots  # a tree of its own
            stack += [child for child in below if child.joint["kind"] != "free"]
    if len(found) < len(links):
        lost = min(named - {link.name for link in found})
        raise bad(path, f"{kind} {lost!r}", "parent", "a tree of joints", "a loop", ADVICE)
    return found


def _merge(path: Path, body: Link, link: Link, place: Place, kind: str) -> None:
    """Make a welded link a part of a body."""
    if link.mass:
        com, inertia = place.rotation @ link.com + place.position, place.rotation @ link.inertia @ place.rotation.T
        total = body.mass + link.mass
        apart = com - body.com
        shifted = body.mass * link.mass / total * (apart @ apart * np.eye(3) - np.outer(apart, apart))
        body.com = (body.mass * body.com + link.mass * com) / total if body.mass else com
        body.inertia = body.inertia + inertia + shifted if body.mass else inertia
        body.mass = total
    if link.geometries:
        if body.geometries and link.material != body.material:
            got = f"others than those of {body.name!r}, to which it is welded"
            raise bad(path, f"{kind} {link.name!r}", "friction", "one material for what moves as one body", got, "give it a mass of its own, or one material")
        body.material = link.material
        body.geometries += [place.geometry(g) for g in link.geometries]


def _body(path: Path, link: Link, kind: str) -> Body:
    where = f"{kind} {link.name!r}"
    if not link.mass > 0:
        raise bad(path, where, "mass", "a mass above zero of what moves", f"{link.mass:g} kg", ADVICE)
    if any(isinstance(geometry.shape, PlaneShape) for geometry in link.geometries):
        raise bad(path, where, "plane", "planes on what stands still only", "one on a body that moves", ADVICE)
    moments = np.linalg.eigvalsh(link.inertia)
    if not moments[0] > 0:
        raise bad(path, where, "inertia", "an inertia above zero about every axis", f"principal moments of {np.round(moments, 12).tolist()} kg m^2", ADVICE)
    rooted = link.joint["kind"] == "free"
    place: Mapping[str, Any] = {} if rooted else {"position": link.place.vector, "rotation": link.place.quaternion}
    inertia: Any = np.diag(link.inertia) if not np.any(link.inertia - np.diag(np.diag(link.inertia))) else link.inertia
    com = ORIGIN if not link.com.any() else (float(link.com[0]), float(link.com[1]), float(link.com[2]))
    try:
        return Body(
            link.name,
            float(link.mass),
            inertia,
            tuple(link.geometries),
            com,
            Joint(**link.joint, **place),
            None if rooted else link.parent,
            link.material or Material(),
        )
    except ValueError as error:
        raise bad(path, where, "joint", "what a rigid body can have", str(error).rstrip("."), ADVICE) from error
