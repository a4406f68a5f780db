"""MJCF files: a MuJoCo model as a rigid world, through the package mujoco."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from structwm.data.errors import BadData
from structwm.data.ply import bad

from .link_tree import ADVICE, Link, Place, assemble
from .rigid_world import GROUND, Actuator, BoxShape, CapsuleShape, ConvexShape, Geometry, Material, PlaneShape, RigidWorld, Shape, SphereShape
from .urdf_files import cylinder, parse_xml

_UNUSED = {  # what a rigid world does not have, by the model's count of it
    "neq": "equality",
    "ntendon": "tendon",
    "nflex": "flex",
    "nmocap": "mocap",
    "nplugin": "plugin",
    "npair": "contact/pair",
}


def read_mjcf(path: Path, *, ground: bool = False) -> RigidWorld:
    """The model of a file, as MuJoCo compiles it. A body's name is its own, or `body3` for the third without one.

    A body's frame stands in its joint: where a joint has a `pos`, the body's frame is moved there, and zero is where the joint's coordinate is zero (a `ref` is
    taken off). Geometries that touch nothing are passed over; meshes stand for their convex hulls, cylinders for hulls of 24 sides. Friction is that of the
    geometries, with torsional and rolling friction as their `condim` says; what MuJoCo's solver adds (soft contact, `margin`, masks, excluded pairs) has no
    counterpart. `motor` becomes an effort actuator, `position` a position actuator. Where free bodies start is for the state to say.

    Args:
        path: the file.
        ground: whether a plane at z = 0 is added.

    Raises:
        BadData: in one sentence that names file, element and field, if MuJoCo does not compile it, or it asks for what a rigid world does not have (several
            joints of one body, ball joints, tendons, equalities, other geometries or actuators, gravity that is not downward).
        ImportError: without mujoco.
    """
    try:
        import mujoco
    except ImportError as error:
        raise ImportError("Reading MJCF files needs MuJoCo: pip install structwm[worlds].") from error
    root = parse_xml(path)
    if root.tag != "mujoco":
        raise bad(path, "the whole file", "mujoco", "an MJCF file, whose root is <mujoco>", f"<{root.tag}>", ADVICE)
    try:
        model = mujoco.MjSpec.from_file(str(path)).compile()
    except Exception as error:  # mujoco raises several kinds
        raise bad(path, "the whole file", "mujoco", "a model that MuJoCo compiles", " ".join(str(error).split()).rstrip("."), ADVICE) from error
    return _Mjcf(path, model, mujoco).world(ground)


class _Mjcf:
    """One compiled model."""

    def __init__(self, path: Path, model: Any, mujoco: Any) -> None:
        self.path, self.model, self.mujoco = path, model, mujoco
        self.names = [self.name("body", k) for k in range(model.nbody)]

    def bad(self, where: str, field: str, expected: str, got: str, advice: str = ADVICE) -> BadData:
        return bad(self.path, where, field, expected, got, advice)

    def name(self, kind: str, index: int) -> str:
        return str(getattr(self.model, kind)(index).name) or f"{kind}{index}"

    def world(self, ground: bool) -> RigidWorld:
        m = self.model
        for count, field in _UNUSED.items():
            if getattr(m, count, 0):
                raise self.bad("the whole file", field, "none, as a rigid world has none", str(getattr(m, count)), "remove it")
        if m.opt.gravity[0] or m.opt.gravity[1] or m.opt.gravity[2] > 0:
            raise self.bad("the option", "gravity", "gravity along -z", str(m.opt.gravity.tolist()))
        if m.opt.density or m.opt.viscosity:
            raise self.bad("the option", "density, viscosity", "no fluid", f"{m.opt.density:g} and {m.opt.viscosity:g}")
        moved = {0: np.zeros(3)}  # by body: its joint, from its own origin
        links = []
        for body in range(m.nbody):
            links += self.links(body, moved)
        actuators = [self.actuator(k) for k in range(m.nu)]
        fixtures = (GROUND,) if ground else ()
        return assemble(self.path, links, actuators, fixtures=fixtures, gravity=-float(m.opt.gravity[2]) + 0.0, kind="body")

    def links(self, body: int, moved: dict[int, Any]) -> list[Link]:
        m, name, where = self.model, self.names[body], f"body {self.names[body]!r}"
        if m.body_gravcomp[body]:
            raise self.bad(where, "gravcomp", "0", f"{m.body_gravcomp[body]:g}")
        groups: dict[Material, list[Geometry]] = {}
        place = Place()
        joint: dict[str, Any] = {"kind": "fixed"}
        if body:
            place = Place.of(m.body_pos[body], m.body_quat[body])
            joint, moved[body], back = self.joint(body, where)
            parent = int(m.body_parentid[body])
            place = Place(place.rotation @ back.rotation, place.position + place.rotation @ (moved[body] + back.position) - moved[parent])
            if joint["kind"] == "free" and parent:
                raise self.bad(where, "freejoint", "free bodies in the world", "one in another body")
        for geom in range(m.body_geomadr[body], m.body_geomadr[body] + m.body_geomnum[body]):
            if m.geom_contype[geom] or m.geom_conaffinity[geom]:
                groups.setdefault(self.material(geom), []).append(self.geometry(geom, moved[body]))
        still = joint["kind"] == "fixed" and m.body_weldid[body] == 0
        if len(groups) > 1 and not still:
            raise self.bad(where, "geom", "one friction and condim for all geometries of a body that moves", "several")
        link = Link(name, self.names[int(m.body_parentid[body])] if body else None, place, joint)
        if body:
            principal = Place.of(m.body_ipos[body] - moved[body], m.body_iquat[body])
            link.mass, link.com = float(m.body_mass[body]), principal.position
            inertia = principal.rotation @ np.diag(m.body_inertia[body]) @ principal.rotation.T
            link.inertia = (inertia + inertia.T) / 2
        parts = list(groups.items())
        if parts:
            link.material, link.geometries = parts[0]
        return [link, *(Link(f"{name}_{k}", name, geometries=list(part), material=material) for k, (material, part) in enumerate(parts[1:], start=2))]

    def joint(self, body: int, where: str) -> tuple[dict[str, Any], Any, Place]:
        """Fields of the joint, where it is in the body's frame, and how its zero differs from the file's place."""
        from scipy.spatial.transform import Rotation

        m, kinds = self.model, self.mujoco.mjtJoint
        count, first, still = m.body_jntnum[body], m.body_jntadr[body], np.zeros(3)
        if count == 0:
            return {"kind": "fixed"}, still, Place()
        if count > 1:
            raise self.bad(where, "joint", "one joint at most, as each joint moves a body with mass", str(count), "give each a body of its own")
        kind, dof = m.jnt_type[first], m.jnt_dofadr[first]
        if kind == kinds.mjJNT_FREE:
            for field, values in (("damping", m.dof_damping), ("frictionloss", m.dof_frictionloss), ("armature", m.dof_armature)):
                if values[dof : dof + 6].any():
                    raise self.bad(where, f"freejoint/{field}", "0", f"{values[dof]:g}")
            return {"kind": "free"}, still, Place()
        if kind not in (kinds.mjJNT_HINGE, kinds.mjJNT_SLIDE):
            raise self.bad(where, "joint/type", "hinge, slide or free", "ball")
        at, reference = m.jnt_qposadr[first], float(m.qpos0[m.jnt_qposadr[first]])
        axis = m.jnt_axis[first]
        joint = {
            "kind": "hinge" if kind == kinds.mjJNT_HINGE else "slide",
            "axis": tuple(float(a) + 0.0 for a in axis),
            "damping": float(m.dof_damping[dof]),
            "friction": float(m.dof_frictionloss[dof]),
            "armature": float(m.dof_armature[dof]),
            "stiffness": float(m.jnt_stiffness[first]),
            "rest": float(m.qpos_spring[at]),
        }
        if m.jnt_limited[first]:
            joint |= {"low": float(m.jnt_range[first, 0]), "high": float(m.jnt_range[first, 1])}
        position = m.jnt_pos[first].copy()
        if kind == kinds.mjJNT_SLIDE:
            return joint, position, Place(position=-reference * axis)
        return joint, position, Place(Rotation.from_rotvec(-reference * axis).as_matrix()) if reference else Place()

    def material(self, geom: int) -> Material:
        m = self.model
        slide, torsion, rolling = (float(value) for value in m.geom_friction[geom])
        condim = m.geom_condim[geom]
        return Material(0.0 if condim == 1 else slide, torsional_friction=torsion if condim > 3 else None, rolling_friction=rolling if condim > 4 else None)

    def geometry(self, geom: int, moved: Any) -> Geometry:
        m = self.model
        place = Place.of(m.geom_pos[geom] - moved, m.geom_quat[geom])
        red, green, blue = (float(part) for part in m.geom_rgba[geom, :3])
        return Geometry(self.shape(geom), place.vector, place.quaternion, color=(red, green, blue))

    def shape(self, geom: int) -> Shape:
        m, kinds = self.model, self.mujoco.mjtGeom
        a, b, c = (float(size) for size in m.geom_size[geom])
        match int(m.geom_type[geom]):
            case kinds.mjGEOM_PLANE:
                return PlaneShape()
            case kinds.mjGEOM_SPHERE:
                return SphereShape(a)
            case kinds.mjGEOM_CAPSULE:
                return CapsuleShape(a, b)
            case kinds.mjGEOM_CYLINDER:
                return cylinder(a, 2 * b)
            case kinds.mjGEOM_BOX:
                return BoxShape((a, b, c))
            case kinds.mjGEOM_MESH:
                mesh = m.geom_dataid[geom]
                points = m.mesh_vert[m.mesh_vertadr[mesh] : m.mesh_vertadr[mesh] + m.mesh_vertnum[mesh]].astype(np.float64)
                try:
                    return ConvexShape.of_mesh(points)
                except ValueError as error:
                    raise self.bad(f"geom {self.name('geom', geom)!r}", "mesh", "a mesh that has a volume", str(error).rstrip(".")) from error
        got = kinds(m.geom_type[geom]).name.removeprefix("mjGEOM_").lower()
        raise self.bad(f"geom {self.name('geom', geom)!r}", "type", "plane, sphere, capsule, cylinder, box or mesh", got)

    def actuator(self, k: int) -> Actuator:
        m, name = self.model, self.name("actuator", k)
        where = f"actuator {name!r}"
        joint = m.actuator_trnid[k, 0]
        if m.actuator_trntype[k] != self.mujoco.mjtTrn.mjTRN_JOINT or m.jnt_type[joint] == self.mujoco.mjtJoint.mjJNT_FREE:
            raise self.bad(where, "joint", "an actuator of a hinge or slide", "another")
        if m.actuator_dyntype[k] != self.mujoco.mjtDyn.mjDYN_NONE or m.actuator_gaintype[k] != self.mujoco.mjtGain.mjGAIN_FIXED:
            raise self.bad(where, "dyntype, gaintype", "none and fixed", "others")
        gain, gear, bias = float(m.actuator_gainprm[k, 0]), float(m.actuator_gear[k, 0]), m.actuator_biasprm[k]
        motor = m.actuator_biastype[k] == self.mujoco.mjtBias.mjBIAS_NONE
        low, high = (float(end) for end in m.actuator_ctrlrange[k]) if m.actuator_ctrllimited[k] else (-math.inf, math.inf)
        limited = bool(m.actuator_forcelimited[k])
        body = self.names[m.jnt_bodyid[joint]]
        if motor:
            if limited and gain > 0:
                low, high = max(low, float(m.actuator_forcerange[k, 0]) / gain), min(high, float(m.actuator_forcerange[k, 1]) / gain)
            self.bounded(where, low, high)
            return Actuator(body, "effort", low, high, gain=gain * gear, name=name)
        if m.actuator_biastype[k] != self.mujoco.mjtBias.mjBIAS_AFFINE or bias[0] or bias[1] != -gain or not gain or gear != 1 or limited:
            raise self.bad(where, "gain, bias, gear, forcerange", "a motor, or a position actuator of gear 1 without forcerange", "another")
        self.bounded(where, low, high)
        return Actuator(body, "position", low, high, stiffness=gain, damping=-float(bias[2]), name=name)

    def bounded(self, where: str, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise self.bad(where, "ctrlrange", "a range of control", "none", "give it a ctrlrange")
