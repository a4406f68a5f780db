"""What is refused before work starts: starts that cannot be, and numbers in the wrong unit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structwm.geometry import quaternion_conjugate, quaternion_multiply, quaternion_to_rotation_vector

from .rigid_parameters import extent
from .rigid_program import core_of, owners, touching
from .rigid_scene import RigidState, _solid, _surface_points

CONTRADICTS = 6.0  # a factor by which rates are off that are in another unit: centimetres 100, degrees 57, frames at 10 Hz 10
FAR = 1000.0  # of its own size that no body moves; a tenth of it is too far for what is faster than FAST
FAST = 20.0  # [m/s]
MOVED = 0.25  # of its size, or radians, by which a body must move before its rates are judged


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
    turned = quaternion_to_rotation_vector(quaternion_multiply(turn[1:], quaternion_conjugate(turn[:-1])))
    check_rates(f"{name}: states a mean velocity", "m/s", "millimetres or frames", position.diff(dim=0), twists[:, :3], step, MOVED * size)
    check_rates(f"{name}: states a mean angular velocity", "rad/s", "degrees or frames", turned, twists[:, 3:], step, MOVED)
    travelled = float((position - position[0]).norm(dim=-1).max())
    speed = float(position.diff(dim=0).norm(dim=-1).sum() / step.sum())
    if travelled > FAR * size or (travelled > FAR / 10 * size and speed > FAST):
        raise ValueError(
            f"{name}: moves by {travelled:.3g} m, {travelled / size:.0f} times its size of {size:.3g} m, at {speed:.3g} m/s; is its unit the metre, "
            "and not millimetres?"
        )


def check_rates(states: str, unit: str, hint: str, moves: Tensor, rates: Tensor, step: Tensor, floor: float) -> None:
    """Refuse rates (T, D) that do not add up to moves (T - 1, D) over steps (T - 1,) [s].

    Sums over many steps are compared, in which the noise of single positions cancels, and only where they are well above it and above `floor`.
    """
    stated = 0.5 * (rates[:-1] + rates[1:]) * step.unsqueeze(-1)
    known = (moves.isfinite() & stated.isfinite()).all(-1)
    if int(known.sum()) < 2:
        return
    moves, stated, step = moves[known], stated[known], step[known]
    jumps = moves.diff(dim=0).norm(dim=-1).median()
    for count in {max(len(step) // parts, 1) for parts in (1, 4, 16)}:
        seen, said = (_sums(part, count).norm(dim=-1).mean() for part in (moves, stated))
        if float(torch.maximum(seen, said)) > max(floor, 10 * float(jumps)) and not 1 / CONTRADICTS < float(said / seen.clamp_min(1e-30)) < CONTRADICTS:
            took = float(_sums(step.unsqueeze(-1), count).mean())
            raise ValueError(f"{states} of {float(said) / took:.3g} {unit}, what was seen shows {float(seen) / took:.3g}; is one of them in {hint}?")


def _sums(values: Tensor, count: int) -> Tensor:
    """Sums over `count` rows in a row, (T - count + 1, D)."""
    total = torch.cat((torch.zeros_like(values[:1]), values.cumsum(0)))
    return total[count:] - total[:-count]
