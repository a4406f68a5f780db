"""What is refused before work starts: starts that cannot be, and numbers in the wrong unit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structwm.geometry import quaternion_conjugate, quaternion_multiply, quaternion_to_rotation_vector

from .rigid_parameters import extent
from .rigid_program import core_of, owners, touching
from .rigid_scene import RigidState, _solid, _surface_points

LARGE, SMALL = 30.0, 1 / 30  # a factor by which numbers are off that are in another unit: degrees 57, millimetres 1000


def check_start(twin: Any, state: RigidState, *, depth: float = 0.25) -> None:
    """See `WorldTwin.check_start`."""
    world, scene = twin.world, twin.scene
    for field, value in (("configuration", state.configuration), ("velocity", state.velocity)):
        if not bool(value.isfinite().all()):
            raise ValueError(f"The start state's {field} holds numbers that are not finite.")
    poses = scene.kinematics(state)[0].reshape(-1, len(world.bodies), 7)
    raw, at = state.configuration.reshape(-1, state.configuration.shape[-1]), 0
    for body in world.bodies:
        width = body.joint.kind.sizes[0]
        if width == 7:
            length = raw[:, at + 3 : at + 7].norm(dim=-1)
            if bool(((length - 1).abs() > 0.01).any()):
                worst = float(length[(length - 1).abs().argmax()])
                raise ValueError(f"The start pose of {body.name!r} needs a unit quaternion wxyz after the position, got one of length {worst:.3g}.")
        at += width
    things = (*world.bodies, *world.fixtures)
    everything = owners(world)
    for one, other in touching(world):
        for first, second in ((one, other), (other, one)):
            index, geometries = everything[first]
            if index < 0 or not geometries:
                continue
            points = torch.cat([_surface_points(geometries, 64), *(_core_points(g) for g in geometries)]).to(poses)
            from structwm.geometry import to_world

            seen = to_world(poses[:, index], points.expand(len(poses), -1, 3))
            for geometry in everything[second][1]:
                pose = None if everything[second][0] < 0 else poses[:, everything[second][0]]
                inside = -_solid(geometry, pose, like=poses).signed_distance(seen).amin(-1)
                sizes = [extent(things[k]) for k in (first, second) if everything[k][0] >= 0]
                offset = float(twin.values.get(f"{things[second].name}.offset", torch.zeros(())).max())
                if float(inside.max()) > depth * min(sizes) + abs(offset):
                    where = int(inside.argmax())
                    raise ValueError(
                        f"{things[first].name!r} starts {float(inside.max()):.3g} m deep in {things[second].name!r} (start {where}); "
                        "move it out, or check frames and units."
                    )


def _core_points(geometry: Any) -> Tensor:
    from structwm.geometry import quaternion_rotate

    core, _, _ = core_of(geometry)
    turn = torch.tensor(geometry.rotation, dtype=torch.float64).expand(len(core), 4)
    return quaternion_rotate(turn, torch.from_numpy(core).double()) + torch.tensor(geometry.position, dtype=torch.float64)


def check_units(name: str, poses: Tensor, twists: Tensor, times: Tensor, size: float) -> None:
    """Refuse poses (T, 7) and twists (T, 6) of one body whose numbers contradict each other or its size [m].

    Raises:
        ValueError: says which number is off, and by about which factor.
    """
    position, turn = poses[:, :3], poses[:, 3:]
    step = times.diff()
    if len(times) < 2 or not bool((step > 0).all()):
        raise ValueError(f"{name}: expected at least two instants at rising times [s], got {len(times)}.")
    travelled = float((position - position[0]).norm(dim=-1).max())
    if travelled > 1000 * size:
        raise ValueError(f"{name}: moves by {travelled:.3g} m, {travelled / size:.0f} times its size of {size:.3g} m; are its positions in millimetres?")
    moved = position.diff(dim=0) / step.unsqueeze(-1)
    turned = quaternion_to_rotation_vector(quaternion_multiply(turn[1:], quaternion_conjugate(turn[:-1]))) / step.unsqueeze(-1)
    for label, seen, stated, unit, hint in (
        ("velocity", moved, twists[1:, :3], "m/s", "millimetres or frames"),
        ("angular velocity", turned, twists[1:, 3:], "rad/s", "degrees or frames"),
    ):
        known = seen.isfinite().all(-1) & stated.isfinite().all(-1)
        a, b = float(seen[known].norm(dim=-1).mean()) if bool(known.any()) else 0.0, float(stated[known].norm(dim=-1).mean()) if bool(known.any()) else 0.0
        floor = 0.02 * size / float(times[-1] - times[0]) if label == "velocity" else 0.02 / float(times[-1] - times[0])
        if max(a, b) > 10 * floor and not SMALL * a < b < LARGE * a:
            raise ValueError(f"{name}: states a mean {label} of {b:.3g} {unit}, its poses show {a:.3g}; is one of them in {hint}?")
