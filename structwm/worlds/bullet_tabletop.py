"""A table with several objects in PyBullet."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pybullet
import torch
from numpy.typing import NDArray

from .tabletop import Tabletop
from .tabletop_config import Array, Body, Chain, CylinderPusher, PlatePusher, SpherePusher, TabletopConfig
from .tabletop_layout import placed_bodies
from .tabletop_views import AMBIENT, COLORS, LIGHT, PUSHER_COLOR, TABLE_COLOR

GRAVITY = 9.81  # [m/s^2]
RATE = 480  # physics steps per second, at least
SWEEPS = 60  # solver sweeps; fewer let stacked pushes sink into each other
SETTLE = 0.1  # [s] of rest before an episode
BREAKING = 0.001  # contacts closer than this are kept [m]; larger keeps stale points of round bodies
DAMPING = 1e-5  # of a chain's joints [N m s/rad]
TABLE_DEPTH = 0.05  # half of the table's [m]
SPRING, DAMPER = 3e4, 100.0  # of each point of contact with the table [N/m], [N s/m]; stiffer ones let the load jump from corner to corner
NEAR = 0.1  # of the cameras [m]


class BulletTabletop(Tabletop):
    """A table in a PyBullet client of its own. Images come from its TinyRenderer.

    - It multiplies the coefficients of both bodies: each has the root of its own, so that a pair has the geometric mean.
    - A plane gains the corners of a box one by one: the table is a box, whose contacts are all there at once. Rigid contacts let the load jump from corner to
      corner, and friction torque with it: the table is springs and dampers, which share the load.
    - Its sweeps solve the two directions of friction each with its own effective mass, which nothing here mends (`BulletPushing` does for one slider): friction
      on the table is right for a box that slides, but a pusher that slips along a box drags it aside half to nine tenths as far as in MuJoCo, and pushed boxes
      turn up to ten degrees otherwise in 12 cm. More sweeps or steps change nothing. Bodies without reduced coordinates fail beside a pusher on joints.
    - A body without mass has no velocity that friction sees: the pusher is a link that slides and turns on joints, a million times the objects' mass, whose
      position and velocity are set before every physics step. It does not touch the table. A cylinder touches as a row of balls, as in MuJoCo.
    - Capsules get the moments of inertia of a box: all are set.
    """

    def __init__(self, *, config: TabletopConfig | None = None, images: bool = False, **fields: Any) -> None:
        super().__init__(config=config, images=images, **fields)
        self._substeps = max(1, math.ceil(self.config.dt * RATE - 1e-9))
        self._client: int | None = pybullet.connect(pybullet.DIRECT)
        self._lenses = [self._lens(index) for index in range(self.config.cameras)]

    def close(self) -> None:
        if self._client is not None:
            pybullet.disconnect(self._client)
        self._client = None

    @property
    def _at(self) -> dict[str, int]:
        """The keyword that every call takes: this world's client."""
        if self._client is None:
            raise RuntimeError("this world is closed; make a new one.")
        return {"physicsClientId": self._client}

    def _place(self, layout: list[Array], pusher: Array) -> None:
        at = self._at
        pybullet.resetSimulation(**at)  # nothing of the last episode is left in caches, so episodes repeat bit for bit
        pybullet.setGravity(0, 0, -GRAVITY, **at)
        pybullet.setPhysicsEngineParameter(
            fixedTimeStep=self.config.dt / self._substeps,
            numSolverIterations=SWEEPS,
            solverResidualThreshold=0.0,
            enableConeFriction=1,
            contactBreakingThreshold=BREAKING,
            contactSlop=0.0,
            deterministicOverlappingPairs=1,
            **at,
        )
        table = self._add_table()
        self._pusher_id = self._add_pusher(pusher)
        pybullet.setCollisionFilterPair(table, self._pusher_id, -1, len(pusher) - 1, 0, **at)
        self._ids, first = [], 0
        for thing, place in zip(self.config.objects, layout, strict=True):
            count, spacing = (thing.links, thing.spacing) if isinstance(thing, Chain) else (1, 0.0)
            body = self._add_object(self.config.bodies[first : first + count], spacing, placed_bodies(thing, place)[0])
            if isinstance(thing, Chain):
                self._bend(body, thing, place[3:])
            self._ids += [(body, link) for link in range(-1, count - 1)]
            first += count
        for _ in range(round(SETTLE * self._substeps / self.config.dt)):
            self._move_pusher(pusher, np.zeros_like(pusher))
            pybullet.stepSimulation(**at)
        self._move_pusher(pusher, np.zeros_like(pusher))

    def _advance(self, velocity: Array) -> None:
        at, step = self._at, self.config.dt / self._substeps
        for k in range(self._substeps):
            self._move_pusher(self._pusher + k * step * velocity, velocity)
            pybullet.stepSimulation(**at)
        self._move_pusher(self._pusher + self.config.dt * velocity, np.zeros_like(velocity))

    def _move_pusher(self, position: Array, velocity: Array) -> None:
        for axis, (place, speed) in enumerate(zip(position.tolist(), velocity.tolist(), strict=True)):
            pybullet.resetJointState(self._pusher_id, axis, place, speed, **self._at)

    def _poses(self) -> Array:
        found = []
        for body, link in self._ids:
            if link < 0:
                position, (x, y, z, w) = pybullet.getBasePositionAndOrientation(body, **self._at)
            else:
                position, (x, y, z, w) = pybullet.getLinkState(body, link, computeForwardKinematics=1, **self._at)[:2]
            found.append((*position, w, x, y, z))
        return np.array(found)

    def _save(self) -> int:
        return int(pybullet.saveState(**self._at))

    def _load(self, state: Any) -> None:
        pybullet.restoreState(stateId=state, **self._at)

    # Images

    def _lens(self, index: int) -> dict[str, list[float]]:
        """View and projection of a camera as OpenGL has them, column by column: its camera looks along -z, y up."""
        camera = self._eyes[index].to(torch.float64)
        view = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)) @ camera.camera_from_world
        fx, fy, cx, cy = (camera.pinholes + torch.tensor([0.0, 0.0, -0.5, 0.5])).tolist()  # it shows what is at a pixel's lower left corner
        width, height, far = camera.width, camera.height, self.config.far
        projection = np.zeros((4, 4))
        projection[0, 0], projection[0, 2] = 2 * fx / width, 1 - 2 * cx / width
        projection[1, 1], projection[1, 2] = 2 * fy / height, 2 * cy / height - 1
        projection[2, 2:] = -(far + NEAR) / (far - NEAR), -2 * far * NEAR / (far - NEAR)
        projection[3, 2] = -1
        return {"viewMatrix": view.T.flatten().tolist(), "projectionMatrix": projection.T.flatten().tolist()}

    def _look(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        seen = [self._photograph(lens) for lens in self._lenses]
        return np.stack([rgb for rgb, _ in seen]), np.stack([depth for _, depth in seen])

    def _photograph(self, lens: dict[str, list[float]]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        width, height, far = self._eyes.width, self._eyes.height, self.config.far
        light = {"lightDirection": list(LIGHT), "shadow": 0, "lightAmbientCoeff": AMBIENT, "lightDiffuseCoeff": 1 - AMBIENT, "lightSpecularCoeff": 0.0}
        _, _, rgba, raw, _ = pybullet.getCameraImage(
            width, height, **lens, **light, renderer=pybullet.ER_TINY_RENDERER, flags=pybullet.ER_NO_SEGMENTATION_MASK, **self._at
        )
        buffer = np.array(raw, np.float64).reshape(height, width)
        depth = far * NEAR / (far - (far - NEAR) * buffer)
        depth[buffer >= 1 - 1e-7] = np.nan
        return np.array(rgba, np.uint8).reshape(height, width, 4)[..., :3].copy(), depth.astype(np.float32)

    # Bodies

    def _add_table(self) -> int:
        at, side = self._at, 2 * self.config.workspace
        half = [side, side, TABLE_DEPTH]
        shape = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half, **at)
        look = pybullet.createVisualShape(pybullet.GEOM_BOX, halfExtents=half, rgbaColor=[*TABLE_COLOR, 1], **at)
        table = int(pybullet.createMultiBody(0, shape, look, [0, 0, -TABLE_DEPTH], **at))
        self._set_contact(table, -1, friction=self.config.table_friction)
        pybullet.changeDynamics(table, -1, contactStiffness=SPRING, contactDamping=DAMPER, **at)
        return table

    def _add_pusher(self, position: Array) -> int:
        at, axes = self._at, len(position)
        paint = {"rgbaColor": [*PUSHER_COLOR, 1]}
        match self.config.pusher:
            case CylinderPusher(radius, half) as cylinder:
                heights = [[0, 0, height] for height in cylinder.balls.tolist()]
                kinds, radii = [pybullet.GEOM_SPHERE] * len(heights), [radius] * len(heights)
                touch = pybullet.createCollisionShapeArray(kinds, radii=radii, collisionFramePositions=heights, **at)
                look = pybullet.createVisualShape(pybullet.GEOM_CYLINDER, radius=radius, length=2 * half, **paint, **at)
            case SpherePusher(radius):
                touch = pybullet.createCollisionShape(pybullet.GEOM_SPHERE, radius=radius, **at)
                look = pybullet.createVisualShape(pybullet.GEOM_SPHERE, radius=radius, **paint, **at)
            case PlatePusher(width, thickness, height):
                touch = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=[width, thickness, height], **at)
                look = pybullet.createVisualShape(pybullet.GEOM_BOX, halfExtents=[width, thickness, height], **paint, **at)
        mass = 1e6 * sum(body.mass for body in self.config.bodies)
        rails = [pybullet.JOINT_PRISMATIC, pybullet.JOINT_PRISMATIC, pybullet.JOINT_REVOLUTE][:axes]
        nothing, lines = [-1] * (axes - 1), [[1, 0, 0], [0, 1, 0], [0, 0, 1]][:axes]
        joints = _joints([mass] * axes, [*nothing, touch], [*nothing, look], [[0, 0, 0]] * axes, [[0, 0, 0]] * axes, rails, lines)
        pusher = int(pybullet.createMultiBody(0, basePosition=[0, 0, self.config.pusher_height], **joints, **at))
        for axis in range(axes):
            pybullet.setJointMotorControl2(pusher, axis, pybullet.VELOCITY_CONTROL, force=0, **at)
            pybullet.resetJointState(pusher, axis, position[axis], 0.0, **at)
            self._set_contact(pusher, axis, friction=self.config.pusher_friction)
        return pusher

    def _add_object(self, bodies: tuple[Body, ...], spacing: float, pose: Array) -> int:
        """A box, or a chain that is straight; `pose` (3,) is that of its first body."""
        at, half = self._at, spacing / 2
        later = bodies[1:]
        shapes = [self._shape(body, [0.0 if k == 0 else half, 0, 0]) for k, body in enumerate(bodies)]
        joints = _joints(
            [body.mass for body in later],
            [touch for touch, _ in shapes[1:]],
            [look for _, look in shapes[1:]],
            [[half if k == 0 else spacing, 0, 0] for k in range(len(later))],
            [[half, 0, 0]] * len(later),
            [self._joint_of(body) for body in later],
            [[0, 0, 1]] * len(later),
        )
        found = int(
            pybullet.createMultiBody(
                baseMass=bodies[0].mass,
                baseCollisionShapeIndex=shapes[0][0],
                baseVisualShapeIndex=shapes[0][1],
                basePosition=[pose[0], pose[1], bodies[0].half_extents[2]],
                baseOrientation=[0, 0, math.sin(pose[2] / 2), math.cos(pose[2] / 2)],
                flags=pybullet.URDF_USE_SELF_COLLISION,
                **joints,
                **at,
            )
        )
        for link, body in enumerate(bodies, start=-1):
            self._set_contact(found, link, friction=body.friction)
            pybullet.changeDynamics(found, link, localInertiaDiagonal=body.inertia.tolist(), **at)
            if link >= 0:
                pybullet.changeDynamics(found, link, jointDamping=DAMPING, **at)
        return found

    def _joint_of(self, body: Body) -> int:
        thing = self.config.objects[body.object_id]
        return int(pybullet.JOINT_SPHERICAL if isinstance(thing, Chain) and thing.joint == "ball" else pybullet.JOINT_REVOLUTE)

    def _bend(self, body: int, chain: Chain, angles: Array) -> None:
        for joint, angle in enumerate(angles.tolist()):
            if chain.joint == "ball":
                turn = [0, 0, math.sin(angle / 2), math.cos(angle / 2)]
                pybullet.resetJointStateMultiDof(body, joint, turn, [0, 0, 0], **self._at)
                pybullet.setJointMotorControlMultiDof(body, joint, pybullet.POSITION_CONTROL, turn, positionGain=0, velocityGain=0, force=[0, 0, 0], **self._at)
            else:
                pybullet.resetJointState(body, joint, angle, 0.0, **self._at)
                pybullet.setJointMotorControl2(body, joint, pybullet.VELOCITY_CONTROL, force=0, **self._at)

    def _shape(self, body: Body, place: list[float]) -> tuple[int, int]:
        """What touches and what is seen of a body, in a frame in which its middle is at `place`."""
        at, (x, y, _) = self._at, body.half_extents
        here: dict[str, Any] = {"collisionFramePosition": place}
        there: dict[str, Any] = {"visualFramePosition": place, "rgbaColor": [*COLORS[body.object_id], 1]}
        if body.shape == "box":
            half = {"halfExtents": list(body.half_extents)}
            return pybullet.createCollisionShape(pybullet.GEOM_BOX, **half, **here, **at), pybullet.createVisualShape(pybullet.GEOM_BOX, **half, **there, **at)
        along = [0, math.sqrt(0.5), 0, math.sqrt(0.5)]  # z to x
        touch = pybullet.createCollisionShape(pybullet.GEOM_CAPSULE, radius=y, height=2 * (x - y), collisionFrameOrientation=along, **here, **at)
        look = pybullet.createVisualShape(pybullet.GEOM_CAPSULE, radius=y, length=2 * (x - y), visualFrameOrientation=along, **there, **at)
        return touch, look

    def _set_contact(self, body: int, link: int, *, friction: float) -> None:
        """One coefficient of friction and nothing else: no rolling or spinning friction, no bounce, no drag."""
        nothing = dict.fromkeys(("rollingFriction", "spinningFriction", "restitution", "linearDamping", "angularDamping", "jointDamping"), 0.0)
        pybullet.changeDynamics(body, link, lateralFriction=math.sqrt(friction), **nothing, **self._at)


def _joints(
    masses: list[float], shapes: list[int], looks: list[int], places: list[list[float]], middles: list[list[float]], kinds: list[int], axes: list[list[int]]
) -> dict[str, Any]:
    """Arguments of createMultiBody for links in a row: where each joint is in the frame of the link before, and its body's middle from there."""
    count = len(masses)
    return {
        "linkMasses": masses,
        "linkCollisionShapeIndices": shapes,
        "linkVisualShapeIndices": looks,
        "linkPositions": places,
        "linkOrientations": [[0, 0, 0, 1]] * count,
        "linkInertialFramePositions": middles,
        "linkInertialFrameOrientations": [[0, 0, 0, 1]] * count,
        "linkParentIndices": list(range(count)),
        "linkJointTypes": kinds,
        "linkJointAxis": axes,
    }
