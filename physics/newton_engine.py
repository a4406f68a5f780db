"""A rigid world in Newton, many times over: one model of all worlds, stepped together."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.kernels import rigid_layout as layout
from structwm.kernels.rigid_layout import JointKind

from .engine_twin import SYMMETRIC, Layout
from .newton_steps import RecordedSteps
from .rigid_program import FADE
from .rigid_world import BoxShape, CapsuleShape, ConvexShape, Geometry, PlaneShape, RigidWorld, SphereShape

Array = NDArray[Any]

FRICTION_SLOPE = 0.2  # of a contact's friction over slip speed, times the substep, over the mass at the surface; stable with four contacts a side
CONTACTS = 8  # room for each pair of geometries
GAP = 1e-3  # distance from which contacts are looked for [m]
XPBD_ITERATIONS = 8


class NewtonEngine(RecordedSteps):
    """Some copies of a world, their arrays and the recorded commands of one step.

    Args:
        world: what is simulated.
        places: where its numbers stand.
        worlds: how many copies.
        solver: "semi_implicit", "featherstone" or "xpbd".
        substep: [s].
        substeps: in a step.
    """

    state_views = ("q", "v")

    def __init__(self, world: RigidWorld, places: Layout, worlds: int, solver: str, substep: float, substeps: int) -> None:
        import newton
        import warp as wp

        self.world, self.places, self.worlds, self.substep, self.substeps = world, places, worlds, substep, substeps
        self.newton, self.wp, self.kind = newton, wp, solver
        self.key: Any = None  # which parameters are loaded; kept by the twin
        with wp.ScopedDevice("cpu"):
            builder = newton.ModelBuilder(up_axis=newton.Axis.Z)
            builder.replicate(self._template(), worlds)
            self.model = builder.finalize(device="cpu", skip_validation_inertia=True)
            make = {
                "semi_implicit": lambda: newton.solvers.SolverSemiImplicit(self.model, angular_damping=0.0),
                "featherstone": lambda: newton.solvers.SolverFeatherstone(self.model, angular_damping=0.0),
                "xpbd": lambda: newton.solvers.SolverXPBD(self.model, iterations=XPBD_ITERATIONS, enable_restitution=True),
            }
            self.solver = make[solver]()
            self.states = self.model.state(), self.model.state()
            self.control = self.model.control()
            self._allocate()

    def _template(self) -> Any:
        """One world, as a builder."""
        newton, world = self.newton, self.world
        builder = newton.ModelBuilder(up_axis=newton.Axis.Z)
        order = {body.name: k for k, body in enumerate(world.bodies)}
        trees: dict[int, list[int]] = {}
        root: list[int] = []
        for k, body in enumerate(world.bodies):
            above = -1 if body.parent is None else order[body.parent]
            root.append(k if above < 0 else root[above])
            builder.add_link(
                mass=body.mass,
                inertia=self.wp.mat33(np.asarray(body.inertia, np.float32)),
                com=body.com,
                label=body.name,
                lock_inertia=True,
                is_kinematic=body.joint.kind is JointKind.DRIVEN,
            )
            trees.setdefault(root[k], []).append(self._joint(builder, k, above))
        for joints in trees.values():
            if joints != list(range(joints[0], joints[-1] + 1)):
                raise ValueError("NewtonTwin needs the bodies of one tree of joints to stand one after another.")
            builder.add_articulation(joints)
        config = newton.ModelBuilder.ShapeConfig(density=0.0, ke=1.0, kd=1.0, kf=0.0, mu=1.0, gap=GAP)
        for owner, geometry in self.places.geometries:
            config.margin = geometry.rounding
            _add_shape(newton, builder, owner if owner < len(world.bodies) else -1, geometry, config)
        owner_of = [owner for owner, _ in self.places.geometries]
        touching = set(self.places.pairs)
        for a, b in itertools.combinations(range(len(owner_of)), 2):
            if (min(owner_of[a], owner_of[b]), max(owner_of[a], owner_of[b])) not in touching:
                builder.add_shape_collision_filter_pair(a, b)
        return builder

    def _joint(self, builder: Any, k: int, above: int) -> int:
        wp, joint = self.wp, self.world.bodies[k].joint
        w, x, y, z = joint.rotation
        place = wp.transform(wp.vec3(*joint.position), wp.normalize(wp.quat(x, y, z, w)))
        match joint.kind:
            case JointKind.FREE | JointKind.DRIVEN:
                return int(builder.add_joint_free(k))
            case JointKind.FIXED:
                return int(builder.add_joint_fixed(above, k, parent_xform=place))
            case JointKind.HINGE:
                return int(builder.add_joint_revolute(above, k, parent_xform=place, axis=wp.vec3(*joint.axis), damping=0.0, armature=0.0, friction=0.0))
        return int(builder.add_joint_prismatic(above, k, parent_xform=place, axis=wp.vec3(*joint.axis), damping=0.0, armature=0.0, friction=0.0))

    def _allocate(self) -> None:
        wp, world, places, n = self.wp, self.world, self.places, self.worlds
        bodies, actuators, pairs, shapes = len(world.bodies), len(world.actuators), len(places.pairs), len(places.geometries)
        width, moving = world.sizes()
        pairing = np.full((max(shapes, 1), max(shapes, 1)), -1, np.int32)
        touching = 0
        for a, b in itertools.permutations(range(shapes), 2):
            owners = (places.geometries[a][0], places.geometries[b][0])
            if owners in places.pairs or owners[::-1] in places.pairs:
                pairing[a, b] = places.pairs.index(owners if owners in places.pairs else owners[::-1])
                touching += 1
        self.pipeline: Any = None
        self.contacts: Any = None
        if touching:
            room = CONTACTS * touching // 2 * n
            self.pipeline = self.newton.CollisionPipeline(self.model, broad_phase="explicit", rigid_contact_max=room)
            self.contacts = self.pipeline.contacts()
            self.contacts.rigid_contact_stiffness, self.contacts.rigid_contact_damping, self.contacts.rigid_contact_friction = (
                wp.zeros(room, dtype=float) for _ in range(3)
            )
        order = {body.name: k for k, body in enumerate(world.bodies)}
        command = np.full(actuators, -1, np.int32)
        for k, at in places.commands:
            command[k] = at
        integers = {
            "kinds": [int(body.joint.kind) for body in world.bodies],
            "q_at": places.q_at,
            "v_at": places.v_at,
            "command": command,
            "actuator_kind": [int(actuator.kind) for actuator in world.actuators],
            "actuator_body": [order[actuator.body] for actuator in world.actuators],
            "actuator_axis": [actuator.axis for actuator in world.actuators],
        }
        self.integers = {name: wp.array(np.array(values, np.int32), dtype=wp.int32) for name, values in integers.items()}
        self.pairing = wp.array(pairing, dtype=wp.int32)
        self.widths = wp.vec2i(width, moving)
        sizes = {
            "q": (n, width),
            "v": (n, moving),
            "actions": (n, actuators),
            "drag": (n, bodies, 2),
            "passive": (n, bodies, 5),
            "actuators": (n, actuators, layout.ACTUATOR),
            "laws": (n, max(pairs, 1), 3),
        }
        self.arrays = {name: wp.zeros(size, dtype=float) for name, size in sizes.items()}
        self.views = {name: array.numpy() for name, array in self.arrays.items()}
        names: tuple[str, ...] = ("body_mass", "body_inv_mass", "body_inertia", "body_inv_inertia", "body_com", "joint_X_p", "joint_armature", "gravity")
        names += ("joint_limit_lower", "joint_limit_upper", "joint_limit_ke", "joint_limit_kd", "shape_transform", "shape_scale", "shape_margin")
        names += ("shape_collision_radius", "shape_collision_aabb_lower", "shape_collision_aabb_upper")
        names += ("shape_material_kf", "shape_material_mu", "shape_material_restitution")
        found = {name: getattr(self.model, name).numpy() for name in names}
        self.model_views = {name: view[:n] if name == "gravity" else view.reshape(n, -1, *view.shape[1:]) for name, view in found.items()}
        scaled = ("shape_scale", "shape_margin", "shape_collision_radius", "shape_collision_aabb_lower", "shape_collision_aabb_upper")
        self.unscaled = {name: self.model_views[name][0].copy() for name in scaled}
        self.armature = self.model_views["joint_armature"]
        if self.kind == "featherstone":  # has an array of its own where bodies are driven
            self.armature = self.solver.joint_armature_effective.numpy().reshape(n, -1)

    def load(self, table: Array) -> None:
        """Take up the parameters of each world, (worlds, C)."""
        places, views, model = self.places, self.views, self.model_views
        model["gravity"][:] = table[:, layout.GRAVITY : layout.GRAVITY + 3]
        for k in range(len(self.world.bodies)):
            block, inertia = places.body(table, k), places.inertia(table, k)
            model["body_mass"][:, k] = block[:, layout.MASS]
            model["body_inv_mass"][:, k] = 1 / block[:, layout.MASS]
            model["body_com"][:, k] = block[:, layout.COM : layout.COM + 3]
            model["body_inertia"][:, k] = inertia
            model["body_inv_inertia"][:, k] = block[:, layout.INVERSE_INERTIA : layout.INVERSE_INERTIA + 6][:, SYMMETRIC]
            views["drag"][:, k] = block[:, [layout.LINEAR_DRAG, layout.ANGULAR_DRAG]]
            self._load_joint(table, k, block[:, layout.MASS], inertia)
        for k, (owner, geometry) in enumerate(places.geometries):
            block = places.geometry(table, k)
            scale = block[:, layout.SCALE]
            model["shape_transform"][:, k, :3] = block[:, layout.OFFSET : layout.OFFSET + 3]
            for name, unscaled in () if isinstance(geometry.shape, PlaneShape) else self.unscaled.items():
                model[name][:, k] = np.multiply.outer(scale, unscaled[k])
            light = places.lightness(table, owner)
            model["shape_material_kf"][:, k] = FRICTION_SLOPE / (self.substep * light) if light.any() else 0.0
        for k in range(len(places.pairs)):
            block = places.pair(table, k)
            damping = one_way_ratio(_restitution(block[:, layout.DAMPING_RATIO]))
            views["laws"][:, k] = np.stack((block[:, layout.STIFFNESS], damping, block[:, layout.FRICTION]), 1)
        if self.kind == "xpbd":
            self._load_surfaces(table)
        for k in range(len(self.world.actuators)):
            views["actuators"][:, k] = places.actuator(table, k)
        self.solver.notify_model_changed(self.newton.ModelFlags.BODY_INERTIAL_PROPERTIES)

    def _load_joint(self, table: Array, k: int, mass: Array, inertia: Array) -> None:
        joint = self.world.bodies[k].joint
        if joint.kind in (JointKind.FREE, JointKind.DRIVEN):
            return
        block, model = self.places.joint(table, k), self.model_views
        model["joint_X_p"][:, k, :3] = block[:, layout.ANCHOR : layout.ANCHOR + 3]
        if joint.kind is JointKind.FIXED:
            return
        at, armature = self.places.v_at[k], block[:, layout.ARMATURE]
        self.armature[:, at] = armature
        for name, column in (("lower", layout.LOW), ("upper", layout.HIGH), ("ke", layout.LIMIT_SPRING), ("kd", layout.LIMIT_DAMPING)):
            model[f"joint_limit_{name}"][:, at] = block[:, column]
        axis = np.asarray(joint.axis)
        carried = armature + (mass if joint.kind is JointKind.SLIDE else inertia @ axis @ axis)
        dry = block[:, layout.DRY]
        fade = np.maximum(FADE, self.substep * dry / carried)  # it may stop the joint in a substep, not turn it back
        self.views["passive"][:, k] = np.stack((block[:, layout.DAMPING], dry, fade, block[:, layout.SPRING], block[:, layout.REST]), 1)

    def _load_surfaces(self, table: Array) -> None:
        """Friction and restitution of surfaces whose means over pairs are those of the pairs."""
        places = self.places
        owners = 1 + max(owner for owner, _ in places.geometries) if places.geometries else 0
        share = np.zeros((len(places.pairs), owners))
        for k, pair in enumerate(places.pairs):
            share[k, list(pair)] = 0.5
        wanted = {"mu": [places.pair(table, k)[:, layout.FRICTION] for k in range(len(places.pairs))]}
        wanted["restitution"] = [_restitution(places.pair(table, k)[:, layout.DAMPING_RATIO]) for k in range(len(places.pairs))]
        for name, columns in wanted.items() if len(places.pairs) else ():
            found = np.linalg.pinv(share) @ np.stack(columns)
            missed = np.abs(share @ found - np.stack(columns)).max()
            if missed > 1e-3 or found.min() < -1e-6:
                raise ValueError(f"NewtonTwin with xpbd cannot express the {name} of these pairs, as it takes means of surfaces; use semi_implicit.")
            for k, (owner, _) in enumerate(places.geometries):
                self.model_views[f"shape_material_{name}"][:, k] = found[owner]

    def start(self, q: Array, v: Array) -> None:
        """Set the states, (worlds, Q) and (worlds, V)."""
        self.views["q"][:], self.views["v"][:] = q, v

    def step(self, actions: Array) -> tuple[Array, Array]:
        """States after a step under actions (worlds, A): views that the next step overwrites.

        Raises:
            RuntimeError: if there are more contacts than room.
        """
        self.views["actions"][:] = actions
        self.advance()
        if self.contacts is not None:
            count, room = int(self.contacts.rigid_contact_count.numpy()[0]), self.contacts.rigid_contact_max
            if count > room:
                raise RuntimeError(f"NewtonTwin has room for {room} contacts in {self.worlds} worlds, but there are {count}.")
        return self.views["q"], self.views["v"]

    def _commands(self) -> None:
        from structwm.kernels import engine_steps

        wp, n, model = self.wp, self.worlds, self.model
        i, a, (now, later) = self.integers, self.arrays, self.states
        places = (i["kinds"], i["q_at"], i["v_at"])
        wp.launch(engine_steps.begin, n, [*places, i["command"], model.body_com, a["actions"], a["q"], a["v"], now.joint_q, now.joint_qd])
        self.newton.eval_fk(model, now.joint_q, now.joint_qd, now)
        driven = any(body.joint.kind is JointKind.DRIVEN for body in self.world.bodies)
        for _ in range(self.substeps):
            actuators = (i["actuator_kind"], i["actuator_body"], i["actuator_axis"])
            bodies = (model.body_com, model.body_mass, model.body_inertia)
            numbers = (a["drag"], a["passive"], a["actuators"], a["actions"])
            motion = (now.joint_q, now.joint_qd, now.body_q, now.body_qd)
            wp.launch(engine_steps.push, n, [*places, self.widths, *actuators, *bodies, *numbers, *motion, self.control.joint_f, now.body_f])
            if self.contacts is not None:
                self._touch(now)
            self.solver.step(now, later, self.control, self.contacts, self.substep)
            if driven:
                moved = (later.joint_q, later.joint_qd, later.body_q, later.body_qd)
                wp.launch(engine_steps.carry, n, [*places, model.body_com, a["v"], self.substep, self.widths, *moved])
            now, later = later, now
        if self.kind != "featherstone":
            self.newton.eval_ik(model, now, now.joint_q, now.joint_qd)
        wp.launch(engine_steps.finish, n, [*places, model.body_com, now.joint_q, now.joint_qd, a["q"], a["v"]])

    def _touch(self, state: Any) -> None:
        from structwm.kernels import engine_steps

        contacts, model = self.contacts, self.model
        self.pipeline.collide(state, contacts)
        if self.kind == "xpbd":  # does not look at the laws of contacts
            return
        bodies = (model.shape_body, model.body_com, model.body_inv_mass, model.body_inv_inertia, state.body_q)
        names = ("count", "shape0", "shape1", "point0", "point1", "normal", "stiffness", "damping", "friction")
        found = [getattr(contacts, f"rigid_contact_{name}") for name in names]
        numbers = (self.integers["kinds"], self.pairing, self.arrays["laws"], self.substep)
        self.wp.launch(engine_steps.touch, contacts.rigid_contact_max, [*numbers, *bodies, *found])


def one_way_ratio(restitution: Array) -> Array:
    """The damping ratio of a coefficient of restitution, where the damper acts while bodies approach and not while they part, as Newton's does.

    From `x'' + 2 z x' + x = 0` up to the deepest point: `e = exp(-z / s atan(s / z))`, `s = sqrt(1 - z^2)`, and its continuation above z = 1.
    """
    ratios = np.logspace(-4, 3, 4000)
    s = np.sqrt(np.maximum(np.abs(1 - ratios**2), 1e-12))
    angle = np.where(ratios < 1, np.arctan2(s, ratios), np.arctanh(np.minimum(s / ratios, 1 - 1e-15)))
    found: Array = np.interp(-np.asarray(restitution), -np.exp(-ratios / s * angle), ratios)
    return found


def _restitution(damping_ratio: Array) -> Array:
    import torch

    from .rigid_parameters import restitution_of

    found: Array = restitution_of(torch.from_numpy(np.array(damping_ratio))).numpy()
    return found


def _add_shape(newton: Any, builder: Any, body: int, geometry: Geometry, config: Any) -> None:
    import warp as wp

    w, x, y, z = geometry.rotation
    where = {"xform": wp.transform(wp.vec3(*geometry.position), wp.normalize(wp.quat(x, y, z, w))), "cfg": config}
    match geometry.shape:
        case SphereShape(radius=radius):
            builder.add_shape_sphere(body, radius=radius, **where)
        case CapsuleShape(radius=radius, half_length=half):
            builder.add_shape_capsule(body, radius=radius, half_height=half, **where)
        case BoxShape(half_extents=(hx, hy, hz)):
            builder.add_shape_box(body, hx=hx, hy=hy, hz=hz, **where)
        case ConvexShape(hull=hull):
            mesh = newton.Mesh(hull.vertices.astype(np.float32), hull.faces.reshape(-1).astype(np.int32), compute_inertia=False)
            builder.add_shape_convex_hull(body, mesh=mesh, **where)
        case PlaneShape():
            builder.add_shape_plane(None, body=body, width=0.0, length=0.0, **where)
