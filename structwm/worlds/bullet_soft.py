"""Deformable bodies in PyBullet: solids, cloths and ropes that grippers hold and pushers push, as a source of recordings and as the plant of a controller."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pybullet
from numpy.typing import ArrayLike, NDArray

from structwm.geometry.soft_mesh import SoftMesh

Array = NDArray[np.float64]

GRAVITY = 9.81  # [m/s^2]
UNITS = 10.0  # engine's lengths in a metre; its tolerances are made for bodies of about one of its units
SDF_CELL = 0.01  # of the grid in which the engine keeps distances to rigid shapes [m]; coarser does not resolve small pushers
GROUND = (5.0, 0.5)  # half-width and half-depth of the box that is the ground [m]


@dataclass(frozen=True)
class Elastic:
    """A solid of compressible Neo-Hookean tetrahedra.

    Elastic forces are explicit in the engine: without damping its steps gain energy and the body explodes, and stiff bodies of many light nodes may creep under
    their weight far beyond what they should. A beam of 100 g in 16 x 4 x 4 cells did so at 400 kPa, but not at 100 kPa with a damping of 5 ms.
    """

    young: float = 5e4  # stiffness in tension [Pa]
    poisson: float = 0.3  # lateral contraction [-]; nearer to 0.5 keeps the volume more
    damping: float = 2e-3  # viscosity over stiffness [s]; larger dies out faster


@dataclass(frozen=True)
class Springs:
    """Springs along the edges of triangles or tetrahedra, and across them to bend."""

    stiffness: float = 50.0  # of each [N/m]
    damping: float = 0.1  # of each along itself [N s/m]
    bending: float = 0.0  # of each that joins nodes two edges apart [N/m]; larger folds less


@dataclass(frozen=True)
class Pusher:
    """A ball, or an upright capsule, that moves as commanded and pushes what it meets."""

    position: tuple[float, float, float]  # of its centre at the start [m]
    radius: float = 0.01  # [m]
    half_length: float = 0.0  # of the capsule's segment [m]; 0 is a ball


@dataclass(frozen=True, eq=False)
class SoftConfig:
    """A deformable body and what moves it. SI units; world z up.

    Raises:
        ValueError: in one sentence, for a value out of its range, a gripper without nodes or with one of another gripper, or a sheet of `Elastic`.
    """

    mesh: SoftMesh  # where it starts
    mass: float = 0.1  # [kg], equal at all nodes
    material: Elastic | Springs = field(default_factory=Springs)
    grippers: tuple[tuple[int, ...], ...] = ()  # nodes that each holds
    pushers: tuple[Pusher, ...] = ()
    ground: bool = True  # whether there is one at z = 0
    friction: float = 0.5  # Coulomb coefficient on the ground and the pushers
    margin: float = 0.003  # distance that nodes keep from what they touch [m]
    self_collision: bool = False
    gravity: float = GRAVITY  # [m/s^2]
    dt: float = 1 / 30  # control period [s]
    rate: float = 240.0  # physics steps per second, at least; elastic forces are explicit, so stiff and light bodies need more
    max_speed: float = 2.0  # bound of each component of the action [m/s]
    start_spread: tuple[float, float] = (0.0, 0.0)  # std of where a seed puts the whole scene (per axis in the plane) [m] and how far it turns it [rad]

    def __post_init__(self) -> None:
        for name in ("mass", "margin", "dt", "rate", "max_speed"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"SoftConfig needs {name} > 0, got {value}.")
        if not 0 <= self.friction <= 2:
            raise ValueError(f"SoftConfig needs friction in [0, 2], got {self.friction}.")
        if isinstance(self.material, Elastic) and self.mesh.tetrahedra is None:
            raise ValueError("SoftConfig needs a mesh of tetrahedra for an Elastic material; a sheet is made of Springs.")
        held = [node for nodes in self.grippers for node in nodes]
        count = len(self.mesh.nodes)
        if any(not nodes for nodes in self.grippers) or len(set(held)) < len(held) or not set(held) <= set(range(count)):
            raise ValueError(f"SoftConfig.grippers needs groups of the {count} nodes that are not empty and share none, got {self.grippers}.")

    @property
    def controllers(self) -> int:
        """C: grippers, then pushers."""
        return len(self.grippers) + len(self.pushers)


class BulletSoft:
    """A deformable body in a PyBullet client of its own; equal seeds and actions give equal motion bit for bit.

    What PyBullet would get wrong, and what is done about it:

    - Nodes rest ten centimetres above its infinite plane: the ground is the upper face of a box.
    - It keeps distances to rigid shapes on a grid whose cells are a quarter of a unit, in which a small pusher is lost: cells are of a centimetre.
    - Its tolerances are absolute: a unit of the engine is a decimetre, in which thin elastic bodies stay stable that explode in metres.
    - Springs take their rest lengths from where the nodes are at its first step: one is made before the nodes are put where the body starts.
    - A tetrahedron turned inside out explodes at once: `SoftMesh` has none.
    - A body at rest for two seconds falls asleep, and no gripper that moves wakes it: it never sleeps.
    - A gripper is a kinematic body, placed anew before each physics step, to which nodes are anchored; it touches nothing.
    """

    def __init__(self, config: SoftConfig) -> None:
        self.config = config
        self.time = 0.0  # since the reset [s]
        self._substeps = max(1, math.ceil(config.dt * config.rate - 1e-9))
        self._client: int | None = pybullet.connect(pybullet.DIRECT)
        self._places = np.zeros((config.controllers, 3))

    def close(self) -> None:
        """End the client."""
        if self._client is not None:
            pybullet.disconnect(self._client)
        self._client = None

    def __enter__(self) -> BulletSoft:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _at(self) -> dict[str, int]:
        """The keyword that every call takes: this world's client."""
        if self._client is None:
            raise RuntimeError("this world is closed; make a new one.")
        return {"physicsClientId": self._client}

    @property
    def nodes(self) -> Array:
        """Positions of the nodes (P, 3) [m]."""
        _, found = pybullet.getMeshData(self._body, -1, flags=pybullet.MESH_DATA_SIMULATION_MESH, **self._at)
        return np.array(found, dtype=np.float64) / UNITS

    @property
    def controllers(self) -> Array:
        """Positions of the grippers and pushers (C, 3) [m]; a gripper's is the middle of the nodes that it holds."""
        return self._places.copy()

    def reset(self, seed: int = 0, *, nodes: ArrayLike | None = None) -> Array:
        """Start anew; the nodes (P, 3) [m].

        Args:
            seed: says where the scene is, if the configuration leaves that open.
            nodes: (P, 3) where the body starts, at rest but deformed [m]; as its mesh if not given.

        Raises:
            ValueError: on nodes of another shape or that are not finite.
        """
        at, config = self._at, self.config
        position, turn = self._placement(seed)
        start = config.mesh.nodes.numpy() @ turn.T + position
        bent = start if nodes is None else np.array(nodes, dtype=np.float64)
        if bent.shape != start.shape or not np.isfinite(bent).all():
            raise ValueError(f"reset needs finite nodes {start.shape}, got {bent.shape}.")
        pybullet.resetSimulation(pybullet.RESET_USE_DEFORMABLE_WORLD, **at)
        pybullet.setPhysicsEngineParameter(fixedTimeStep=config.dt / self._substeps, sparseSdfVoxelSize=SDF_CELL * UNITS, deterministicOverlappingPairs=1, **at)
        self._body = self._add_body(start)
        pybullet.changeDynamics(self._body, -1, activationState=pybullet.ACTIVATION_STATE_DISABLE_SLEEPING, **at)
        if nodes is not None:
            pybullet.stepSimulation(**at)  # without gravity: nothing moves
            pybullet.resetMeshData(self._body, (UNITS * bent).tolist(), **at)
        pybullet.setGravity(0, 0, -config.gravity * UNITS, **at)
        if config.ground:
            self._add_ground()
        held = [bent[list(group)].mean(0) for group in config.grippers]
        pushing = [np.asarray(pusher.position) @ turn.T + position for pusher in config.pushers]
        self._places = np.array([*held, *pushing]).reshape(-1, 3)
        self._movers = [self._add_gripper(bent, group, place) for group, place in zip(config.grippers, held, strict=True)]
        self._movers += [self._add_pusher(pusher, place) for pusher, place in zip(config.pushers, pushing, strict=True)]
        self.time = 0.0
        return self.nodes

    def step(self, action: ArrayLike) -> Array:
        """The nodes (P, 3) [m] a control period later.

        Args:
            action: velocities of the grippers and pushers (C, 3) [m/s], clipped to the greatest speed.

        Raises:
            ValueError: on an action of another shape or that is not finite.
            FloatingPointError: if the body has exploded.
        """
        command = np.asarray(action, dtype=np.float64)
        if command.size != self._places.size or not np.isfinite(command).all():
            raise ValueError(f"this world needs finite velocities {self._places.shape}, got {command.tolist()}.")
        velocity = command.reshape(-1, 3).clip(-self.config.max_speed, self.config.max_speed)
        step = self.config.dt / self._substeps
        for _ in range(self._substeps):
            self._places = self._places + step * velocity
            for mover, place, speed in zip(self._movers, self._places, velocity, strict=True):
                pybullet.resetBasePositionAndOrientation(mover, (UNITS * place).tolist(), [0, 0, 0, 1], **self._at)
                pybullet.resetBaseVelocity(mover, (UNITS * speed).tolist(), [0, 0, 0], **self._at)
            pybullet.stepSimulation(**self._at)
        self.time += self.config.dt
        nodes = self.nodes
        reach = 100 * float(np.ptp(self.config.mesh.nodes.numpy(), axis=0).max())
        if not np.isfinite(nodes).all() or np.ptp(nodes, axis=0).max() > reach:
            raise FloatingPointError("the body has exploded; take more damping, a softer material or a shorter step.")
        return nodes

    def _placement(self, seed: int) -> tuple[Array, Array]:
        rng = np.random.default_rng(seed)
        away, yaw = self.config.start_spread
        x, y, angle = rng.normal(size=3) * (away, away, yaw)
        c, s = math.cos(angle), math.sin(angle)
        return np.array([x, y, 0.0]), np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

    def _add_body(self, start: Array) -> int:
        config, mesh = self.config, self.config.mesh
        options: dict[str, Any] = {"mass": config.mass, "collisionMargin": config.margin * UNITS, "frictionCoeff": config.friction, "scale": 1.0}
        options |= {"useSelfCollision": int(config.self_collision), "useFaceContact": 0}
        match config.material:
            case Elastic(young=young, poisson=poisson, damping=damping):
                mu, lame = young / (2 * (1 + poisson)), young * poisson / ((1 + poisson) * (1 - 2 * poisson))
                options |= {"useNeoHookean": 1, "NeoHookeanMu": mu / UNITS, "NeoHookeanLambda": lame / UNITS, "NeoHookeanDamping": damping}
            case Springs(stiffness=stiffness, damping=damping, bending=bending):
                options |= {"useMassSpring": 1, "springElasticStiffness": stiffness, "springDampingStiffness": damping, "springDampingAllDirections": 0}
                options |= {"useBendingSprings": int(bending > 0), "springBendingStiffness": bending}
        with tempfile.TemporaryDirectory() as folder:
            if mesh.tetrahedra is None:
                file = Path(folder) / "body.obj"
                write_obj(file, UNITS * start, mesh.triangles.numpy())
            else:
                file = Path(folder) / "body.vtk"
                write_vtk(file, UNITS * start, mesh.tetrahedra.numpy())
            with _quiet():
                return int(pybullet.loadSoftBody(str(file), **options, **self._at))

    def _add_ground(self) -> None:
        at, (width, depth) = self._at, GROUND
        shape = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=[UNITS * width, UNITS * width, UNITS * depth], **at)
        ground = pybullet.createMultiBody(0, shape, basePosition=[0, 0, -UNITS * depth], **at)
        pybullet.changeDynamics(ground, -1, lateralFriction=1.0, **at)  # the engine multiplies it by the body's

    def _add_gripper(self, start: Array, nodes: Sequence[int], place: Array) -> int:
        at = self._at
        shape = pybullet.createCollisionShape(pybullet.GEOM_SPHERE, radius=0.001 * UNITS, **at)
        gripper = int(pybullet.createMultiBody(0, shape, basePosition=(UNITS * place).tolist(), useMaximalCoordinates=1, **at))
        pybullet.setCollisionFilterGroupMask(gripper, -1, 0, 0, **at)
        for node in nodes:
            pybullet.createSoftBodyAnchor(self._body, node, gripper, -1, (UNITS * (start[node] - place)).tolist(), **at)
        return gripper

    def _add_pusher(self, pusher: Pusher, place: Array) -> int:
        at, radius = self._at, UNITS * pusher.radius
        if pusher.half_length > 0:
            shape = pybullet.createCollisionShape(pybullet.GEOM_CAPSULE, radius=radius, height=2 * UNITS * pusher.half_length, **at)
        else:
            shape = pybullet.createCollisionShape(pybullet.GEOM_SPHERE, radius=radius, **at)
        body = int(pybullet.createMultiBody(0, shape, basePosition=(UNITS * place).tolist(), **at))
        pybullet.changeDynamics(body, -1, lateralFriction=1.0, **at)
        return body


