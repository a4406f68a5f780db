"""Quasi-static planar pushing: a slider on a plane, moved by a round pusher.

Support. The slider's twist is normal to its limit surface, a homogeneous polynomial H of degree four (`structwm.physics.limit_surface`). The surface may be
anisotropic: with P(yaw) a traceless symmetric matrix that is fixed in the world, H is evaluated at the force (I + P / 2) f.

Contact. The pusher is a disk that moves as commanded. Where a substep would make it penetrate, the slider gives way by as much: the contact force lies in the
Coulomb cone, f = -n + tau t with |tau| <= friction, and the contact point follows the pusher. If it can do so with |tau| < friction the contact sticks, else
it slides left or right at an edge of the cone. tau is the root of a monotone function, because H is convex.

The plain torch form below is the reference: differentiable almost everywhere (the root by the implicit function theorem), float32 and float64. Rollouts that
need no gradient run in the fused Warp kernel of `structwm.kernels.pushing`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from operator import is_
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.planar import Polygon, Shape, rotate, to_body
from structwm.noise import Noise
from structwm.scene import Scene
from structwm.spec import Action, ActionSpec, ModelSpec
from structwm.state import Points, State, state_of
from structwm.transition import Trajectory, all_valid, regular_times

from .limit_surface import PressureSupport, Support, gradient
from .parameters import Parameter
from .twin import Twin

COORDINATES = ("x", "y", "yaw", "pusher_x", "pusher_y")
CALIBRATED = ("friction", "pressure_x", "pressure_y", "pressure_radial", "pressure_stretch", "pressure_diagonal")
"""The parameters of a `PushTwin` that a few pushes of an object identify, for data whose geometry is known."""


class PushState(State):
    """A slider and a pusher in the plane."""

    pose: Tensor  # (*B, 3) x, y [m], yaw [rad] of the slider's frame in the world
    pusher: Tensor  # (*B, 2) centre of the pusher [m], world frame


class PushScene(Scene):
    """The slider's shape and the pusher: poses of both, points on the slider's boundary, signed distance to the slider.

    Args:
        shape: outline of the slider in its own frame.
        pusher_radius: [m], for drawing.
        height: of the slider [m]; views lie at half of it.
        boundary_points: N, how many points of the boundary the points view shows.
    """

    def __init__(self, shape: Shape, *, pusher_radius: float, height: float = 0.0, boundary_points: int = 32) -> None:
        super().__init__(coordinate_names=COORDINATES, coordinate_units=("m", "m", "rad", "m", "m"), periodic=("yaw",), body_names=("slider", "pusher"))
        self.shape, self.pusher_radius, self.height = shape, pusher_radius, height
        self.boundary = torch.from_numpy(shape.boundary(boundary_points))

    def config(self) -> dict[str, Any]:
        return {"shape": self.shape, "pusher_radius": self.pusher_radius, "height": self.height, "boundary_points": len(self.boundary)}

    def coordinates(self, state: PushState) -> Tensor:
        return torch.cat((state.pose, state.pusher), -1)

    def poses(self, state: PushState) -> Tensor:
        """Slider and pusher, (*B, 2, 7) [m, wxyz]."""
        x, y, yaw = state.pose.unbind(-1)
        z, zero = torch.full_like(x, self.height / 2), torch.zeros_like(x)
        slider = torch.stack((x, y, z, (yaw / 2).cos(), zero, zero, (yaw / 2).sin()), -1)
        px, py = state.pusher.unbind(-1)
        pusher = torch.stack((px, py, z, torch.ones_like(x), zero, zero, zero), -1)
        return torch.stack((slider, pusher), -2)

    def points(self, state: PushState) -> Points:
        """Boundary points of the slider in the world frame, positions (*B, N, 3) [m]."""
        local = self.boundary.to(state.pose)
        x, y, yaw = (value.unsqueeze(-1) for value in state.pose.unbind(-1))
        c, s = yaw.cos(), yaw.sin()
        px, py = x + c * local[:, 0] - s * local[:, 1], y + s * local[:, 0] + c * local[:, 1]
        return Points(positions=torch.stack((px, py, torch.full_like(px, self.height / 2)), -1), batch_size=state.batch_size)

    def signed_distance(self, state: PushState, points: Tensor) -> Tensor:
        """Distance (*B, Q) [m] in the plane from points (*B, Q, 3) to the slider, which is taken to be a tall prism."""
        return self.shape.nearest(to_body(state.pose.unsqueeze(-2), points[..., :2])).distance

    def average(self, states: PushState, dim: int) -> PushState:
        """Mean position and pusher, circular mean of the yaw."""
        axis = dim % states.batch_dims
        first = states.pose.select(axis, 0)
        yaw = states.pose[..., 2]
        turn = torch.atan2((yaw - first[..., 2].unsqueeze(axis)).sin().mean(axis), (yaw - first[..., 2].unsqueeze(axis)).cos().mean(axis))
        pose = torch.cat((states.pose[..., :2].mean(axis), (first[..., 2] + turn).unsqueeze(-1)), -1)
        return PushState(pose=pose, pusher=states.pusher.mean(axis), batch_size=pose.shape[:-1])


def _contact_parameters(pusher_radius: float) -> tuple[Parameter, ...]:
    """Friction, the surface's grain, and where outline and tip really are."""
    return (
        Parameter("friction", "-", 0.25, 0.02, 1.5, "log", 0.5, help="Coulomb coefficient between pusher and slider"),
        Parameter("surface_anisotropy_x", "-", 0.0, -0.6, 0.6, "linear", 0.1, help="the surface resists motion along world y more than along x"),
        Parameter("surface_anisotropy_xy", "-", 0.0, -0.6, 0.6, "linear", 0.1, help="the same for the diagonals"),
        Parameter("outline_x", "m", 0.0, -0.02, 0.02, "linear", 0.001, help="where the outline really lies in the slider's recorded frame"),
        Parameter("outline_y", "m", 0.0, -0.02, 0.02, "linear", 0.001, help="as above"),
        Parameter("outline_angle", "rad", 0.0, -0.3, 0.3, "linear", 0.01, help="as above"),
        Parameter("pusher_radius", "m", pusher_radius, 0.2 * pusher_radius, 3.0 * pusher_radius, "linear", 0.001, help="of the disk that touches"),
        Parameter("tip_offset_x", "m", 0.0, -0.02, 0.02, "linear", 0.001, help="from the recorded to the real pusher, world frame"),
        Parameter("tip_offset_y", "m", 0.0, -0.02, 0.02, "linear", 0.001, help="as above"),
    )


