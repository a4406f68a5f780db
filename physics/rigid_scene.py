"""The state of a rigid world and the views of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from structwm.geometry import (
    Box,
    Capsule,
    HalfSpace,
    Mesh,
    MeshQuery,
    MeshSolid,
    Solid,
    Sphere,
    Union,
    normalize_quaternion,
    place_splats,
    quaternion_multiply,
    quaternion_rotate,
    quaternion_to_matrix,
    to_world,
)
from structwm.kernels.rigid_layout import JointKind
from structwm.scene import Scene, ViewMissing
from structwm.state import Points, Splats, State

from .rigid_program import core_of
from .rigid_world import BoxShape, CapsuleShape, ConvexShape, Geometry, PlaneShape, RigidWorld, SphereShape

POSE_NAMES = ("x", "y", "z", "qw", "qx", "qy", "qz")
TWIST_NAMES = ("vx", "vy", "vz", "wx", "wy", "wz")


class RigidState(State):
    """A rigid world at rest or in motion. The order of the numbers is that of the bodies; `RigidScene.coordinate_names` names them."""

    configuration: Tensor  # (*B, Q): of a free or driven body position [m] and quaternion wxyz of its frame, of a hinge its angle [rad], of a slide [m]
    velocity: Tensor  # (*B, V): of a free or driven body velocity of its origin [m/s] and angular velocity [rad/s], world frame, of a joint its rate


class RigidScene(Scene):
    """Reads the state of a rigid world.

    Args:
        world: its bodies.
        appearance: Gaussian splats of bodies, by name, each in its body's frame, batch size (); what else is to be seen has the name "".
        surface_points: how many points of each body's surface the points view shows.
        anchors: where the joints of bodies are in their parents, by name (*P, 3) [m], if elsewhere than the world says.
    """

    def __init__(
        self,
        world: RigidWorld,
        *,
        appearance: Mapping[str, Splats] | None = None,
        surface_points: int = 64,
        anchors: Mapping[str, Tensor] | None = None,
    ) -> None:
        names, units, periodic = [], [], []
        several = len(world.bodies) > 1
        for body in world.bodies:
            prefix = f"{body.name}." if several else ""
            kind = body.joint.kind
            if kind in (JointKind.FREE, JointKind.DRIVEN):
                names += [prefix + name for name in POSE_NAMES]
                units += ["m"] * 3 + [""] * 4
            elif kind is not JointKind.FIXED:
                names.append(f"{body.name}.angle" if kind is JointKind.HINGE else f"{body.name}.position")
                units.append("rad" if kind is JointKind.HINGE else "m")
                if kind is JointKind.HINGE:
                    periodic.append(names[-1])
        for body in world.bodies:
            prefix = f"{body.name}." if several else ""
            kind = body.joint.kind
            if kind in (JointKind.FREE, JointKind.DRIVEN):
                names += [prefix + name for name in TWIST_NAMES]
                units += ["m/s"] * 3 + ["rad/s"] * 3
            elif kind is not JointKind.FIXED:
                names.append(f"{body.name}.rate")
                units.append("rad/s" if kind is JointKind.HINGE else "m/s")
        super().__init__(coordinate_names=names, coordinate_units=units, periodic=periodic, body_names=[body.name for body in world.bodies])
        self.world, self.appearance, self.anchors, self.surface_points = world, dict(appearance or {}), dict(anchors or {}), surface_points
        unknown = sorted(set(self.appearance) - {*self.body_names, ""})
        if unknown:
            raise ValueError(f"RigidScene got the appearance of {unknown[0]!r}, which is no body; there are {', '.join(self.body_names)}.")

    def config(self) -> dict[str, Any]:
        return {"world": self.world, "appearance": self.appearance, "surface_points": self.surface_points, "anchors": self.anchors}

    @cached_property
    def _surface(self) -> list[Tensor]:
        """Points of each body's surface, body frame."""
        return [_surface_points(body.geometries, self.surface_points) for body in self.world.bodies]

    @property
    def views(self) -> frozenset[str]:
        return super().views - (frozenset() if self.appearance else {"splats"})

    def poses(self, state: RigidState) -> Tensor:
        """`world_from_body` of each body, (*B, K, 7)."""
        return self.kinematics(state)[0]

    def twists(self, state: RigidState) -> Tensor:
        """Velocity of each body's origin and angular velocity, world frame, (*B, K, 6)."""
        return self.kinematics(state)[1]

    def kinematics(self, state: RigidState) -> tuple[Tensor, Tensor]:
        """Poses (*B, K, 7) and twists (*B, K, 6)."""
        q, v = state.configuration, state.velocity
        order = {name: k for k, name in enumerate(self.body_names)}
        still = q.new_zeros(*q.shape[:-1], 3)
        upright = torch.cat((torch.ones_like(still[..., :1]), still), -1)
        links: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        at = to = 0
        for body in self.world.bodies:
            kind = body.joint.kind
            configured, moving = kind.sizes  # type: ignore[union-attr]
            part, rate = q[..., at : at + configured], v[..., to : to + moving]
            at, to = at + configured, to + moving
            if configured == 7:
                links.append((part[..., :3], normalize_quaternion(part[..., 3:]), rate[..., :3], rate[..., 3:]))
                continue
            above = (still, upright, still, still) if body.parent is None else links[order[body.parent]]
            place, turn, linear, angular = above
            anchor = self.anchors.get(body.name, q.new_tensor(body.joint.position)).to(q)
            while anchor.ndim > 1 and anchor.ndim < place.ndim:
                anchor = anchor.unsqueeze(-2)  # parameters' axes stand before the time axis
            turned = quaternion_multiply(turn, q.new_tensor(body.joint.rotation).expand_as(turn))
            axis = q.new_tensor(body.joint.axis).expand_as(place)
            if kind is JointKind.HINGE:
                turned = quaternion_multiply(turned, torch.cat(((part / 2).cos(), (part / 2).sin() * axis), -1))
            arm = quaternion_rotate(turn, anchor.expand_as(place))
            along = quaternion_rotate(turned, axis)
            spin, slide = angular, torch.zeros_like(linear)
            if kind is JointKind.SLIDE:
                arm, slide = arm + part * along, rate * along
            elif kind is JointKind.HINGE:
                spin = angular + rate * along
            links.append((place + arm, turned, linear + torch.linalg.cross(angular, arm) + slide, spin))
        poses = torch.stack([torch.cat(link[:2], -1) for link in links], -2)
        return poses, torch.stack([torch.cat(link[2:], -1) for link in links], -2)

    def points(self, state: RigidState) -> Points:
        """Points of the bodies' surfaces, (*B, N, 3) [m]; `ids` say whose."""
        poses = self.poses(state)
        local = [points.to(poses) for points in self._surface]
        positions = torch.cat([to_world(poses[..., k, :], points.expand(*poses.shape[:-2], *points.shape)) for k, points in enumerate(local)], -2)
        ids = torch.cat([torch.full((len(points),), k, device=poses.device) for k, points in enumerate(local)])
        return Points(positions=positions, ids=ids.expand(positions.shape[:-1]), batch_size=state.batch_size)

    def splats(self, state: RigidState) -> Splats:
        """The appearance of all bodies where they are."""
        if not self.appearance:
            raise ViewMissing(f"RigidScene offers no view 'splats' without appearance=; it offers {', '.join(sorted(self.views))}.")
        poses, placed = self.poses(state), []
        for name, splats in self.appearance.items():
            splats = splats.to(poses.device)
            if name:
                pose = poses[..., self.body_names.index(name), :]
                placed.append(place_splats(splats, quaternion_to_matrix(pose[..., 3:]), pose[..., :3]))
            else:
                placed.append(splats.expand(*state.batch_size))
        parts: Any = [_bare(part) for part in placed]
        return placed[0] if len(placed) == 1 else cast(Splats, torch.cat(parts, dim=-1))

    def signed_distance(self, state: RigidState, points: Tensor) -> Tensor:
        """To the nearest surface of any body or fixture, (*B, Q) [m]."""
        poses = self.poses(state)
        solids: list[Solid] = []
        for k, body in enumerate(self.world.bodies):
            solids += [_solid(geometry, poses[..., k, :]) for geometry in body.geometries]
        for fixture in self.world.fixtures:
            solids += [_solid(geometry, None, like=poses) for geometry in fixture.geometries]
        return Union(solids).signed_distance(points)

    def average(self, states: RigidState, dim: int) -> RigidState:
        """Mean numbers; angles on the circle, quaternions as the main axis of their spread (Markley et al., JGCD 2007)."""
        axis = dim % states.batch_dims
        mean, q = states.configuration.mean(axis), states.configuration.movedim(axis, 0)
        parts, at = [], 0
        for body in self.world.bodies:
            kind = body.joint.kind
            width = kind.sizes[0]  # type: ignore[union-attr]
            part = mean[..., at : at + width]
            if width == 7:
                turns = q[..., at + 3 : at + 7]
                spread = (turns.unsqueeze(-1) * turns.unsqueeze(-2)).mean(0)
                part = torch.cat((part[..., :3], torch.linalg.eigh(spread).eigenvectors[..., -1]), -1)
            elif kind is JointKind.HINGE:
                first = q[0, ..., at : at + 1]
                part = first + torch.atan2((q[..., at : at + 1] - first).sin().mean(0), (q[..., at : at + 1] - first).cos().mean(0))
            parts.append(part)
            at += width
        configuration = torch.cat(parts, -1)
        return RigidState(configuration=configuration, velocity=states.velocity.mean(axis), batch_size=configuration.shape[:-1])


