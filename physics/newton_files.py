"""Scenes through Newton's own importers, as rigid worlds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.errors import BadData
from structwm.data.ply import bad, open_data

from .link_tree import ADVICE, Link, Place, assemble
from .rigid_world import GROUND, Actuator, BoxShape, CapsuleShape, ConvexShape, Fixture, Geometry, Material, PlaneShape, RigidWorld, Shape, SphereShape
from .urdf_files import cylinder, parse_xml

Array = NDArray[Any]

UNLIMITED = 1e6  # [Nm or N] what Newton's importers write where a file gives no bound of effort, and more
NO_LIMIT = 1e9  # [rad or m]
FULL_TURN = 2 * math.pi  # range of the set point of a hinge without limits [rad]
USD = (".usd", ".usda", ".usdc")


def read_with_newton(path: Path, *, ground: bool = False, floating: bool | None = None) -> tuple[RigidWorld, dict[str, Array], dict[str, float]]:
    """The world of a URDF, MJCF or USD file, and where its bodies stand: poses (7,) [m, wxyz] of free ones, coordinates [rad or m] of those on joints.

    Bodies bear the last part of the importer's labels, or all of it where that is not one body's alone. A body's frame stands in its joint. Geometries are
    taken as `read_urdf` takes them: meshes by their hulls. Drives with a position become position actuators, bounded by the joint's limits; joints with a
    bound of effort become effort actuators. Motors of MJCF files are not among what the importer reads (`read_world` reads them).

    Args:
        path: `.urdf`, `.xml`, `.usd`, `.usda` or `.usdc`.
        ground: whether a plane at z = 0 is added.
        floating: whether the root of a URDF moves freely; None: only that of a file of one link.

    Raises:
        BadData: in one sentence, if Newton does not read the file, or it holds what a `RigidWorld` does not have.
        ImportError: without newton.
    """
    try:
        import newton
    except ImportError as error:
        raise ImportError("Newton's importers need Newton: pip install structwm[newton].") from error
    builder = _import(newton, path, floating)
    if path.suffix.lower() == ".urdf" and floating is None and builder.body_count == 1 and builder.joint_type[0] == newton.JointType.FIXED:
        builder = _import(newton, path, True)
    return _Scene(path, newton, builder).world(ground)


def _import(newton: Any, path: Path, floating: bool | None) -> Any:
    builder = newton.ModelBuilder(up_axis=newton.Axis.Z)
    suffix = path.suffix.lower()
    if suffix in (".urdf", ".xml"):
        parse_xml(path)  # refuses definitions of entities
    else:
        open_data(path).close()
    try:
        if suffix == ".urdf":
            builder.add_urdf(str(path), floating=floating)
        elif suffix == ".xml":
            builder.add_mjcf(str(path))
        elif suffix in USD:
            builder.add_usd(str(path))
        else:
            raise bad(path, "the whole file", "path", f"a file .urdf, .xml or {', '.join(USD)}", repr(suffix))
    except ImportError as error:
        raise ImportError("Reading USD files needs USD: pip install structwm[usd].") from error
    except BadData:
        raise
    except Exception as error:  # importers raise whatever their parsers do
        raise bad(path, "the whole file", "scene", "a scene that Newton reads", " ".join(str(error).split())[:200].rstrip(".") or "none", ADVICE) from error
    return builder


class _Scene:
    """One builder that an importer filled."""

    def __init__(self, path: Path, newton: Any, builder: Any) -> None:
        self.path, self.newton, self.b = path, newton, builder
        short = [label.rpartition("/")[2] for label in builder.body_label]
        self.names = [name if name and short.count(name) == 1 else label for name, label in zip(short, builder.body_label, strict=True)]
        self.joints = {int(child): k for k, child in enumerate(builder.joint_child)}

    def bad(self, where: str, field: str, expected: str, got: str, advice: str = ADVICE) -> BadData:
        return bad(self.path, where, field, expected, got, advice)

    def world(self, ground: bool) -> tuple[RigidWorld, dict[str, Array], dict[str, float]]:
        b = self.b
        gravity = np.asarray(b.gravity, np.float64)
        if gravity[:2].any() or gravity[2] > 0:
            raise self.bad("the whole file", "gravity", "gravity along -z", str(gravity.tolist()))
        if len(self.joints) < len(b.joint_child) or len(getattr(b, "equality_constraint_type", ())):
            raise self.bad("the whole file", "joint", "joints that form trees, without further constraints", "a loop or constraint")
        if any(index >= 0 for index in getattr(b, "joint_mimic_joint", ())):
            raise self.bad("the whole file", "mimic", "joints that move on their own", "one that follows another")
        links = [self.link(k) for k in range(b.body_count)]
        still: dict[Material, list[Geometry]] = {}
        for material, geometry in self.geometries(-1, Place()):
            still.setdefault(material, []).append(geometry)
        taken = {*self.names, "ground"}
        labels = [label for label in ("world", *(f"world_{k}" for k in range(2, 2 + len(still) + len(taken)))) if label not in taken]
        fixtures = [Fixture(tuple(part), material, label) for label, (material, part) in zip(labels, still.items(), strict=False)]
        fixtures += [GROUND] if ground else []
        actuators = [actuator for k in range(b.body_count) for actuator in self.actuators(k)]
        world = assemble(self.path, links, actuators, fixtures=fixtures, gravity=-float(gravity[2]) + 0.0, kind="body")
        poses, positions = {}, {}
        for body in world.bodies:
            k = self.names.index(body.name)
            if k not in self.joints or links[k].joint["kind"] == "free":
                place = _place(b.body_q[k])
                poses[body.name] = np.array([*place.vector, *place.quaternion])
            elif links[k].joint["kind"] != "fixed":
                positions[body.name] = float(b.joint_q[b.joint_q_start[self.joints[k]]])
        return world, poses, positions

    def link(self, k: int) -> Link:
        b, newton, name = self.b, self.newton, self.names[k]
        where = f"body {name!r}"
        if int(b.body_flags[k]) & int(newton.BodyFlags.KINEMATIC):
            raise self.bad(where, "kinematic", "bodies that forces move", "a kinematic one", "build it as a driven body")
        frame, link = Place(), Link(name, joint={"kind": "free"})
        joint = self.joints.get(k)
        if joint is not None:
            link.joint = self.joint(joint, where)
            if link.joint["kind"] == "free":
                if b.joint_parent[joint] >= 0:
                    raise self.bad(where, "joint", "free bodies in the world", "one in another body")
            else:
                frame = _place(b.joint_X_c[joint])
                parent = int(b.joint_parent[joint])
                link.parent = self.names[parent] if parent >= 0 else None
                link.place = _inverse(self.frame(parent)) @ _place(b.joint_X_p[joint])
        inward = _inverse(frame)
        link.mass, link.com = float(b.body_mass[k]), inward.rotation @ np.array(b.body_com[k], np.float64) + inward.position
        inertia = inward.rotation @ np.array(b.body_inertia[k], np.float64).reshape(3, 3) @ inward.rotation.T
        link.inertia = (inertia + inertia.T) / 2
        found = self.geometries(k, inward)
        if any(material != found[0][0] for material, _ in found):
            raise self.bad(where, "friction", "one friction for all geometries of a body", "several")
        link.material = found[0][0] if found else None
        link.geometries = [geometry for _, geometry in found]
        return link

    def frame(self, k: int) -> Place:
        """Where our frame is in the importer's, of a body."""
        joint = self.joints.get(k)
        if joint is None or self.b.joint_type[joint] == self.newton.JointType.FREE:
            return Place()
        return _place(self.b.joint_X_c[joint])

    def joint(self, joint: int, where: str) -> dict[str, Any]:
        b, types = self.b, self.newton.JointType
        kind = b.joint_type[joint]
        if kind in (types.FREE, types.FIXED):
            return {"kind": kind.name.lower()}
        sizes = tuple(b.joint_dof_dim[joint])
        if kind not in (types.PRISMATIC, types.REVOLUTE, types.D6) or sizes not in ((1, 0), (0, 1)):
            raise self.bad(where, "joint", "a joint that turns about or slides along one axis, is fixed, or free", f"{kind.name.lower()} of {sum(sizes)} axes")
        at = b.joint_qd_start[joint]
        low, high = float(b.joint_limit_lower[at]), float(b.joint_limit_upper[at])
        x, y, z = (float(part) + 0.0 for part in b.joint_axis[at])
        found = {"damping": b.joint_damping, "friction": b.joint_friction, "armature": b.joint_armature, "stiffness": b.joint_stiffness}
        return {name: float(values[at]) for name, values in found.items()} | {
            "kind": "slide" if sizes == (1, 0) else "hinge",
            "axis": (x, y, z),
            "rest": float(b.joint_rest_q[b.joint_q_start[joint]]),
            "low": low if low > -NO_LIMIT else -math.inf,
            "high": high if high < NO_LIMIT else math.inf,
        }

    def actuators(self, k: int) -> list[Actuator]:
        b, joint = self.b, self.joints.get(k)
        if joint is None or sum(b.joint_dof_dim[joint]) != 1:
            return []
        at, name = b.joint_qd_start[joint], b.joint_label[joint].rpartition("/")[2]
        slides = b.joint_dof_dim[joint][0] == 1
        stiffness, damping, effort = (float(values[at]) for values in (b.joint_target_ke, b.joint_target_kd, b.joint_effort_limit))
        if stiffness > 0:
            low, high = (float(values[at]) for values in (b.joint_limit_lower, b.joint_limit_upper))
            if low <= -NO_LIMIT or high >= NO_LIMIT:
                if slides:
                    raise self.bad(f"joint {name!r}", "limit", "limits of a slide with a drive", "none")
                low, high = -FULL_TURN, FULL_TURN
            return [Actuator(self.names[k], "position", low, high, stiffness=stiffness, damping=damping, name=name)]
        return [Actuator(self.names[k], "effort", -effort, effort, name=name)] if 0 < effort < UNLIMITED else []

    def geometries(self, body: int, inward: Place) -> list[tuple[Material, Geometry]]:
        b = self.b
        collides = int(self.newton.ShapeFlags.COLLIDE_SHAPES)
        found = []
        for k in range(b.shape_count):
            if b.shape_body[k] == body and int(b.shape_flags[k]) & collides:
                place = inward @ _place(b.shape_transform[k])
                geometry = Geometry(self.shape(k), place.vector, place.quaternion, float(b.shape_margin[k]))
                found.append((Material(float(b.shape_material_mu[k])), geometry))
        return found

    def shape(self, k: int) -> Shape:
        b, types = self.b, self.newton.GeoType
        a, half, c = (float(size) for size in b.shape_scale[k])
        where = f"shape {b.shape_label[k]!r}"
        try:
            match b.shape_type[k]:
                case types.PLANE:
                    return PlaneShape()
                case types.SPHERE:
                    return SphereShape(a)
                case types.CAPSULE:
                    return CapsuleShape(a, half)
                case types.CYLINDER:
                    return cylinder(a, 2 * half)
                case types.BOX:
                    return BoxShape((a, half, c))
                case types.MESH | types.CONVEX_MESH:
                    points = np.asarray(b.shape_source[k].vertices, np.float64).reshape(-1, 3) * (a, half, c)
                    return ConvexShape.of_mesh(points)
        except ValueError as error:
            raise self.bad(where, "shape", "a shape that has a volume", str(error).rstrip(".")) from error
        raise self.bad(where, "type", "plane, sphere, capsule, cylinder, box or mesh", self.newton.GeoType(b.shape_type[k]).name.lower())


def _place(transform: Any) -> Place:
    x, y, z, qx, qy, qz, qw = (float(part) for part in transform)
    return Place(np.eye(3), np.array([x, y, z])) if (qx, qy, qz) == (0.0, 0.0, 0.0) else Place.of((x, y, z), (qw, qx, qy, qz))


def _inverse(place: Place) -> Place:
    return Place(place.rotation.T, -place.rotation.T @ place.position)
