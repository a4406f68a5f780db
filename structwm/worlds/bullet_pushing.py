"""Planar pushing in PyBullet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pybullet
from numpy.typing import NDArray

from structwm.geometry.outline import inset, support_points

from .pushing import Array, PlanarPushing, PushingConfig, place_points

GRAVITY = 9.81  # [m/s^2]
RATE = 480  # physics steps per second, at least
SWEEPS = 150  # solver sweeps per unit of friction, at least a third of it; fewer no longer carry the light stand along exactly
SETTLE = 0.1  # [s] of rest before an episode
SUPPORT_TIME = 0.005  # time constant of the springs under the slider [s]; softer sinks deeper
STAND = 0.02  # share of the mass in the stand; heavier bends friction away from the direction of sliding, lighter needs more sweeps
CLEARANCE = 0.0005  # contacts closer than this are kept [m]; larger keeps stale points of the round pusher
MARGIN = 0.0002  # collision margin of the hull [m]; the hull is inset by as much, so its surface is the outline


class BulletPushing(PlanarPushing):
    """Planar pushing in a PyBullet client of its own.

    What Bullet would get wrong, and what is done about it:

    - It multiplies the coefficients of both bodies. The slider has 1, plane and pusher carry theirs, so each pair has exactly the configured one.
    - A hull on a plane keeps up to four points whose load jumps about, and friction torque with it. The slider stands instead on `support_points` (feet) with
      equal springs and critical damping, which share the load like the whole base; the hull itself touches only the pusher.
    - Its sweeps solve the two directions of friction each with its own effective mass, so friction at a foot does not oppose sliding where those masses differ,
      as they do on a rigid body that turns (centimetre pushes end 3 mm and 3 degrees off). The feet are therefore on a light link, the stand, that two motors
      hold in place under the slider: seen from a foot, its own small mass is nearly all there is, the same in every direction.
    - A body without mass has no velocity that friction sees. The pusher is a link on two sliding joints, a million times the slider's mass, whose position and
      velocity are set before every physics step. It touches as a sphere, at half the slider's height: one point, no jitter.
    """

    def __init__(self, *, config: PushingConfig | None = None, render_mode: str | None = None, **fields: Any) -> None:
        super().__init__(config=config, render_mode=render_mode, **fields)
        self._substeps = max(1, int(np.ceil(self.config.dt * RATE - 1e-9)))
        self._client: int | None = pybullet.connect(pybullet.DIRECT)

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

    def _place(self, object_pose: Array, pusher: Array) -> None:
        at = self._at
        pybullet.resetSimulation(**at)  # nothing of the last episode is left in caches, so episodes repeat bit for bit
        pybullet.setGravity(0, 0, -GRAVITY, **at)
        pybullet.setPhysicsEngineParameter(
            fixedTimeStep=self.config.dt / self._substeps,
            numSolverIterations=int(SWEEPS * max(self.config.friction, 1 / 3)),
            solverResidualThreshold=0.0,
            enableConeFriction=1,
            contactBreakingThreshold=CLEARANCE,
            contactSlop=0.0,
            deterministicOverlappingPairs=1,
            **at,
        )
        plane = self._add_plane()
        self._pusher_id = self._add_pusher(pusher)
        self._slider_id = self._add_slider(object_pose)
        for slider_link, other, other_link in ((-1, plane, -1), (1, self._pusher_id, 1)):
            pybullet.setCollisionFilterPair(self._slider_id, other, slider_link, other_link, 0, **at)
        pybullet.setCollisionFilterPair(plane, self._pusher_id, -1, 1, 0, **at)
        for _ in range(round(SETTLE * self._substeps / self.config.dt)):
            pybullet.stepSimulation(**at)

    def _advance(self, velocity: Array) -> None:
        at, step = self._at, self.config.dt / self._substeps
        for k in range(self._substeps):
            self._move_pusher(self._pusher + k * step * velocity, velocity)
            pybullet.stepSimulation(**at)
        self._move_pusher(self._pusher + self.config.dt * velocity, np.zeros(2))

    def _slider(self) -> tuple[Array, Array]:
        position, quaternion = pybullet.getBasePositionAndOrientation(self._slider_id, **self._at)
        rotation = np.array(pybullet.getMatrixFromQuaternion(quaternion)).reshape(3, 3)
        return np.array(position) - rotation @ np.append(self.config.center_of_mass, self.config.height / 2), rotation

    def _image(self) -> NDArray[np.uint8]:
        size, distance = self.image_size, 20 * self.config.workspace
        view = pybullet.computeViewMatrix([0, 0, distance], [0, 0, 0], [0, 1, 0])
        projection = pybullet.computeProjectionMatrixFOV(2 * np.degrees(np.arctan(0.05)), 1.0, 0.9 * distance, 1.1 * distance)
        image = pybullet.getCameraImage(size, size, view, projection, lightDirection=[1, 1, 3], renderer=pybullet.ER_TINY_RENDERER, **self._at)
        return np.array(image[2], dtype=np.uint8).reshape(size, size, 4)[..., :3].copy()

    def _move_pusher(self, position: Array, velocity: Array) -> None:
        for axis in (0, 1):
            pybullet.resetJointState(self._pusher_id, axis, position[axis], velocity[axis], **self._at)

    def _add_plane(self) -> int:
        at = self._at
        shape = pybullet.createCollisionShape(pybullet.GEOM_PLANE, **at)
        look = pybullet.createVisualShape(pybullet.GEOM_BOX, halfExtents=[*[2 * self.config.workspace] * 2, 1e-4], rgbaColor=[0.9, 0.9, 0.88, 1], **at)
        plane = int(pybullet.createMultiBody(0, shape, look, **at))
        self._set_contact(plane, -1, friction=self.config.friction)
        return plane

    def _add_pusher(self, position: Array) -> int:
        at, radius, height = self._at, self.config.pusher_radius, self.config.height
        touch = pybullet.createCollisionShape(pybullet.GEOM_SPHERE, radius=radius, **at)
        look = pybullet.createVisualShape(pybullet.GEOM_CYLINDER, radius=radius, length=2 * height, rgbaColor=[0.8, 0.2, 0.15, 1], **at)
        pusher = int(
            pybullet.createMultiBody(
                baseMass=0,
                basePosition=[0, 0, height / 2],
                **_two_rails([1e6 * self.config.mass] * 2, touch, look),
                **at,
            )
        )
        for axis in (0, 1):
            pybullet.setJointMotorControl2(pusher, axis, pybullet.VELOCITY_CONTROL, force=0, **at)
            pybullet.resetJointState(pusher, axis, position[axis], 0.0, **at)
            self._set_contact(pusher, axis, friction=self.config.pusher_friction)
        return pusher

    def _add_slider(self, object_pose: Array) -> int:
        at, config = self._at, self.config
        half, center = config.height / 2, np.array(config.center_of_mass)
        ring = inset(config.vertices, MARGIN) - center
        corners = [[x, y, z] for z in (-half, half) for x, y in ring.tolist()]
        radius = min(0.002, config.height / 4)
        feet = [[x, y, radius - half] for x, y in (support_points(config.vertices) - center).tolist()]
        hull = pybullet.createCollisionShape(pybullet.GEOM_MESH, vertices=corners, **at)
        look = pybullet.createVisualShape(pybullet.GEOM_MESH, vertices=corners, indices=_prism_faces(len(ring)), rgbaColor=[0.2, 0.45, 0.75, 1], **at)
        # Bullet drops all but the first 16 shapes of a compound without a word; support_points gives no more than that
        stand = pybullet.createCollisionShapeArray([pybullet.GEOM_SPHERE] * len(feet), radii=[radius] * len(feet), collisionFramePositions=feet, **at)
        shares = {-1: 1 - 1.01 * STAND, 0: 0.01 * STAND, 1: STAND}  # of mass and inertia: hull, rail between the two joints, stand
        slider = int(
            pybullet.createMultiBody(
                baseMass=shares[-1] * config.mass,
                baseCollisionShapeIndex=hull,
                baseVisualShapeIndex=look,
                basePosition=[*place_points(object_pose, center).tolist(), half - GRAVITY * SUPPORT_TIME**2],
                baseOrientation=[0, 0, np.sin(object_pose[2] / 2), np.cos(object_pose[2] / 2)],
                **_two_rails([shares[0] * config.mass, shares[1] * config.mass], stand, -1),
                **at,
            )
        )
        for link, share in shares.items():
            self._set_contact(slider, link, friction=1.0)
            pybullet.changeDynamics(slider, link, localInertiaDiagonal=(share * config.inertia).tolist(), **at)
        for joint in (0, 1):
            pybullet.setJointMotorControl2(slider, joint, pybullet.POSITION_CONTROL, targetPosition=0, positionGain=0.2, force=1e4 * config.mass, **at)
        pybullet.changeDynamics(slider, -1, collisionMargin=MARGIN, **at)
        spring = config.mass / len(feet) / SUPPORT_TIME**2  # [N/m] each
        pybullet.changeDynamics(slider, 1, contactStiffness=spring, contactDamping=2 * spring * SUPPORT_TIME, **at)
        return slider

    def _set_contact(self, body: int, link: int, *, friction: float) -> None:
        """One coefficient of friction and nothing else: no rolling or spinning friction, no bounce, no drag."""
        nothing = dict.fromkeys(("rollingFriction", "spinningFriction", "restitution", "linearDamping", "angularDamping", "jointDamping"), 0.0)
        pybullet.changeDynamics(body, link, lateralFriction=friction, **nothing, **self._at)


def _two_rails(masses: list[float], shape: int, look: int) -> dict[str, Any]:
    """Arguments of createMultiBody for a link that slides along y on one that slides along x of the base, without turning."""
    still, upright = [[0, 0, 0]] * 2, [[0, 0, 0, 1]] * 2
    return {
        "linkMasses": masses,
        "linkCollisionShapeIndices": [-1, shape],
        "linkVisualShapeIndices": [-1, look],
        "linkPositions": still,
        "linkOrientations": upright,
        "linkInertialFramePositions": still,
        "linkInertialFrameOrientations": upright,
        "linkParentIndices": [0, 1],
        "linkJointTypes": [pybullet.JOINT_PRISMATIC] * 2,
        "linkJointAxis": [[1, 0, 0], [0, 1, 0]],
    }


def _prism_faces(count: int) -> list[int]:
    """Triangles of a prism whose vertices are `count` at the bottom, then as many at the top, counter-clockwise; seen from outside."""
    fans = [f for k in range(1, count - 1) for f in (0, k + 1, k, count, count + k, count + k + 1)]
    sides = [f for k in range(count) for f in (k, (k + 1) % count, count + k, count + k, (k + 1) % count, count + (k + 1) % count)]
    return fans + sides
