"""Scenes in which a deformable body is held, lifted, swung and stretched, simulated in PyBullet or Newton and recorded as cameras see it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structwm.geometry.soft_mesh import SoftMesh

from .soft_recording import Sensing, SoftRecording, observe

if TYPE_CHECKING:
    from .bullet_soft import Elastic, Springs

Array = NDArray[np.float64]

VERSION = 1  # of the scenes: raise it when they change, so that recordings that were kept are made again
DT = 1 / 30  # from frame to frame [s]
SETTLE = 10  # frames of rest before a recording
LIFT, RISE = 0.3, 0.6  # how far a body is lifted first [m], and in which time [s]


@dataclass(frozen=True)
class SoftObject:
    """A deformable object where it lies, and how it is held."""

    mesh: SoftMesh
    held: tuple[tuple[int, ...], ...]
    mass: float  # [kg]
    young: float = 1e4  # of a solid in PyBullet, twice the shear modulus in Newton [Pa]


def beam() -> SoftObject:
    """A bar of foam, 30 cm long, held at both ends."""
    mesh = SoftMesh.beam((10, 2, 2), (0.3, 0.06, 0.06)).placed((0, 0, 0.04))
    return SoftObject(mesh, _ends(mesh), 0.2, young=6e3)


def blob() -> SoftObject:
    """A soft ball, 14 cm wide, held at its top."""
    mesh = SoftMesh.ball(4, (0.14, 0.14, 0.12)).placed((0, 0, 0.07))
    return SoftObject(mesh, (mesh.within((0, 0, 0.13), 0.045),), 0.15, young=2.5e3)


def cloth() -> SoftObject:
    """A sheet of 30 cm, held at two corners."""
    mesh = SoftMesh.cloth((12, 12), (0.3, 0.3)).placed((0, 0, 0.02))
    return SoftObject(mesh, tuple(mesh.within((x, 0.15, 0.02), 0.03) for x in (-0.15, 0.15)), 0.05)


def rope() -> SoftObject:
    """A rope of 40 cm, held at both ends."""
    mesh = SoftMesh.rope(16, 0.4, 0.008).placed((0, 0, 0.015))
    return SoftObject(mesh, _ends(mesh), 0.04)


OBJECTS: dict[str, Callable[[], SoftObject]] = {"beam": beam, "blob": blob, "cloth": cloth, "rope": rope}
ENGINES = ("bullet", "newton")


def record_soft(
    engine: str, thing: str, seed: int = 0, *, frames: int = 100, sensing: Sensing | None = None, folder: str | Path | None = None
) -> SoftRecording:
    """A recorded motion of an object; the same for the same arguments, bit for bit on one machine.

    The object is lifted and swung; from 70 % of the frames on it is moved in another way (`controller_motion`), which a model that was fitted before has not
    seen.

    Args:
        engine: "bullet" or "newton".
        thing: "beam", "blob", "cloth" or "rope"; Newton has no rope.
        seed: of the motion; and of noise, where `sensing` is not given.
        frames: T.
        sensing: how it is observed.
        folder: where recordings are kept; one that is there is read instead.

    Raises:
        ValueError: on an engine or object that is not known.
        ImportError: if the engine is not installed.
    """
    if engine not in ENGINES or thing not in OBJECTS or (engine, thing) == ("newton", "rope"):
        raise ValueError(f"record_soft knows the engines {', '.join(ENGINES)} and objects {', '.join(OBJECTS)} (Newton no rope), got {engine!r}, {thing!r}.")
    if frames < 10:
        raise ValueError(f"record_soft needs ten frames at least, got {frames}.")
    sensing = sensing or Sensing(seed=seed)
    file = None if folder is None else Path(folder) / f"{engine}_{thing}_{seed}_{frames}_{_digest(sensing)}.npz"
    if file is not None and file.is_file():
        return SoftRecording.load(file)
    item = OBJECTS[thing]()
    split = round(0.7 * frames)
    start = np.array([item.mesh.nodes[list(nodes)].mean(0).tolist() for nodes in item.held])
    places = controller_motion(start, frames, split, seed)
    simulate = _in_bullet if engine == "bullet" else _in_newton
    nodes, velocities = simulate(item, np.diff(places, axis=0) / DT)
    recording = observe(nodes, torch.from_numpy(places), item.mesh, dt=DT, held=item.held, velocities=velocities, split=split, sensing=sensing)
    if file is not None:
        recording.save(file)
    return recording


def controller_motion(start: Array, frames: int, split: int, seed: int) -> Array:
    """Places of the controllers (T, C, 3) [m]: first up, then to and fro along x and nearer and farther from each other; from frame `split` on faster, in
    circles across, against each other.

    Args:
        start: (C, 3) [m].
        frames: T.
        split: where the other motion begins.
        seed: of amplitudes, rates and phases.
    """
    rng = np.random.default_rng(seed)
    count = len(start)
    time: Array = DT * np.arange(frames, dtype=np.float64)
    turn = DT * split
    lift = _ramp(time / RISE)
    swing, breathe = rng.uniform(0.06, 0.10), rng.uniform(0.015, 0.03)  # [m]
    rates = rng.uniform(0.8, 1.3, 2)  # [1/s]
    after = time - 0.8 * RISE
    first = _ramp(after / 0.3) * _ramp((turn - time) / 0.2)
    places = np.repeat(start[None], frames, 0)
    places[..., 2] += LIFT * lift[:, None]
    places[..., 0] += swing * (first * np.sin(2 * math.pi * rates[0] * after))[:, None]
    outward = start - start.mean(0)
    outward = outward / np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-9) * (count > 1)
    places -= breathe * (first * np.sin(2 * math.pi * rates[1] * after) ** 2)[:, None, None] * outward
    size, rate = rng.uniform(0.04, 0.07), rng.uniform(1.4, 2.0)
    second = _ramp((time - turn) / 0.2)
    for c in range(count):
        angle = 2 * math.pi * rate * (time - turn) * (-1) ** c + rng.uniform(0, 2 * math.pi)
        places[:, c, 1] += size * second * np.cos(angle)
        places[:, c, 2] += size * second * np.sin(angle)
    return places


def _ramp(t: Array) -> Array:
    """From 0 to 1 as t goes from 0 to 1, without a jump of speed."""
    found: Array = 0.5 - 0.5 * np.cos(math.pi * np.clip(t, 0, 1))
    return found


def _ends(mesh: SoftMesh) -> tuple[tuple[int, ...], ...]:
    """Nodes at the least and the greatest x."""
    x = mesh.nodes[:, 0]
    return tuple(tuple((x - end).abs().le(1e-6).nonzero().flatten().tolist()) for end in (x.min(), x.max()))


def _digest(sensing: Sensing) -> str:
    import hashlib

    return hashlib.sha256(repr((VERSION, sensing)).encode()).hexdigest()[:8]


def bullet_material(item: SoftObject, damping: float = 1.0) -> tuple[Elastic | Springs, float]:
    """What an object is of in PyBullet, `damping` times as damped as it is recorded, and how many steps a second the engine needs for it."""
    from .bullet_soft import Elastic, Springs

    if item.mesh.tetrahedra is None:
        return Springs(stiffness=100.0, damping=0.2 * damping, bending=0.5), 240.0
    if item.mass < 0.1:
        return Springs(stiffness=100.0, damping=0.2 * damping), 480.0
    return Elastic(young=item.young, damping=3e-3 * damping), 480.0


def _in_bullet(item: SoftObject, velocities: Array) -> tuple[Tensor, Tensor]:
    """Nodes (T, P, 3) [m] and their velocities in the first frame (P, 3) [m/s] under the controllers' velocities (T - 1, C, 3) [m/s]."""
    from .bullet_soft import BulletSoft, SoftConfig

    material, rate = bullet_material(item)
    config = SoftConfig(item.mesh, item.mass, material, grippers=item.held, dt=DT, rate=rate, max_speed=10.0)
    with BulletSoft(config) as world:
        before = nodes = world.reset()
        still = np.zeros((len(item.held), 3))
        for _ in range(SETTLE):
            before, nodes = nodes, world.step(still)
        motion = [nodes, *(world.step(velocity) for velocity in velocities)]
    return torch.from_numpy(np.array(motion)), torch.from_numpy((nodes - before) / DT)


def _in_newton(item: SoftObject, velocities: Array) -> tuple[Tensor, Tensor]:
    """As `_in_bullet`."""
    from structwm.physics.newton_soft import NewtonSoftTwin
    from structwm.physics.rigid_world import GROUND
    from structwm.physics.soft_world import SoftBody, SoftWorld

    solid = item.mesh.tetrahedra is not None
    world = SoftWorld((SoftBody("body", item.mesh),), driven=item.held, obstacles=(GROUND,))
    values = {"density": item.mass / (item.mesh.volume if solid else item.mesh.area)}
    if solid:
        values |= {"shear_modulus": item.young / 2, "lame_lambda": item.young / 2, "viscosity": 1e-3 * item.young}
    twin = NewtonSoftTwin(world, dt=DT, substeps=20, values=values)
    actions = torch.cat((torch.zeros(SETTLE, 3 * len(item.held)), torch.from_numpy(velocities).float().flatten(1)))
    states = twin.rollout(twin.state(), actions).states[SETTLE:]
    return states.positions, states.velocities[0]