class PushTwin(Twin[PushState]):
    """A quasi-static planar pushing twin. The action is the pusher's velocity (*B, 2) [m/s] in the world frame, held over a step.

    Args:
        shape: outline of the slider in its own frame [m].
        pusher_radius: of the round pusher [m].
        dt: duration of a step [s].
        max_speed: bound of each component of the action [m/s].
        substeps: contact solves per step; a substep should move the pusher by two millimetres at most.
        height: of the slider [m], for the views.
        support: how the slider rests on the plane; default `PressureSupport(shape)`.
        values: parameters that differ from their defaults, by name.

    Raises:
        ValueError: on sizes that are not positive, or parameters outside their bounds.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        pusher_radius: float = 0.005,
        dt: float = 0.1,
        max_speed: float = 0.1,
        substeps: int = 5,
        height: float = 0.0,
        support: Support | None = None,
        values: Mapping[str, Tensor | float] | None = None,
    ) -> None:
        for name, size in (("pusher_radius", pusher_radius), ("dt", dt), ("max_speed", max_speed), ("substeps", substeps)):
            if not 0 < size < math.inf:
                raise ValueError(f"PushTwin needs {name} above zero, got {size}.")
        self.support = support or PressureSupport(shape)
        self.physical = {p.name: p for p in (*_contact_parameters(pusher_radius), *self.support.parameters)}
        super().__init__(values)
        self._kept_table: tuple[list[Any], Tensor, list[Tensor]] | None = None
        action = ActionSpec.box(-max_speed, max_speed, 2, names=("pusher_vx", "pusher_vy"), units=("m/s", "m/s"), convention="velocity")
        members = self.batch_shape[-1] if self.batch_shape else 1
        self.spec = ModelSpec(PushState, action, dt, members=members)
        self.scene = PushScene(shape, pusher_radius=pusher_radius, height=height)
        self.shape, self.substeps, self.pusher_radius, self.height = shape, substeps, pusher_radius, height

    def config(self) -> dict[str, Any]:
        """The arguments that make this twin again."""
        return {
            "shape": self.shape,
            "pusher_radius": self.pusher_radius,
            "dt": self.spec.dt,
            "max_speed": float(self.spec.action.high.max()),
            "substeps": self.substeps,
            "height": self.height,
            "support": self.support,
            "values": dict(self.values),
        }

    def step(self, state: PushState, action: Action, *, noise: Noise | None = None) -> PushState:
        assert isinstance(action, Tensor) and self.spec.dt is not None
        if self.spec.members > 1:
            action = action.unsqueeze(-2)
        pose, pusher = state.pose, state.pusher
        share = action * (self.spec.dt / self.substeps)
        values = {name: value.to(pose) for name, value in self.values.items()}
        surface = self.support.coefficients(values)
        for k in range(self.substeps):
            pose = push(self.shape, self.support, pose, pusher + k * share, share, values, surface)
        return PushState(pose=pose, pusher=pusher + action * self.spec.dt, batch_size=state.batch_size)

    def roll_fields(self, kind: type[PushState], fields: dict[str, Tensor], batch: torch.Size, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        assert isinstance(actions, Tensor) and self.spec.dt is not None
        pose, pusher = fields["pose"], fields["pusher"]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (pose, pusher, actions, *self.values.values())):
            return super().roll_fields(kind, fields, batch, actions, noise=noise)
        from structwm.kernels import pushing as kernel  # Warp loads when the first rollout needs it

        actions = self.broadcast_members(actions)
        horizon = actions.shape[-2]
        table = self._table(kernel.PARAMETERS, pose)
        poses, pushers = kernel.rollout(
            pose.reshape(-1, 3),
            pusher.reshape(-1, 2),
            actions.to(pose).reshape(-1, horizon, 2),
            table,
            self._rows(len(table), batch, pose.device),
            self.shape,
            centroid=(float(self.support.centroid[0]), float(self.support.centroid[1])),
            gyration=self.support.gyration,
            dt=self.spec.dt,
            substeps=self.substeps,
        )
        moments = (*batch, horizon + 1)
        states = state_of(PushState, {"pose": poses.view(*moments, 3), "pusher": pushers.view(*moments, 2)}, moments)
        times = regular_times(batch, horizon, self.spec.dt, poses.device)
        return Trajectory(self.scene, states, actions, times, all_valid(moments, poses.device))

    def _rows(self, count: int, batch: torch.Size, device: torch.device) -> Tensor:
        """int32 (N,), the row of the table that each rollout uses."""
        if count == 1:
            return _zeros(batch.numel(), device)
        return torch.arange(count, dtype=torch.int32, device=device).reshape(self.batch_shape).expand(batch).reshape(-1)

    def _table(self, contact: Sequence[str], like: Tensor) -> Tensor:
        """The kernel's parameters, one row a draw: of the contact, and the limit surface's coefficients.

        Kept until a parameter changes, in place or by another tensor: they cost as much as a rollout of a few steps.
        """
        parts = list(self.values.values())
        try:
            state = [like.dtype, like.device, *[part._version for part in parts]]
        except RuntimeError:  # inference tensors have no version
            state = []
        kept = self._kept_table
        if kept is None or not state or state != kept[0] or not all(map(is_, parts, kept[2])):
            rows, values = self.batch_shape, {name: value.to(like) for name, value in self.values.items()}
            surface = self.support.coefficients(values)
            columns = torch.stack([values[name].expand(rows) for name in contact], -1)
            table = torch.cat((columns, surface.expand(*rows, surface.shape[-1])), -1).reshape(rows.numel(), -1).detach()
            self._kept_table = kept = state, table, parts
        return kept[1]

    displacements = COORDINATES

    def displaced(self, state: PushState, by: Mapping[str, Tensor]) -> PushState:
        moves = [by.get(name, torch.zeros((), dtype=state.pose.dtype, device=state.pose.device)).expand(state.batch_size) for name in COORDINATES]
        return state.replace(pose=state.pose + torch.stack(moves[:3], -1), pusher=state.pusher + torch.stack(moves[3:], -1))

    def gap(self, pose: Tensor, pusher: Tensor) -> Tensor:
        """Gap (*B, E, T) [m] between pusher and slider, negative where they overlap, at poses (*B, 1, T, 3) and recorded pushers (*B, 1, T, 2)."""
        v = {
            name: self.values[name].to(pose).unsqueeze(-1)
            for name in ("tip_offset_x", "tip_offset_y", "outline_x", "outline_y", "outline_angle", "pusher_radius")
        }
        tip = pusher + torch.stack((v["tip_offset_x"], v["tip_offset_y"]), -1)
        offset = torch.stack((v["outline_x"], v["outline_y"]), -1)
        return self.shape.nearest(rotate(to_body(pose, tip) - offset, -v["outline_angle"])).distance - v["pusher_radius"]

    def with_timing(self, *, dt: float, substeps: int) -> PushTwin:
        """The same twin with another step; quasi-static motion does not depend on speed."""
        twin = self.with_parameters({})
        twin.spec, twin.substeps = replace(self.spec, dt=dt), substeps
        return twin


@lru_cache(maxsize=8)
def _zeros(count: int, device: torch.device) -> Tensor:
    """int32 (count,), kept, so not to be written to."""
    return torch.zeros(count, dtype=torch.int32, device=device)


def push(shape: Shape, support: Support, pose: Tensor, pusher: Tensor, motion: Tensor, values: Mapping[str, Tensor], surface: Tensor) -> Tensor:
    """The slider's pose after one substep: the torch reference.

    Args:
        shape: outline of the slider.
        support: for its centroid and radius of gyration.
        pose: (*B, 3) [m, rad].
        pusher: (*B, 2) recorded position before the substep [m].
        motion: (*B, 2) the pusher's displacement in the substep [m].
        values: parameters by name, (), or broadcasting against *B from the right.
        surface: coefficients of the limit surface (15,), or (*P, 15) that broadcast against *B from the right.
    """
    v = values
    tip = pusher + torch.stack(torch.broadcast_tensors(v["tip_offset_x"], v["tip_offset_y"]), -1)
    offset = torch.stack(torch.broadcast_tensors(v["outline_x"], v["outline_y"]), -1)
    centre = torch.as_tensor(support.centroid, dtype=pose.dtype, device=pose.device)
    near = shape.nearest(rotate(to_body(pose, tip) - offset, -v["outline_angle"]))
    gap = near.distance - v["pusher_radius"]
    n = rotate(near.normal, v["outline_angle"])
    arm = rotate(near.point, v["outline_angle"]) + offset - centre
    u = rotate(motion, -pose[..., 2])
    approach = -(n * u).sum(-1)
    need = approach - gap  # how far the slider must give way along the normal
    touches = need > 0
    slip = _cross(n, u) * torch.where((approach > 1e-12) & (need < approach), need / torch.where(approach > 1e-12, approach, 1.0), 1.0)

    c2, s2 = (2 * pose[..., 2]).cos(), (2 * pose[..., 2]).sin()
    ax, axy = 0.5 * v["surface_anisotropy_x"], 0.5 * v["surface_anisotropy_xy"]
    p, q = ax * c2 + axy * s2, -ax * s2 + axy * c2  # P / 2 in the slider's frame

    def flow(tau: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity (*B, 2) of the contact point and twist (*B, 3) of the centroid, up to one scale, under the force -n + tau t."""
        fx, fy = -n[..., 0] - tau * n[..., 1], -n[..., 1] + tau * n[..., 0]
        m = (arm[..., 0] * fy - arm[..., 1] * fx) / support.gyration
        gx, gy, gm = gradient(surface, fx + p * fx + q * fy, fy + q * fx - p * fy, m)
        vx, vy, w = gx + p * gx + q * gy, gy + q * gx - p * gy, gm / support.gyration
        return torch.stack((vx - w * arm[..., 1], vy + w * arm[..., 0]), -1), torch.stack((vx, vy, w), -1)

    def mismatch(tau: Tensor) -> Tensor:
        """Positive where the contact point slips too far along t = (-n_y, n_x)."""
        velocity, _ = flow(tau)
        return _cross(n, velocity) * need + (n * velocity).sum(-1) * slip

    with torch.no_grad():
        edge = v["friction"].expand(need.shape).to(need)
        root, slides = _bracketed_root(mismatch, -edge, edge)
        delta = 1e-6 if need.dtype == torch.float64 else 1e-3
        slope = (mismatch(root + delta) - mismatch(root - delta)) / (2 * delta)
    stick = root - mismatch(root) / torch.where(slope.abs() < 1e-30, 1.0, slope)  # its value is the root, its gradient that of the implicit function
    tau = torch.where(slides == 0, stick, slides * v["friction"])
    velocity, twist = flow(tau)
    normal = -(n * velocity).sum(-1)
    moves = touches & (normal > 1e-12)
    twist = twist * (torch.where(moves, need, 0.0) / torch.where(moves, normal, 1.0)).unsqueeze(-1)
    linear, turn = twist[..., :2], twist[..., 2]
    linear = linear + turn.unsqueeze(-1) * torch.stack((centre[1], -centre[0]))  # from the centroid to the frame's origin
    return torch.cat((pose[..., :2] + rotate(linear, pose[..., 2] + turn / 2), (pose[..., 2] + turn).unsqueeze(-1)), -1)


def _bracketed_root(fn: object, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Root of an increasing function in [low, high] by bisection and where it lies at an end: -1 low, 1 high, 0 inside."""
    at_low, at_high = fn(low), fn(high)  # type: ignore[operator]
    slides = torch.where(at_high <= 0, 1.0, torch.where(at_low >= 0, -1.0, 0.0)).to(low)
    for _ in range(50 if low.dtype == torch.float64 else 24):
        middle = (low + high) / 2
        above = fn(middle) > 0  # type: ignore[operator]
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2, slides


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def rectangle(length: float, width: float) -> Polygon:
    """A rectangle around the origin, `length` along x and `width` along y [m]."""
    x, y = length / 2, width / 2
    return Polygon(((-x, -y), (x, -y), (x, y), (-x, y)))
