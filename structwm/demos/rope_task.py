"""A rope in PyBullet that grippers hold, and shapes to bring it to: goals are what random other motions of the same grippers led to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structwm.geometry import SoftMesh, chamfer
from structwm.render.mesh_views import points_on_mesh
from structwm.worlds import BulletSoft, SoftConfig
from structwm.worlds.bullet_soft import Springs

Array = NDArray[np.float64]
Kind = Literal["air", "ground", "one end"]
KINDS: tuple[Kind, ...] = ("air", "ground", "one end")
CLEARANCE = 0.0071  # of the middle of a rope of 8 mm radius that lies on the ground [m]
STILL = 0.006  # speed of the nodes below which the rope is at rest [m/s]
CALM = 0.6  # for which time [s]
RESTING = 15.0  # time that it is given for that at most [s]
SIDE = 5  # places on each edge at which shapes are compared


@dataclass(frozen=True)
class RopeTask:
    """The rope, how it is held, and how far goals are."""

    length: float = 0.4  # [m]
    radius: float = 0.008  # [m]
    segments: int = 16  # of the simulated rope
    mass: float = 0.04  # [kg]
    springs: Springs = field(default_factory=lambda: Springs(stiffness=100.0, damping=0.2, bending=10.0))
    friction: float = 0.5  # on the ground
    dt: float = 0.2  # control period [s]
    rate: float = 480.0  # physics steps per second
    speed: float = 0.2  # bound of each component of a gripper's velocity [m/s]
    least: float = 0.05  # chamfer distance from start to goal below which another goal is drawn [m]
    stretch: float = 0.15  # elongation of an edge of the centre line that a run must not exceed [-]; hanging at rest stretches some by 0.08

    def mesh(self) -> SoftMesh:
        """The rope straight along x on the ground."""
        return SoftMesh.rope(self.segments, self.length, self.radius).placed((0, 0, CLEARANCE * self.radius / 0.008))

    def held(self, kind: Kind) -> tuple[tuple[int, ...], ...]:
        """The nodes that each gripper holds: a section at one end, or at both. Grippers do not turn."""
        last = 3 * self.segments
        return ((0, 1, 2),) if kind == "one end" else ((0, 1, 2), (last, last + 1, last + 2))

    def world(self, kind: Kind) -> BulletSoft:
        """A world of its own."""
        config = SoftConfig(self.mesh(), self.mass, self.springs, grippers=self.held(kind), friction=self.friction, dt=self.dt, rate=self.rate, max_speed=10.0)
        return BulletSoft(config)

    @property
    def floor(self) -> float:
        """Least height of a gripper [m]."""
        return CLEARANCE * self.radius / 0.008


@dataclass(frozen=True)
class RopeTrial:
    """A start and a goal, both at rest."""

    kind: Kind
    start: Array  # (P, 3) nodes [m]
    goal: Array  # (P, 3); for the judge alone
    cloud: Array  # (M, 3) what a controller sees of the goal: points of the surface, in no order [m]
    grippers: Array  # (G, 3) where they are at the goal; for baselines alone

    @property
    def distance(self) -> float:
        """Chamfer distance of the start from the goal [m]."""
        return float(shape_distance(self.start, self.goal))


def sections(nodes: Array | Tensor) -> Tensor:
    """The centre line (*B, V, 3) [m] of nodes (*B, 3 V, 3): the middle of each section."""
    tensor = torch.as_tensor(nodes)
    return tensor.unflatten(-2, (-1, 3)).mean(-2)


def shape_distance(a: Array | Tensor, b: Array | Tensor) -> Tensor:
    """Chamfer distance (*B) [m] between the centre lines of two ropes' nodes (*B, P, 3): the mean of both directions."""
    lines = []
    for nodes in (a, b):
        line = sections(nodes)
        share = torch.arange(SIDE, dtype=line.dtype)[:, None] / SIDE
        between = line[..., :-1, None, :] * (1 - share) + line[..., 1:, None, :] * share
        lines.append(torch.cat((between.flatten(-3, -2), line[..., -1:, :]), -2))
    return chamfer(*lines) / 2


def stretch_of(nodes: Array | Tensor, task: RopeTask) -> Tensor:
    """The greatest elongation of an edge of the centre line (*B) [-]."""
    return sections(nodes).diff(dim=-2).norm(dim=-1).amax(-1) * task.segments / task.length - 1