@contextmanager
def _quiet() -> Iterator[None]:
    """The engine prints the size of every tetrahedral mesh that it reads, past Python; meanwhile the standard output of the process leads nowhere."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def write_vtk(file: Path, nodes: Array, tetrahedra: NDArray[np.int64]) -> None:
    """A mesh of tetrahedra as a legacy VTK file, as the engine reads it."""
    lines = ["# vtk DataFile Version 2.0", "body", "ASCII", "DATASET UNSTRUCTURED_GRID", f"POINTS {len(nodes)} double"]
    lines += [f"{x:.17g} {y:.17g} {z:.17g}" for x, y, z in nodes.tolist()]
    lines += ["", f"CELLS {len(tetrahedra)} {5 * len(tetrahedra)}", *(f"4 {a} {b} {c} {d}" for a, b, c, d in tetrahedra.tolist())]
    lines += ["", f"CELL_TYPES {len(tetrahedra)}", *["10"] * len(tetrahedra), ""]
    file.write_text("\n".join(lines))


def write_obj(file: Path, nodes: Array, triangles: NDArray[np.int64]) -> None:
    """A mesh of triangles as a Wavefront file."""
    lines = [f"v {x:.17g} {y:.17g} {z:.17g}" for x, y, z in nodes.tolist()]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in triangles.tolist()]
    file.write_text("\n".join([*lines, ""]))
