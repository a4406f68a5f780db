"""A rigid world in a PyBullet client, and the numbers of a parameter draw written into it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from structwm.kernels import rigid_layout as layout
from structwm.kernels.rigid_layout import JointKind

from .bullet_draws import Draws, Surface
from .engine_twin import Array, Layout, corners, drag_at_joint, grounded, quaternion_of
from .rigid_program import rotation_matrix
from .rigid_world import UPRIGHT, BoxShape, CapsuleShape, Geometry, PlaneShape, SphereShape

HALF_SPACE = 1e3  # half extent of the box that stands for a half-space [m]: boxes touch boxes with all their corners at once, planes with one a step
MARGIN = 1e-4  # of hulls, which Bullet rounds outward by as much [m]
DRIVEN_WEIGHT = 1e6  # of a driven body, over that of all others together
SWEEPS = 50  # of the solver


@dataclass
class Part:
    """A body as Bullet has it. Its frame is the centre of mass and the principal axes, where it is a base."""

    uid: int
    link: int = -1  # -1: the base
    com: Array = field(default_factory=lambda: np.zeros(3))  # of the frame in the body's [m]
    axes: Array = field(default_factory=lambda: np.array(UPRIGHT))  # wxyz


class BulletScene:
    """A client that holds one world, built again when a draw changes what Bullet cannot change in place.

    A contact's friction is the product of two coefficients and its stiffness and damping are joined in ways of Bullet's own, so what does not move by force
    stands in the client once for each body that may touch it, with the material that gives the pair its own.
    """

    def __init__(self) -> None:
        import pybullet

        self.engine = pybullet
        self.client = int(pybullet.connect(pybullet.DIRECT))
        self.at = {"physicsClientId": self.client}
        self.built: tuple[Any, ...] = ()
        self.drawn: tuple[Draws, int, float, int] | None = None

    def close(self) -> None:
        """Free the client."""
        if self.client >= 0 and self.engine.isConnected(**self.at):
            self.engine.disconnect(**self.at)
        self.client = -1

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be on its way out
            self.close()

    def show(self, where: Layout, draws: Draws, row: int, step: float, inner: int) -> None:
        """Make the client that of a draw.

        Args:
            where: the layout of the world's numbers.
            draws: of its parameters.
            row: which.
            step: time that a call of `stepSimulation` takes [s].
            inner: substeps in it; a power of two, or 1.
        """
        if self.drawn is not None and self.drawn[0] is draws and self.drawn[1:] == (row, step, inner):
            return
        structure = (step, inner, *draws.structure(row))
        if self.built != structure:
            self._build(where, draws, row, step, inner)
            self.built = structure
        self._fill(where, draws, row)
        self.drawn = (draws, row, step, inner)

    def heavy(self, k: int) -> list[int]:
        """All that stands for a driven body."""
        found = [uid for (_, still), copies in self.copies.items() if still == k for uid in copies]
        return found + ([self.bases[k]] if k in self.bases else [])

    def origin(self, k: int) -> list[float]:
        """Where a body's frame is now [m]."""
        part = self.parts[k]
        if part.link >= 0:
            return list(self.engine.getLinkState(part.uid, part.link, computeForwardKinematics=1, **self.at)[4])
        place, turn = self.engine.getBasePositionAndOrientation(part.uid, **self.at)
        frame = rotation_matrix([turn[n] for n in (3, 0, 1, 2)]) @ rotation_matrix(part.axes).T
        back: list[float] = (np.array(place) - frame @ part.com).tolist()
        return back

    # what is built

    def _build(self, where: Layout, draws: Draws, row: int, step: float, inner: int) -> None:
        engine, at, world = self.engine, self.at, where.world
        engine.resetSimulation(**at)
        engine.setPhysicsEngineParameter(
            fixedTimeStep=step,
            numSubSteps=inner if inner > 1 else 0,
            numSolverIterations=SWEEPS,
            solverResidualThreshold=0.0,
            deterministicOverlappingPairs=1,
            restitutionVelocityThreshold=0.0,
            **at,
        )
        self.parts: dict[int, Part] = {}
        self.hung: list[int] = []  # multibodies that hang on the world
        self.copies: dict[tuple[int, int], list[int]] = {}  # bodies that stand for owner b where owner a, which force moves, touches it
        self.bases: dict[int, int] = {}  # multibodies that hang on driven bodies
        order = {body.name: k for k, body in enumerate(world.bodies)}
        roots: dict[int, list[int]] = {}
        for k in range(len(world.bodies)):
            root = k
            while world.bodies[root].parent is not None:
                root = order[world.bodies[root].parent]  # type: ignore[index]
            roots.setdefault(root, []).append(k)
        for root, members in roots.items():
            lone = len(members) == 1
            if lone and world.bodies[root].joint.kind is JointKind.FREE:
                self._add_lone(where, draws, row, root)
            elif not (lone and world.bodies[root].joint.kind is JointKind.DRIVEN):
                self._add_tree(where, draws, row, members)
        for one, other in where.pairs:
            if one in self.parts and other in self.parts:
                touching = [(self.parts[one], self.parts[other].uid, self.parts[other].link)]
            else:
                mover, still = (one, other) if one in self.parts else (other, one)
                self.copies[mover, still] = self._add_surface(where, draws, row, still)
                touching = [(self.parts[mover], uid, -1) for uid in self.copies[mover, still]]
            for part, uid, link in touching:
                engine.setCollisionFilterPair(part.uid, uid, part.link, link, 1, **at)

    def _mute(self, uid: int, link: int = -1) -> None:
        """Touch only what is allowed by pair."""
        self.engine.setCollisionFilterGroupMask(uid, link, 0, 0, **self.at)

    def _add_lone(self, where: Layout, draws: Draws, row: int, k: int) -> None:
        com, axes = draws.frame(k, row)
        shape = self._shape(where, draws, row, k, com, axes)
        uid = int(self.engine.createMultiBody(where.world.bodies[k].mass, shape, **self.at))
        self.engine.changeDynamics(uid, -1, linearDamping=0, angularDamping=0, **self.at)
        self.parts[k] = Part(uid, -1, com, axes)
        self._mute(uid)
        self._round(where, draws, row, k, uid, -1)

    def _add_surface(self, where: Layout, draws: Draws, row: int, owner: int) -> list[int]:
        """What stands still or is driven, for one body that touches it: a body a geometry of a fixture, one for a driven body."""
        engine, at = self.engine, self.at
        bodies = len(where.world.bodies)
        if owner < bodies:
            weight = DRIVEN_WEIGHT * draws.total
            shape = self._shape(where, draws, row, owner, np.zeros(3), np.array(UPRIGHT))
            found = [int(engine.createMultiBody(weight, shape, useMaximalCoordinates=1, **at))]
            engine.changeDynamics(found[0], -1, mass=weight, localInertiaDiagonal=[weight] * 3, linearDamping=0, angularDamping=0, **at)
        else:
            found = []
            for g, (whose, geometry) in enumerate(where.geometries):
                if whose == owner:
                    block = where.geometry(draws.table, g)[row]
                    place, shape = self._fixed_shape(geometry, block)
                    turn = [geometry.rotation[k] for k in (1, 2, 3, 0)]
                    found.append(int(engine.createMultiBody(0, shape, basePosition=place, baseOrientation=turn, useMaximalCoordinates=1, **at)))
        for uid in found:
            self._mute(uid)
            if owner < bodies:
                self._round(where, draws, row, owner, uid, -1)
        return found

    def _fixed_shape(self, geometry: Geometry, block: Array) -> tuple[list[float], int]:
        place = block[layout.OFFSET : layout.OFFSET + 3]
        if isinstance(geometry.shape, PlaneShape):
            place = place - HALF_SPACE * rotation_matrix(geometry.rotation)[:, 2]
            return place.tolist(), int(self.engine.createCollisionShape(self.engine.GEOM_BOX, halfExtents=[HALF_SPACE] * 3, **self.at))
        return place.tolist(), self._one(geometry, np.zeros(3), np.array(UPRIGHT), float(block[layout.SCALE]), framed=False)

    def _add_tree(self, where: Layout, draws: Draws, row: int, members: list[int]) -> None:
        """Bodies on joints: one multibody, whose base is the root where that is free or driven, and the world otherwise."""
        engine, world = self.engine, where.world
        root = world.bodies[members[0]]
        floating = root.joint.kind in (JointKind.FREE, JointKind.DRIVEN)
        driven = root.joint.kind is JointKind.DRIVEN
        links = members[1:] if floating else members
        index = {world.bodies[k].name: n + 1 for n, k in enumerate(links)} | ({root.name: 0} if floating else {})
        frames = [draws.frame(k, row) for k in links]
        com, axes = draws.frame(members[0], row) if floating and not driven else (np.zeros(3), np.array(UPRIGHT))
        turn = rotation_matrix(axes)
        places, turns = [], []
        for k in links:
            body, anchor = world.bodies[k], where.joint(draws.table, k)[row, layout.ANCHOR : layout.ANCHOR + 3]
            rotation = np.array(body.joint.rotation)
            if floating and body.parent == root.name:
                anchor, rotation = turn.T @ (anchor - com), quaternion_of(turn.T @ rotation_matrix(rotation))
            places.append(anchor.tolist())
            turns.append(_xyzw(rotation))
        kinds: dict[Any, int] = {JointKind.HINGE: engine.JOINT_REVOLUTE, JointKind.SLIDE: engine.JOINT_PRISMATIC, JointKind.FIXED: engine.JOINT_FIXED}
        uid = int(
            engine.createMultiBody(
                baseMass=DRIVEN_WEIGHT * draws.total if driven else root.mass if floating else 0.0,
                baseCollisionShapeIndex=self._shape(where, draws, row, members[0], com, axes) if floating and not driven else -1,
                linkMasses=[world.bodies[k].mass for k in links],
                linkCollisionShapeIndices=[self._shape(where, draws, row, k, np.zeros(3), np.array(UPRIGHT)) for k in links],
                linkVisualShapeIndices=[-1] * len(links),
                linkPositions=places,
                linkOrientations=turns,
                linkInertialFramePositions=[frame[0].tolist() for frame in frames],
                linkInertialFrameOrientations=[_xyzw(frame[1]) for frame in frames],
                linkParentIndices=[index.get(world.bodies[k].parent or "", 0) for k in links],
                linkJointTypes=[kinds[world.bodies[k].joint.kind] for k in links],
                linkJointAxis=[list(world.bodies[k].joint.axis) for k in links],
                flags=engine.URDF_USE_SELF_COLLISION,
                **self.at,
            )
        )
        engine.changeDynamics(uid, -1, linearDamping=0, angularDamping=0, **self.at)
        self._mute(uid)
        if driven:
            self.bases[members[0]] = uid
            engine.changeDynamics(uid, -1, localInertiaDiagonal=[DRIVEN_WEIGHT * draws.total] * 3, **self.at)
        elif floating:
            self.parts[members[0]] = Part(uid, -1, com, axes)
        else:
            self.hung.append(uid)
        for n, k in enumerate(links):
            self.parts[k] = Part(uid, n)
            self._mute(uid, n)
            self._round(where, draws, row, k, uid, n)
            joint = world.bodies[k].joint
            engine.changeDynamics(uid, n, linearDamping=0, angularDamping=0, **self.at)
            if np.isfinite(joint.low) or np.isfinite(joint.high):
                engine.changeDynamics(uid, n, jointLowerLimit=max(joint.low, -1e9), jointUpperLimit=min(joint.high, 1e9), **self.at)

    def _round(self, where: Layout, draws: Draws, row: int, owner: int, uid: int, link: int) -> None:
        """The collision margin of hulls, which is what they are rounded by."""
        for g, (whose, geometry) in enumerate(where.geometries):
            if whose == owner and _hulled(geometry):
                margin = max(float(where.geometry(draws.table, g)[row, layout.RADIUS]), MARGIN)
                self.engine.changeDynamics(uid, link, collisionMargin=margin, **self.at)

    def _shape(self, where: Layout, draws: Draws, row: int, owner: int, com: Array, axes: Array) -> int:
        """A collision shape of all geometries of a body, in a frame at `com` turned by `axes` in the body's."""
        owned = [(g, geometry) for g, (whose, geometry) in enumerate(where.geometries) if whose == owner]
        if not owned:
            return -1
        frames = []
        turn = rotation_matrix(axes)
        for g, geometry in owned:
            block = where.geometry(draws.table, g)[row]
            place = turn.T @ (block[layout.OFFSET : layout.OFFSET + 3] - com)
            frames.append((geometry, place, quaternion_of(turn.T @ rotation_matrix(geometry.rotation)), float(block[layout.SCALE])))
        if len(frames) == 1:
            return self._one(*frames[0])
        if any(_hulled(geometry) for geometry, *_ in frames):
            raise ValueError(f"BulletTwin needs a mesh or a rounded box to be the only geometry of its body, {where.world.bodies[owner].name!r} has more.")
        engine = self.engine
        kinds = {SphereShape: engine.GEOM_SPHERE, CapsuleShape: engine.GEOM_CAPSULE, BoxShape: engine.GEOM_BOX}
        return int(
            engine.createCollisionShapeArray(
                shapeTypes=[kinds[type(geometry.shape)] for geometry, *_ in frames],
                radii=[getattr(geometry.shape, "radius", 1.0) * scale for geometry, _, _, scale in frames],
                lengths=[2 * getattr(geometry.shape, "half_length", 1.0) * scale for geometry, _, _, scale in frames],
                halfExtents=[(np.array(getattr(geometry.shape, "half_extents", (1.0,) * 3)) * scale).tolist() for geometry, _, _, scale in frames],
                collisionFramePositions=[place.tolist() for _, place, _, _ in frames],
                collisionFrameOrientations=[_xyzw(rotation) for _, _, rotation, _ in frames],
                **self.at,
            )
        )

    def _one(self, geometry: Geometry, place: Array, rotation: Array, scale: float, *, framed: bool = True) -> int:
        engine = self.engine
        frame: dict[str, Any] = {"collisionFramePosition": place.tolist(), "collisionFrameOrientation": _xyzw(rotation)} if framed else {}
        if _hulled(geometry):
            points = scale * corners(geometry) @ rotation_matrix(rotation).T + place
            return int(engine.createCollisionShape(engine.GEOM_MESH, vertices=points.tolist(), **self.at))
        match geometry.shape:
            case SphereShape(radius=radius):
                return int(engine.createCollisionShape(engine.GEOM_SPHERE, radius=radius * scale, **frame, **self.at))
            case CapsuleShape(radius=radius, half_length=half):
                return int(engine.createCollisionShape(engine.GEOM_CAPSULE, radius=radius * scale, height=2 * half * scale, **frame, **self.at))
            case BoxShape(half_extents=extents):
                return int(engine.createCollisionShape(engine.GEOM_BOX, halfExtents=[scale * x for x in extents], **frame, **self.at))
        raise TypeError(f"BulletTwin knows no {type(geometry.shape).__name__} on a body.")

    # what is written into it

    def _fill(self, where: Layout, draws: Draws, row: int) -> None:
        engine, at, table = self.engine, self.at, draws.table
        self.gravity = table[row, layout.GRAVITY : layout.GRAVITY + 3]
        engine.setGravity(*self.gravity.tolist(), **at)
        for k, part in self.parts.items():
            body, block = where.world.bodies[k], where.body(table, k)[row]
            values: dict[str, Any] = {"mass": block[layout.MASS], "localInertiaDiagonal": draws.moments(k)[row].tolist()}
            if body.joint.kind in (JointKind.HINGE, JointKind.SLIDE):
                drag = drag_at_joint(where.body(table, k)[row : row + 1], draws.inertias[k][row : row + 1], body)[0] if grounded(where.world, body) else 0.0
                joint = where.joint(table, k)[row]
                values["jointDamping"] = joint[layout.DAMPING] + drag
                engine.setJointMotorControl2(part.uid, part.link, engine.VELOCITY_CONTROL, targetVelocity=0, force=joint[layout.DRY], **at)
            engine.changeDynamics(part.uid, part.link, **values, **at)
        self._fill_materials(where, draws, row)

    def _fill_materials(self, where: Layout, draws: Draws, row: int) -> None:
        """Bullet takes friction f0 f1, stiffness in series, damping c0 + c1, and torques r0 f1 + r1 f0; each pair with what stands still is made exact."""
        own: dict[int, Surface] = {}
        for k in self.parts:
            if any(owner == k for owner, _ in where.geometries):
                own[k] = surface = draws.surface(k, row)
                self._touch(self.parts[k].uid, self.parts[k].link, surface)
        for n, pair in enumerate(where.pairs):
            for (mover, still), copies in self.copies.items():
                if {mover, still} == set(pair):
                    surface = draws.opposite(own[mover], n, row)
                    for uid in copies:
                        self._touch(uid, -1, surface)

    def _touch(self, uid: int, link: int, surface: Surface) -> None:
        self.engine.changeDynamics(
            uid,
            link,
            lateralFriction=surface.friction,
            spinningFriction=surface.torsion,
            rollingFriction=surface.rolling,
            restitution=0.0,
            contactStiffness=surface.stiffness,
            contactDamping=surface.damping,
            **self.at,
        )


def _hulled(geometry: Geometry) -> bool:
    return not isinstance(geometry.shape, SphereShape | CapsuleShape | PlaneShape) and (geometry.rounding > 0 or not isinstance(geometry.shape, BoxShape))


def _xyzw(q: Array) -> list[float]:
    return [float(q[k]) for k in (1, 2, 3, 0)]
