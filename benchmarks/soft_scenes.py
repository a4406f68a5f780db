"""Objects of `record_soft` met again: in another place, turned, hanging from another grip, moved in another way."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from structwm.geometry.soft_mesh import SoftMesh
from structwm.worlds import Sensing, SoftRecording
from structwm.worlds.bullet_soft import BulletSoft, SoftConfig
from structwm.worlds.soft_recording import observe
from structwm.worlds.soft_scenarios import DT, OBJECTS, SoftObject, bullet_material, controller_motion

VERSION = 2  # raise it when the scenes change
TURN, PLACE, HEIGHT = 2.2, (0.4, -0.3), 0.45  # yaw [rad], where in the plane and how high [m]
SETTLE, DAMPED = 150, 4.0  # frames in which a body comes to rest below its new grip, and how many times as damped meanwhile
KEPT = Path(__file__).parents[1] / "build" / "soft_recordings"  # made once, read afterwards


@dataclass(frozen=True)
class Meeting:
    """An object and where it is held the second time."""

    thing: str
    name: str
    grips: tuple[tuple[float, float, float], ...]  # places on the shape at rest, in its own frame [m]
    reach: float  # of a grip [m]
    tilt: float = 0.0  # about its own x axis before it is let go [rad]


MEETINGS = (
    Meeting("beam", "one end", ((-0.15, 0.0, 0.04),), 0.045),
    Meeting("beam", "middle", ((0.0, 0.0, 0.04),), 0.045),
    Meeting("cloth", "other side", ((-0.15, -0.15, 0.02), (0.15, -0.15, 0.02)), 0.03, -1.4),
    Meeting("cloth", "middle and corner", ((0.15, 0.15, 0.02), (0.0, 0.0, 0.02)), 0.03),
)


def met_again(meeting: Meeting, *, seed: int = 1, frames: int = 100) -> SoftRecording:
    """The object as cameras see it; frame 0 is at rest below the grip. Kept beside other recordings."""
    file = KEPT / f"again_{hashlib.sha256(repr((VERSION, meeting, seed, frames)).encode()).hexdigest()[:12]}.npz"
    if file.is_file():
        return SoftRecording.load(file)
    item = OBJECTS[meeting.thing]()
    c, s = math.cos(TURN), math.sin(TURN)
    ct, st = math.cos(meeting.tilt), math.sin(meeting.tilt)
    yaw = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    turn = yaw @ torch.tensor([[1.0, 0.0, 0.0], [0.0, ct, -st], [0.0, st, ct]], dtype=torch.float64)
    mesh = item.mesh.placed((*PLACE, HEIGHT), turn)
    held = tuple(item.mesh.within(place, meeting.reach) for place in meeting.grips)
    nodes, velocities, places = _simulated(item, mesh, held, seed, frames)
    found = observe(nodes, places, item.mesh, dt=DT, held=held, velocities=velocities, split=round(0.7 * frames), sensing=Sensing(seed=seed))
    found.save(file)
    return found


def _simulated(item: SoftObject, mesh: SoftMesh, held: Sequence[tuple[int, ...]], seed: int, frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Nodes (T, P, 3) [m], their velocities at first (P, 3) [m/s] and the grips (T, C, 3) [m], for the object with its mesh elsewhere."""

    def config(damping: float) -> SoftConfig:
        material, rate = bullet_material(item, damping)
        return SoftConfig(mesh, item.mass, material, grippers=tuple(held), ground=False, dt=DT, rate=rate, max_speed=10.0)

    def rest(world: BulletSoft, count: int) -> list[np.ndarray]:
        return [world.step(np.zeros((len(held), 3))) for _ in range(count)]

    with BulletSoft(config(DAMPED)) as world:
        world.reset()
        hanging = rest(world, SETTLE)[-1]
    with BulletSoft(config(1.0)) as world:
        world.reset(nodes=hanging)
        places = controller_motion(world.controllers, frames, round(0.7 * frames), seed)
        before, nodes = rest(world, 30)[-2:]
        motion = [nodes, *(world.step(velocity) for velocity in np.diff(places, axis=0) / DT)]
    return torch.from_numpy(np.array(motion)), torch.from_numpy((nodes - before) / DT), torch.from_numpy(places)
