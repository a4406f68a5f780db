"""Recordings of a soft block on the ground that a pusher pushes, in PyBullet, in the container of those of rigid bodies."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from structwm.geometry.soft_mesh import SoftMesh
from structwm.render.mesh_views import points_on_mesh

from .tabletop_config import CLEARANCE, Array, Box, CylinderPusher, SpherePusher, TabletopConfig
from .tabletop_episodes import SoftPush, TabletopEpisodes
from .tabletop_policy import push_policy
from .tabletop_recording import in_processes, one_episode

RATE = 480.0  # physics steps per second
SETTLE = 5  # control periods of rest before an episode
CELL = 0.025  # of the mesh, about [m]
TRIES = 5  # draws for an episode of which the engine makes nothing
SQUEEZED = 0.5  # share of its volume below which the engine has gone wrong
PUSHERS: dict[str, CylinderPusher | SpherePusher] = {"cylinder": CylinderPusher(0.015, 0.04), "sphere": SpherePusher(0.025)}


class SoftBlockFailed(RuntimeError):
    """The engine made no motion of a block that can be believed."""


def sample_soft(rng: np.random.Generator, pusher: CylinderPusher | SpherePusher | str = "cylinder") -> SoftPush:
    """A block of 8 to 13 by 6 to 10 by 4 to 6 cm, 5 to 20 kPa, 0.15 to 0.5 kg, friction 0.2 to 0.8: within what the engine's explicit elastic forces bear.

    Raises:
        ValueError: on an unknown pusher.
    """
    if isinstance(pusher, str) and pusher not in PUSHERS:
        raise ValueError(f"soft blocks are pushed by {' or '.join(map(repr, PUSHERS))}, got {pusher!r}.")
    size = (float(rng.uniform(0.08, 0.13)), float(rng.uniform(0.06, 0.10)), float(rng.uniform(0.04, 0.06)))
    x, y, z = (max(2, round(length / CELL)) for length in size)
    young = float(np.exp(rng.uniform(math.log(5e3), math.log(2e4))))
    made = PUSHERS[pusher] if isinstance(pusher, str) else pusher
    return SoftPush(size, (x, y, z), float(rng.uniform(0.15, 0.5)), young, float(rng.uniform(0.2, 0.8)), made)


def record_soft_pushes(
    episodes: int, steps: int, seed: int, *, points: int = 128, pusher: CylinderPusher | SpherePusher | str = "cylinder", workers: int = 1
) -> TabletopEpisodes:
    """Pushes of soft blocks, each of its own size, stiffness, friction and mass; the same for the same arguments bit for bit.

    One object of id 0 and no rigid bodies (K = 0). Nodes keep 3 mm from ground and pusher. A block that the engine squeezes to less than half its volume or
    that explodes is drawn anew.

    Args:
        episodes: R.
        steps: T - 1, control periods of an episode.
        seed: of everything.
        points: material points on the surface.
        pusher: "cylinder", "sphere" or one of any size.
        workers: processes that share the episodes.

    Raises:
        ValueError: on less than one episode, step or worker, and as `sample_soft`.
        SoftBlockFailed: if five blocks in a row go wrong.
    """
    if min(episodes, steps, points, workers) < 1:
        raise ValueError(f"record_soft_pushes needs episodes, steps, points and workers of at least 1, got {episodes}, {steps}, {points} and {workers}.")
    sample_soft(np.random.default_rng(0), pusher)  # refuses before any work is done
    return TabletopEpisodes.join(in_processes(partial(_record, steps, seed, points, pusher), episodes, workers))


def _record(steps: int, seed: int, points: int, pusher: CylinderPusher | SpherePusher | str, index: int) -> TabletopEpisodes:
    for attempt in range(TRIES):
        rng = np.random.default_rng((seed, index, attempt))
        try:
            return push_soft(sample_soft(rng, pusher), steps, points, rng)
        except FloatingPointError:
            continue
    raise SoftBlockFailed(f"{TRIES} soft blocks in a row went wrong in the engine; take softer or heavier ones.")


def push_soft(push: SoftPush, steps: int, points: int, rng: np.random.Generator) -> TabletopEpisodes:
    """One episode of a block at a random yaw in the middle, and a pusher that begins beside it.

    Raises:
        FloatingPointError: if the block explodes or loses half of its volume.
    """
    from .bullet_soft import BulletSoft, Elastic, Pusher, SoftConfig

    yaw = rng.uniform(-math.pi, math.pi)
    c, s = math.cos(yaw), math.sin(yaw)
    rest = SoftMesh.beam(push.cells, push.size)
    mesh = rest.placed((0.0, 0.0, push.size[2] / 2 + 0.004), torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=rest.nodes.dtype))
    half = push.pusher.half_height if isinstance(push.pusher, CylinderPusher) else 0.0
    away, around = math.hypot(*push.size[:2]) / 2 + push.pusher.radius + 0.02, rng.uniform(-math.pi, math.pi)
    place = (away * math.cos(around), away * math.sin(around), half + push.pusher.radius + CLEARANCE)
    material = Elastic(young=push.young, poisson=push.poisson, damping=push.damping)
    mover = Pusher(place, push.pusher.radius, half)
    stand_in = _as_box(push)
    policy = push_policy(rng)
    with BulletSoft(SoftConfig(mesh, push.mass, material, pushers=(mover,), friction=push.friction, dt=push.dt, rate=RATE)) as world:
        nodes = [world.reset()]
        for _ in range(SETTLE):
            nodes = [world.step(np.zeros((1, 3)))]
        pusher, actions = [world.controllers[0]], []
        for _ in range(steps):
            wanted = policy.act(stand_in, _pose_of(rest.nodes.numpy(), nodes[-1]), pusher[-1])
            target = np.clip(pusher[-1][:2] + push.dt * wanted, -push.workspace, push.workspace)
            actions.append((target - pusher[-1][:2]) / push.dt)
            nodes.append(_checked(mesh, world.step([[*actions[-1], 0.0]])))
            pusher.append(world.controllers[0])
    faces, weights = (part.numpy() for part in points_on_mesh(mesh.surface(), points, spread=True, seed=int(rng.integers(2**31))))
    positions = (weights[:, :, None] * np.array(nodes)[:, mesh.surface().faces.numpy()[faces]]).sum(2)
    ids = np.zeros(points, np.int64)
    return one_episode(push, positions, ids, ids, np.zeros((steps + 1, 0, 7)), np.array(pusher), np.array(actions))


def _checked(mesh: SoftMesh, nodes: Array) -> Array:
    if enclosed_volume(mesh, nodes) < SQUEEZED * mesh.volume:
        raise FloatingPointError("the block has lost half of its volume.")
    return nodes


def enclosed_volume(mesh: SoftMesh, nodes: Array) -> float:
    """Volume [m^3] inside a solid mesh's surface whose nodes are at (P, 3) [m]."""
    a, b, c = (nodes[mesh.triangles[:, k].numpy()] for k in range(3))
    return float((np.cross(a, b) * c).sum() / 6)


def _as_box(push: SoftPush) -> TabletopConfig:
    """The block as the policy sees it."""
    x, y, z = (length / 2 for length in push.size)
    return TabletopConfig(objects=(Box((x, y, z), push.mass, push.friction),), pusher=push.pusher, dt=push.dt, workspace=push.workspace)


def _pose_of(rest: Array, nodes: Array) -> Array:
    """Pose (1, 7) of the rigid motion in the plane that takes the nodes at rest nearest to where they are."""
    middle = nodes.mean(0)
    turned, still = (nodes - middle)[:, :2], (rest - rest.mean(0))[:, :2]
    yaw = math.atan2(float((still[:, 0] * turned[:, 1] - still[:, 1] * turned[:, 0]).sum()), float((still * turned).sum()))
    return np.array([[*middle, math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]])