def _bare(splats: Splats) -> Splats:
    return Splats(
        means=splats.means, rotations=splats.rotations, scales=splats.scales, opacities=splats.opacities, colors=splats.colors, batch_size=splats.batch_size
    )


def _surface_points(geometries: tuple[Geometry, ...], count: int) -> Tensor:
    """Points (n, 3) on the surfaces of geometries, body frame, the same every time: low-discrepancy directions, cast to the surface."""
    found = []
    golden = np.pi * (1 + 5**0.5)
    for geometry in geometries:
        number = max(count // len(geometries), 8)
        k = np.arange(number) + 0.5
        z = 1 - 2 * k / number
        directions = np.c_[np.sqrt(1 - z * z) * np.cos(golden * k), np.sqrt(1 - z * z) * np.sin(golden * k), z]
        core, _, hull = core_of(geometry)
        if hull is not None:
            middle = core.mean(0)
            reach = hull.offsets - hull.normals @ middle
            speed = directions @ hull.normals.T
            local = middle + directions * np.where(speed > 1e-9, reach / np.maximum(speed, 1e-9), np.inf).min(1, keepdims=True) + geometry.rounding * directions
        elif isinstance(geometry.shape, CapsuleShape):
            local = directions * geometry.shape.radius + np.c_[0 * z, 0 * z, np.sign(z) * geometry.shape.half_length]
        else:
            local = directions * geometry.radius
        turn = torch.tensor(geometry.rotation, dtype=torch.float64)
        found.append(quaternion_rotate(turn.expand(len(local), 4), torch.from_numpy(local)) + torch.tensor(geometry.position, dtype=torch.float64))
    return torch.cat(found) if found else torch.zeros(1, 3, dtype=torch.float64)


def _solid(geometry: Geometry, pose: Tensor | None, *, like: Tensor | None = None) -> Solid:
    """A geometry as a solid of `structwm.geometry`, placed by its body's pose (*B, 7)."""
    base = pose if pose is not None else like
    assert base is not None
    position, turn = base.new_tensor(geometry.position), base.new_tensor(geometry.rotation)
    if pose is None:
        place = torch.cat((position, turn))
    else:
        moved = pose[..., :3] + quaternion_rotate(pose[..., 3:], position.expand(*pose.shape[:-1], 3))
        place = torch.cat((moved, quaternion_multiply(pose[..., 3:], turn.expand(*pose.shape[:-1], 4))), -1)
    match geometry.shape:
        case SphereShape(radius=radius):
            return Sphere(place, radius)
        case BoxShape(half_extents=half):
            return Box(place, half)
        case CapsuleShape(radius=radius, half_length=half_length):
            return Capsule(place, radius, half_length)
        case PlaneShape():
            return HalfSpace(place)
        case ConvexShape(hull=hull):
            mesh = Mesh(base.new_tensor(hull.vertices), torch.from_numpy(hull.faces))
            return MeshSolid(place, MeshQuery(mesh))
    raise TypeError(f"no solid of {type(geometry.shape).__name__}.")
