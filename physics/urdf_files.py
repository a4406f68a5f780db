"""URDF files: one robot or object as a rigid world."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from structwm.data.errors import BadData
from structwm.data.ply import bad, open_data

from .link_tree import ADVICE, Link, Place, assemble
from .rigid_world import GROUND, Actuator, BoxShape, CapsuleShape, ConvexShape, Geometry, Material, PlaneShape, RigidWorld, Shape, SphereShape, Vector

Array = NDArray[Any]
Element = ElementTree.Element

CYLINDER_SIDES = 24
WORLD = "world"  # as the name of a root link or of a parent that is no link: what stands still
_SCHEMES = ("package://", "model://", "file://")


def read_urdf(path: Path, *, floating: bool | None = None, ground: bool = False, packages: Mapping[str, Path] | None = None) -> RigidWorld:
    """The robot of a file. A body's name is its link's, its frame the link's.

    Collision geometries are read: box, sphere, capsule, cylinder (the convex hull of 24 sides), and meshes of `.obj` and `.stl` files, each object of a file as
    its convex hull: a mesh that is not convex has to come in convex pieces. A plane's normal is its z axis. Their friction is that of `drake:mu_static`, or of
    `lateral_friction`, `rolling_friction`, `spinning_friction` and `restitution` in the link's `contact`. Joints are `revolute` and `continuous` (hinge),
    `prismatic` (slide), `fixed` and `floating`; where a floating part starts is for the state to say. A joint with an effort limit above zero has an actuator
    of its name with that bound; where the file has transmissions, only joints that these name. Welded links become bodies of their own if they have mass.

    Args:
        path: the file.
        floating: whether the root link moves freely; None: only that of a file of one link.
        ground: whether a plane at z = 0 is added.
        packages: folders by name, for meshes given as `package://name/...`; otherwise they are looked for above the file.

    Raises:
        BadData: in one sentence that names file, element and field, if the file is no URDF of one tree, a number is missing or impossible, a moving link has
            no mass or no inertia, or it asks for what a rigid world does not have (other joints, joints that follow others, height fields, other meshes).
    """
    return _Urdf(path, packages or {}).world(floating, ground)


def parse_xml(path: Path) -> Element:
    """The root of an XML file; prefixes of names, bound or not, are left out, and definitions of types or entities refused.

    Raises:
        BadData: if it is no such file.
    """
    with open_data(path) as stream:
        content = stream.read()
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()

    def refuse(*_: Any) -> None:
        raise bad(path, "the whole file", "DOCTYPE", "an XML file without definitions of types or entities", "one with", "remove them")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda tag, attributes: builder.start(tag.rpartition(":")[2], attributes)
    parser.EndElementHandler = lambda tag: builder.end(tag.rpartition(":")[2])
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, BadData):
            raise
        raise bad(path, "the whole file", "XML", "an XML file", str(error), ADVICE) from error


class _Urdf:
    """One file while it is read."""

    def __init__(self, path: Path, packages: Mapping[str, Path]) -> None:
        self.path, self.packages = path, packages
        self.robot = parse_xml(path)
        if self.robot.tag != "robot":
            raise self.bad("the whole file", "robot", "a URDF file, whose root is <robot>", f"<{self.robot.tag}>")
        self.colors = {m.get("name"): m for m in self.robot.findall("material") if m.find("color") is not None}
        self.meshes: dict[Path, list[Array]] = {}

    def bad(self, where: str, field: str, expected: str, got: str, advice: str = ADVICE) -> BadData:
        return bad(self.path, where, field, expected, got, advice)

    def world(self, floating: bool | None, ground: bool) -> RigidWorld:
        links = {}
        for element in self.robot.findall("link"):
            name = self.text(element, "name", "a link")
            if name in links:
                raise self.bad(f"link {name!r}", "name", "one link of each name", "two")
            links[name] = self.link(element, name)
        if not links:
            raise self.bad("the whole file", "link", "at least one link", "none")
        if self.robot.find("loop_joint") is not None:
            raise self.bad("the whole file", "loop_joint", "joints that form a tree", "a loop")
        driven = {self.text(joint, "name", "a transmission") for joint in self.robot.findall("transmission/joint")}
        transmissions = self.robot.find("transmission") is not None
        actuators, joints = [], set()
        for element in self.robot.findall("joint"):
            name = self.text(element, "name", "a joint")
            if name in joints:
                raise self.bad(f"joint {name!r}", "name", "one joint of each name", "two")
            joints.add(name)
            effort = self.joint(element, name, links)
            if effort and (name in driven or not transmissions):
                actuators.append(Actuator(self.end(element, "child", name), "effort", -effort, effort, name=name))
        roots = [name for name, link in links.items() if link.parent is None and link.joint.get("root")]
        if len(roots) > 1:
            raise self.bad("the whole file", "joint", "one link without a parent", f"{len(roots)}: {', '.join(roots[:4])}")
        free = len(links) == 1 if floating is None else floating
        for link in links.values():
            if link.joint.pop("root", False) and link.name != WORLD:
                link.joint = {"kind": "free" if free else "fixed"}
        rooted = not roots or roots[0] == WORLD
        if rooted and floating:
            raise self.bad("the whole file", "joint", "a root link that may float", "one that the file joins to the world", "leave floating=True out")
        order = list(links)
        actuators.sort(key=lambda actuator: order.index(actuator.body))
        fixtures = (GROUND,) if ground else ()
        return assemble(self.path, list(links.values()), actuators, fixtures=fixtures)

    def link(self, element: Element, name: str) -> Link:
        where = f"link {name!r}"
        link = Link(name, joint={"kind": "fixed", "root": True})
        inertial = element.find("inertial")
        if inertial is not None:
            link.mass = self.number(inertial.find("mass"), "value", where, "inertial/mass")
            if link.mass < 0:
                raise self.bad(where, "inertial/mass", "a mass above zero", f"{link.mass:g} kg")
            place = self.origin(inertial, where)
            tensor = inertial.find("inertia")
            if link.mass and tensor is None:
                raise self.bad(where, "inertial/inertia", "the moments of inertia of a link with mass", "none")
            xx, xy, xz, yy, yz, zz = (
                self.number(tensor, f"i{axes}", where, "inertial/inertia", None if axes[0] == axes[1] else 0.0) if link.mass else 0.0
                for axes in ("xx", "xy", "xz", "yy", "yz", "zz")
            )
            own = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
            link.com = place.position
            link.inertia = own if np.array_equal(place.rotation, np.eye(3)) else place.rotation @ own @ place.rotation.T
        color = self.color(element, where)
        materials = []
        for collision in element.findall("collision"):
            place = self.origin(collision, where)
            for shape, moved in self.shapes(collision.find("geometry"), where):
                placed = place @ moved
                link.geometries.append(Geometry(shape, placed.vector, placed.quaternion, color=Geometry.color if color is None else color))
            materials.append(self.material(element, collision, where))
        if any(material != materials[0] for material in materials):
            raise self.bad(where, "collision", "one friction for all geometries of a link", "several")
        link.material = materials[0] if materials else None
        return link

    def joint(self, element: Element, name: str, links: Mapping[str, Link]) -> float:
        """Write a joint into its child; its bound of effort [Nm] or [N], 0 without one."""
        where = f"joint {name!r}"
        kind = self.text(element, "type", where)
        kinds = {"revolute": "hinge", "continuous": "hinge", "prismatic": "slide", "fixed": "fixed", "floating": "free"}
        if kind not in kinds:
            raise self.bad(where, "type", f"one of {', '.join(kinds)}", repr(kind))
        if element.find("mimic") is not None:
            raise self.bad(where, "mimic", "joints that move on their own", "one that follows another", "remove it")
        parent, child = self.end(element, "parent", name), self.end(element, "child", name)
        if child not in links:
            raise self.bad(where, "child", "the name of a link", repr(child))
        if parent not in links and parent != WORLD:
            raise self.bad(where, "parent", "the name of a link", repr(parent))
        link = links[child]
        if not link.joint.get("root"):
            raise self.bad(f"link {child!r}", "joint", "one parent", "two")
        link.parent = parent if parent in links else None
        link.place = self.origin(element, where)
        link.joint = {"kind": kinds[kind]}
        if kind in ("fixed", "floating"):
            return 0.0
        axis = self.vector(element.find("axis"), "xyz", where, "axis", (1.0, 0.0, 0.0))
        if not any(axis):
            raise self.bad(where, "axis", "an axis of some length", str(axis))
        limit, dynamics = element.find("limit"), element.find("dynamics")
        link.joint["axis"] = axis
        for label in ("damping", "friction"):
            link.joint[label] = self.number(dynamics, label, where, "dynamics", 0.0)
            if link.joint[label] < 0:
                raise self.bad(where, f"dynamics/{label}", "0 or more", f"{link.joint[label]:g}")
        if kind != "continuous":
            low, high = (self.number(limit, label, where, "limit", 0.0) for label in ("lower", "upper"))
            if not low < high:
                raise self.bad(where, "limit", "lower < upper", f"{low:g} and {high:g}", "give limits, or make it continuous or fixed")
            link.joint |= {"low": low, "high": high}
        effort = self.number(limit, "effort", where, "limit", 0.0)
        if effort < 0:
            raise self.bad(where, "limit/effort", "0 or more", f"{effort:g}")
        return effort

    def material(self, link: Element, collision: Element, where: str) -> Material | None:
        contact = link.find("contact")
        found: dict[str, float] = {}
        if contact is not None:
            tags = {
                "lateral_friction": "friction",
                "rolling_friction": "rolling_friction",
                "spinning_friction": "torsional_friction",
                "restitution": "restitution",
            }
            for tag, field in tags.items():
                if contact.find(tag) is not None:
                    found[field] = self.number(contact.find(tag), "value", where, f"contact/{tag}")
        drake = collision.find("proximity_properties/mu_static")
        if drake is not None:
            found["friction"] = self.number(drake, "value", where, "drake:mu_static")
        for field, value in found.items():
            if value < 0:
                raise self.bad(where, field, "0 or more", f"{value:g}")
        return Material(**found) if found else None

    def color(self, link: Element, where: str) -> Vector | None:
        material = link.find("visual/material")
        if material is None:
            return None
        if material.find("color") is None:
            material = self.colors.get(material.get("name"))
        if material is None:
            return None
        red, green, blue, *_ = self.numbers(material.find("color"), "rgba", where, "color", 4)
        return red, green, blue

    def shapes(self, geometry: Element | None, where: str) -> list[tuple[Shape, Place]]:
        """Shapes of a geometry, and where they are in its frame."""
        if geometry is None or not len(geometry):
            raise self.bad(where, "collision/geometry", "a shape", "none")
        element = geometry[0]
        field = f"collision/geometry/{element.tag}"
        try:
            match element.tag:
                case "box":
                    x, y, z = self.numbers(element, "size", where, field, 3)
                    return [(BoxShape((x / 2, y / 2, z / 2)), Place())]
                case "sphere":
                    return [(SphereShape(self.number(element, "radius", where, field)), Place())]
                case "capsule":
                    return [(CapsuleShape(self.number(element, "radius", where, field), self.number(element, "length", where, field) / 2), Place())]
                case "cylinder":
                    return [(cylinder(self.number(element, "radius", where, field), self.number(element, "length", where, field)), Place())]
                case "plane":
                    normal = np.array(self.vector(element, "normal", where, field, (0.0, 0.0, 1.0)))
                    return [(PlaneShape(), Place(rotation_to(normal)))]
                case "mesh":
                    scale = np.array(self.vector(element, "scale", where, field, (1.0, 1.0, 1.0)))
                    hulls = self.mesh(self.text(element, "filename", where), where)
                    return [(ConvexShape.of_mesh(points * scale), Place()) for points in hulls]
        except BadData:
            raise
        except ValueError as error:
            raise self.bad(where, field, "a shape that has a volume", str(error).rstrip(".")) from error
        raise self.bad(where, field, "box, sphere, capsule, cylinder, plane or mesh", f"<{element.tag}>")

    def mesh(self, name: str, where: str) -> list[Array]:
        """Vertices (n, 3) of each object of a mesh's file."""
        file = self.find(name, where)
        if file not in self.meshes:
            self.meshes[file] = mesh_points(file)
        return self.meshes[file]

    def find(self, name: str, where: str) -> Path:
        scheme = next((scheme for scheme in _SCHEMES if name.startswith(scheme)), "")
        rest = name.removeprefix(scheme)
        if scheme in ("", "file://"):
            candidates = [self.path.parent / rest]
        else:
            package, _, inside = rest.partition("/")
            above = [folder for folder in self.path.resolve().parents if folder != folder.parent]
            given = [self.packages[package] / inside] if package in self.packages else []
            candidates = given or [folder / part for folder in above for part in ((rest, inside) if folder.name == package else (rest,))]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            advice = "give its folder in packages=" if scheme in ("package://", "model://") else "put it there"
            raise self.bad(where, "mesh/filename", "the name of a file", repr(name), advice)
        return found

    def origin(self, element: Element, where: str) -> Place:
        from scipy.spatial.transform import Rotation

        origin = element.find("origin")
        field = f"{element.tag}/origin"
        angles = self.vector(origin, "rpy", where, field, (0.0, 0.0, 0.0))
        position = np.array(self.vector(origin, "xyz", where, field, (0.0, 0.0, 0.0)))
        return Place(Rotation.from_euler("xyz", angles).as_matrix() if any(angles) else np.eye(3), position)

    def end(self, element: Element, which: str, name: str) -> str:
        found = element.find(which)
        if found is None:
            raise self.bad(f"joint {name!r}", which, "a link", "none")
        return self.text(found, "link", f"joint {name!r}")

    def text(self, element: Element, attribute: str, where: str) -> str:
        value = element.get(attribute)
        if not value:
            raise self.bad(where, attribute, "a text", "none")
        return value

    def number(self, element: Element | None, attribute: str, where: str, field: str, default: float | None = None) -> float:
        if default is not None and (element is None or element.get(attribute) is None):
            return default
        return self.numbers(element, attribute, where, field, 1)[0]

    def vector(self, element: Element | None, attribute: str, where: str, field: str, default: Vector) -> Vector:
        if element is None or element.get(attribute) is None:
            return default
        x, y, z = self.numbers(element, attribute, where, field, 3)
        return x, y, z

    def numbers(self, element: Element | None, attribute: str, where: str, field: str, count: int) -> list[float]:
        text = None if element is None else element.get(attribute)
        expected = "a finite number" if count == 1 else f"{count} finite numbers"
        if text is None:
            raise self.bad(where, f"{field}/{attribute}", expected, "none")
        try:
            values = [float(word) for word in text.split()]
        except ValueError:
            values = []
        if len(values) != count or not all(map(math.isfinite, values)):
            raise self.bad(where, f"{field}/{attribute}", expected, repr(text[:80]))
        return values