def make_trials(task: RopeTask, count: int, *, seed: int, kinds: Sequence[Kind] = KINDS, points: int = 300, noise: float = 0.002) -> list[RopeTrial]:
    """Trials of all kinds in turn; goals nearer than `task.least` and stretched ones are drawn again.

    Args:
        task: the rope.
        count: of trials.
        seed: of everything random.
        kinds: that take turns.
        points: of the surface of the goal that a controller sees.
        noise: std of each of their coordinates [m].
    """
    trials = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        rng = np.random.default_rng((seed, number))
        for start, goal, grippers in _pairs(task, kind, rng):  # noqa: B007
            if shape_distance(start, goal) >= task.least and max(float(stretch_of(n, task)) for n in (start, goal)) < 0.6 * task.stretch:
                break
        trials.append(RopeTrial(kind, start, goal, _surface(task, goal, points, rng) + noise * rng.normal(size=(points, 3)), grippers))
    return trials


def _surface(task: RopeTask, nodes: Array, points: int, rng: np.random.Generator) -> Array:
    mesh = task.mesh()
    faces, weights = points_on_mesh(mesh.surface(), points, seed=int(rng.integers(2**31)))
    found: Array = np.einsum("qk,qkd->qd", weights.double().numpy(), nodes[mesh.triangles[faces].numpy()])
    return found


def _pairs(task: RopeTask, kind: Kind, rng: np.random.Generator) -> Iterator[tuple[Array, Array, Array]]:
    """Start, goal and the grippers' places at the goal, without end: each is where the next motion leads from the one before."""
    with task.world(kind) as world:
        while True:
            world.reset()
            nodes = []
            for _ in range(2):
                for waypoint in _waypoints(task, kind, world.controllers, rng):
                    move(world, waypoint, speed=0.75 * task.speed, lift=task.length * rng.uniform(0.1, 0.3) if kind == "ground" else 0.0)
                nodes.append(rest(world))
            yield nodes[0], nodes[1], world.controllers


def _waypoints(task: RopeTask, kind: Kind, places: Array, rng: np.random.Generator) -> Iterator[Array]:
    """Places of the grippers (G, 3) to go to one after another."""
    if kind == "one end":
        heading = rng.uniform(-math.pi, math.pi)
        for _ in range(rng.integers(2, 4)):
            heading += rng.uniform(-1.6, 1.6)
            places = places + task.length * rng.uniform(0.2, 0.4) * np.array([math.cos(heading), math.sin(heading), 0.0])
            yield places
        return
    for _ in range(1 if kind == "air" else 2):
        middle, (dx, dy, _) = places.mean(0), places[1] - places[0]
        yaw, apart = math.atan2(dy, dx) + rng.uniform(-1.0, 1.0), task.length * rng.uniform(0.35, 0.9)
        half = apart / 2 * np.array([math.cos(yaw), math.sin(yaw), 0.0])
        middle = middle + task.length * np.array([*rng.uniform(-0.4, 0.4, 2), 0.0])
        middle[2] = task.floor
        if kind == "air":
            middle[2] = task.length * rng.uniform(0.6, 0.9)
            half[2] = min(0.2 * task.length, 0.4 * apart) * rng.uniform(-1, 1)
        places = np.stack((middle - half, middle + half))
        yield places


def move(world: BulletSoft, places: Array, *, speed: float, lift: float = 0.0) -> None:
    """Move the grippers to places (G, 3) [m], the fastest at `speed` on average [m/s], without jumps of speed: straight, or over an arc `lift` high [m]."""
    start, dt = world.controllers, world.config.dt
    steps = max(2, math.ceil((float(np.linalg.norm(places - start, axis=-1).max()) + 2 * lift) / speed / dt))
    share = 0.5 - 0.5 * np.cos(math.pi * np.arange(1, steps + 1) / steps)
    for part in share:
        up = np.array([0.0, 0.0, lift * math.sin(math.pi * part)])
        world.step((start + part * (places - start) + up - world.controllers) / dt)


def rest(world: BulletSoft) -> Array:
    """Hold the grippers until the rope is at rest, for longer than it takes to turn back in a swing; its nodes (P, 3) [m]."""
    still, nodes, calm = np.zeros_like(world.controllers), world.nodes, 0.0
    for _ in range(math.ceil(RESTING / world.config.dt)):
        before, nodes = nodes, world.step(still)
        speed = float(np.linalg.norm(nodes - before, axis=-1).max()) / world.config.dt
        calm = calm + world.config.dt if speed < STILL else 0.0
        if calm >= CALM:
            break
    return nodes
