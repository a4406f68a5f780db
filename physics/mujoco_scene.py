"""A rigid world as a MuJoCo model, and the numbers of a parameter draw written into copies of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from structwm.kernels import rigid_layout as layout
from structwm.kernels.rigid_layout import ActuatorKind, JointKind

from .engine_twin import Array, Layout, corners, drag_at_joint, grounded, quaternion_of
from .rigid_parameters import LIMIT_DAMPING_RATIO, RESOLVED
from .rigid_world import BoxShape, CapsuleShape, ConvexShape, Geometry, PlaneShape, SphereShape

IMPEDANCE = 0.001  # of contacts: small makes them springs and dampers that share a load, which constraints do not
IMPRATIO = 1e4  # softness of the normal over that of friction; larger creeps less
STICK = 0.5  # share of the slip that friction takes away in a substep, where it can
DRIVEN_WEIGHT = 1e6  # of a driven body, over that of all others together
LEAST_FRICTION = 1e-5  # MuJoCo knows no smaller
MOST_DAMPING = 1.0  # damper of a contact times substep over mass, at most; from 2 on it would gain energy


class MujocoScene:
    """MJCF of a world and what is needed to write draws into its model.

    Args:
        where: the layout of its numbers.
        table: the numbers of all draws (P, C).
        timestep: [s].
        templates: compiled models of the same world and time step, to take from and add to.
    """

    def __init__(self, where: Layout, table: Array, timestep: float, templates: dict[Any, Any]) -> None:
        import mujoco

        self.where, self.world, self.table, self.timestep = where, where.world, table, timestep
        self.bodies = self.world.bodies
        self.inertias = [where.inertia(table, k) for k in range(len(self.bodies))]
        self.tilted = [bool((np.abs(inertia - inertia * np.eye(3)) > 1e-12 * np.abs(inertia).max()).any()) for inertia in self.inertias]
        self.offset = [bool(where.body(table, k)[:, layout.COM : layout.COM + 3].any()) for k in range(len(self.bodies))]
        self.dampers = [where.damper(table, k) for k in range(len(where.pairs))]
        self.felt = [sum(where.lightness(table, owner) for owner in pair) for pair in where.pairs]
        self.contacts = self._contacts()
        form = (*self.tilted, *self.offset)
        if form not in templates:
            templates[form] = mujoco.MjModel.from_xml_string(self._xml())
        self.template = templates[form]
        self.data = mujoco.MjData(self.template)
        model = self.template
        self.body_id = [model.body(f"b{k}").id for k in range(len(self.bodies))]
        self.contact_id = [model.pair(f"p{k}").id for k in range(len(self.contacts))]  # MuJoCo sorts them
        self.geometry_id = [model.geom(f"g{k}").id for k in range(len(where.geometries))]
        model.geom_sameframe[:] = 0  # geometries move when sizes and offsets do
        self.deltas = [model.geom_pos[g] - np.asarray(of.position) for g, (_, of) in zip(self.geometry_id, where.geometries, strict=True)]
        self.dof = [int(model.body_dofadr[b]) for b in self.body_id]
        self.qpos = [int(model.jnt_qposadr[model.body_jntadr[b]]) if model.body_jntnum[b] else -1 for b in self.body_id]
        self.controls = [k for k, actuator in enumerate(self.world.actuators) if actuator.kind is not ActuatorKind.VELOCITY]

    def write(self, model: Any, row: int) -> None:
        """Make a copy of the template the model of a draw."""
        import mujoco

        where, table = self.where, self.table[row : row + 1]
        model.opt.gravity[:] = table[0, layout.GRAVITY : layout.GRAVITY + 3]
        for k in range(len(self.bodies)):
            self._write_body(model, k, row)
        for k, (_, geometry) in enumerate(where.geometries):
            block, g, delta = where.geometry(table, k)[0], self.geometry_id[k], self.deltas[k]
            scale = block[layout.SCALE]
            model.geom_pos[g] = block[layout.OFFSET : layout.OFFSET + 3] + scale * delta
            for values in ("geom_size", "geom_aabb", "geom_rbound"):
                getattr(model, values)[g] = scale * getattr(self.template, values)[g]
            if isinstance(geometry.shape, ConvexShape):
                mesh = model.geom_dataid[g]
                points = slice(model.mesh_vertadr[mesh], model.mesh_vertadr[mesh] + model.mesh_vertnum[mesh])
                model.mesh_vert[points] = scale * self.template.mesh_vert[points]
        for at, k in enumerate(self.controls):
            gain, spring, damper = where.actuator(table, k)[0]
            if self.world.actuators[k].kind is ActuatorKind.POSITION:
                model.actuator_gainprm[at, 0], model.actuator_biasprm[at, 1], model.actuator_biasprm[at, 2] = gain * spring, -spring, -damper
            else:
                model.actuator_gainprm[at, 0] = gain
        mujoco.mj_setConst(model, self.data)
        for at, contact in zip(self.contact_id, self.contacts, strict=True):
            self._write_contact(model, at, contact, row)

    def _write_body(self, model: Any, k: int, row: int) -> None:
        body, b, dof = self.bodies[k], self.body_id[k], self.dof[k]
        kind, block, joint = body.joint.kind, self.where.body(self.table, k)[row], self.where.joint(self.table, k)[row]
        if kind is JointKind.DRIVEN:
            return
        inertia = self.inertias[k][row]
        model.body_mass[b] = block[layout.MASS]
        model.body_ipos[b] = block[layout.COM : layout.COM + 3]
        model.body_inertia[b] = np.diag(inertia)
        if self.tilted[k]:
            moments, axes = np.linalg.eigh(inertia)
            model.body_inertia[b], model.body_iquat[b] = moments, quaternion_of(axes)
        elif self.offset[k]:
            model.body_iquat[b] = (1, 0, 0, 0)
        if kind is JointKind.FREE:
            model.dof_damping[dof : dof + 3] = block[layout.LINEAR_DRAG] * block[layout.MASS]
            model.dof_damping[dof + 3 : dof + 6] = block[layout.ANGULAR_DRAG] * np.diag(inertia)
            return
        model.body_pos[b] = joint[layout.ANCHOR : layout.ANCHOR + 3]
        if kind is JointKind.FIXED:
            return
        drag = float(drag_at_joint(block[None], inertia[None], body)[0]) if grounded(self.world, body) else 0.0
        model.dof_damping[dof] = joint[layout.DAMPING] + drag
        model.dof_frictionloss[dof] = joint[layout.DRY]
        model.dof_armature[dof] = joint[layout.ARMATURE]
        model.jnt_stiffness[model.body_jntadr[b]] = joint[layout.SPRING]
        model.qpos_spring[self.qpos[k]] = joint[layout.REST]

    def _write_contact(self, model: Any, at: int, contact: tuple[int, int, int], row: int) -> None:
        """Springs and dampers. With a small impedance d the solver's force is (K penetration - B speed) / ((1 - d) A), where -K and -B are the numbers of
        solref and A is MuJoCo's guess at the inverse mass that two bodies offer, so (1 - d) A turns N/m and N s/m into its units."""
        pair, first, second = contact
        values = self.where.pair(self.table, pair)[row]
        bodies = [model.geom_bodyid[g] for g in (model.pair_geom1[at], model.pair_geom2[at])]
        unit = (1 - IMPEDANCE) * sum(float(model.body_invweight0[b, 0]) for b in bodies)
        damper = min(float(self.dampers[pair][row]), MOST_DAMPING / (self.timestep * float(np.asarray(self.felt[pair])[row])))
        model.pair_solref[at] = (-values[layout.STIFFNESS] * unit, -damper * unit)
        slide, torsion, rolling = (float(values[c]) for c in (layout.FRICTION, layout.TORSION, layout.ROLLING))
        slides = slide > LEAST_FRICTION
        model.pair_dim[at] = 6 if slides and rolling > 0 else 4 if slides and torsion > 0 else 3 if slides else 1
        model.pair_friction[at] = np.maximum((slide, slide, torsion, rolling, rolling), LEAST_FRICTION)
        rounding = [
            0.0 if isinstance(geometry.shape, SphereShape | CapsuleShape) else self.where.geometry(self.table, g)[row, layout.RADIUS]
            for g, geometry in ((g, self.where.geometries[g][1]) for g in (first, second))
        ]
        model.pair_margin[at] = sum(rounding)

    def _contacts(self) -> list[tuple[int, int, int]]:
        """Row of the pair and geometries of each contact that may be."""
        owned = self.where.geometries
        return [
            (row, g, h)
            for row, (one, other) in enumerate(self.where.pairs)
            for g, (first, _) in enumerate(owned)
            for h, (second, _) in enumerate(owned)
            if (first, second) == (one, other)
        ]

    def _xml(self) -> str:
        children: dict[int, list[int]] = {}
        order = {body.name: k for k, body in enumerate(self.bodies)}
        for k, body in enumerate(self.bodies):
            children.setdefault(-1 if body.parent is None else order[body.parent], []).append(k)
        still = [k for k, (owner, _) in enumerate(self.where.geometries) if owner >= len(self.bodies)]
        meshes = [f'<mesh name="m{k}" vertex="{_text(corners(geometry))}"/>' for k, (_, geometry) in enumerate(self.where.geometries) if _is_mesh(geometry)]
        friction = f"-1 {-STICK / self.timestep * IMPEDANCE!r}"
        solimp = f"{IMPEDANCE} {IMPEDANCE} 0.001 0.5 2"
        pairs = [
            f'<pair name="p{k}" geom1="g{g}" geom2="g{h}" condim="3" solref="-1 -1" solimp="{solimp}" solreffriction="{friction}" gap="0" margin="0"/>'
            for k, (_, g, h) in enumerate(self.contacts)
        ]
        integrator = "implicitfast" if any(a.kind is ActuatorKind.POSITION for a in self.world.actuators) else "Euler"
        return f"""
<mujoco>
  <compiler angle="radian" autolimits="false"/>
  <option timestep="{self.timestep!r}" cone="elliptic" impratio="{IMPRATIO}" solver="Newton" iterations="50" tolerance="1e-9" integrator="{integrator}"/>
  <default><geom contype="0" conaffinity="0"/></default>
  <asset>{"".join(meshes)}</asset>
  <worldbody>
    <site name="origin"/>
    {"".join(self._geom(k) for k in still)}
    {"".join(self._body(k, children) for k in children.get(-1, []))}
  </worldbody>
  <contact>{"".join(pairs)}</contact>
  <actuator>{"".join(self._actuator(k) for k in range(len(self.world.actuators)))}</actuator>
</mujoco>"""

    def _body(self, k: int, children: dict[int, list[int]]) -> str:
        body, driven = self.bodies[k], self.bodies[k].joint.kind is JointKind.DRIVEN
        weight = DRIVEN_WEIGHT * sum(b.mass for b in self.bodies) if driven else 1.0
        # a frame of inertia that is not the body's makes MuJoCo solve in general, which must be decided here
        general = (self.tilted[k] or self.offset[k]) and not driven
        frame = 'pos="0.01 0.02 0.03" quat="0.8 0.36 0.48 0"' if general else 'pos="0 0 0"'
        geometries = "".join(self._geom(g) for g, (owner, _) in enumerate(self.where.geometries) if owner == k)
        return (
            f'<body name="b{k}" pos="{_text(body.joint.position)}" quat="{_text(body.joint.rotation)}" gravcomp="{int(driven)}">'
            f'<inertial {frame} mass="{weight!r}" diaginertia="{weight!r} {weight!r} {weight!r}"/>{self._joint(k)}<site name="s{k}"/>{geometries}'
            f"{''.join(self._body(child, children) for child in children.get(k, []))}</body>"
        )

    def _joint(self, k: int) -> str:
        joint = self.bodies[k].joint
        if joint.kind is JointKind.FIXED:
            return ""
        if joint.kind in (JointKind.FREE, JointKind.DRIVEN):
            return f'<freejoint name="j{k}"/>'
        bounded = math.isfinite(joint.low) or math.isfinite(joint.high)
        time = self.timestep / (LIMIT_DAMPING_RATIO * RESOLVED / 2)
        limit = f'limited="true" range="{max(joint.low, -1e9)!r} {min(joint.high, 1e9)!r}" solreflimit="{time!r} {LIMIT_DAMPING_RATIO}"' if bounded else ""
        kind = "hinge" if joint.kind is JointKind.HINGE else "slide"
        return f'<joint name="j{k}" type="{kind}" axis="{_text(joint.axis)}" solreffriction="{2 * self.timestep!r} 1" {limit}/>'

    def _geom(self, k: int) -> str:
        geometry = self.where.geometries[k][1]
        match geometry.shape:
            case SphereShape(radius=radius):
                shape = f'type="sphere" size="{radius!r}"'
            case CapsuleShape(radius=radius, half_length=half):
                shape = f'type="capsule" size="{radius!r} {half!r}"'
            case BoxShape(half_extents=extents):
                shape = f'type="box" size="{_text(extents)}"'
            case PlaneShape():
                shape = 'type="plane" size="0 0 1"'
            case _:
                shape = f'type="mesh" mesh="m{k}"'
        return f'<geom name="g{k}" {shape} pos="{_text(geometry.position)}" quat="{_text(geometry.rotation)}"/>'

    def _actuator(self, k: int) -> str:
        actuator = self.world.actuators[k]
        b = next(k for k, body in enumerate(self.bodies) if body.name == actuator.body)
        if actuator.kind is ActuatorKind.VELOCITY:
            return ""
        if actuator.kind is ActuatorKind.WRENCH:
            gear = " ".join("1" if axis == actuator.axis else "0" for axis in range(6))
            return f'<general name="u{k}" site="s{b}" refsite="origin" gear="{gear}"/>'
        return f'<general name="u{k}" joint="j{b}" biastype="affine"/>'


def _is_mesh(geometry: Geometry) -> bool:
    return isinstance(geometry.shape, ConvexShape)


def _text(numbers: Any) -> str:
    return " ".join(repr(float(x)) for x in np.asarray(numbers, dtype=np.float64).reshape(-1))