def cylinder(radius: float, length: float) -> ConvexShape:
    """The hull of 24 corners on each rim of a cylinder along z about the origin.

    Raises:
        ValueError: if radius or length are not above zero.
    """
    CapsuleShape(radius, length / 2)  # checks both
    angles = np.arange(CYLINDER_SIDES) * (2 * np.pi / CYLINDER_SIDES)
    rim = np.c_[radius * np.cos(angles), radius * np.sin(angles), np.full(CYLINDER_SIDES, length / 2)]
    return ConvexShape(np.concatenate((rim, rim * [1, 1, -1])))


def mesh_points(path: Path) -> list[Array]:
    """Vertices (n, 3) of each object of an `.obj` or `.stl` file, in its unit.

    Raises:
        BadData: on another kind of file, or one that is damaged.
    """
    from structwm.data.obj import read_obj
    from structwm.data.stl import read_stl

    match path.suffix.lower():
        case ".obj":
            return [mesh.vertices.numpy().astype(np.float64) for mesh in read_obj(path)]
        case ".stl":
            return [np.unique(read_stl(path).reshape(-1, 3), axis=0).astype(np.float64)]
    raise bad(path, "the whole file", "mesh", "an .obj or .stl file", repr(path.suffix), "convert it")


def rotation_to(normal: Sequence[float] | Array) -> Array:
    """A rotation (3, 3) that turns z into a direction.

    Raises:
        ValueError: if that has no length.
    """
    length = float(np.linalg.norm(normal))
    if not length > 0:
        raise ValueError("a normal needs some length.")
    z = np.asarray(normal, np.float64) / length
    if z[2] > 1 - 1e-12:
        return np.eye(3)
    x = np.cross([0.0, 1.0, 0.0] if abs(z[1]) < 0.9 else [1.0, 0.0, 0.0], z)
    x /= np.linalg.norm(x)
    return np.stack((x, np.cross(z, x), z), 1)
