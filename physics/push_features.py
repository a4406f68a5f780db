"""What a planar push looks like from the contact: features that do not change when slider, pusher and motion are moved or turned together.

Everything is taken half-way through a step. With c the contact point from the centroid, n the outward normal there, t = (-n_y, n_x), rho the outline's radius
of gyration, u the pusher's motion in the step and d the motion of the slider's contact point that a model predicts:

- `travel` = -n . d, how far the slider gives way in the step [m]: zero without contact, of degree one in the motion;
- ratios to it are bounded by arctan, so that they depend on directions only.

A mirror image of a push has the same features but for the signs in `ODD`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from structwm.geometry.outline import moments
from structwm.geometry.planar import Shape, rotate

from .pushing import PushState, PushTwin

COLUMNS = (
    *("arm", "reach", "angle"),  # c . t / rho, c . n / rho, angle from -n to u [rad]
    *("slide", "turn"),  # arctan of d . t / travel and of rho times the predicted turn / travel
    *("spread", "skew", "corner"),  # second moments of the area along t, and along t and n, over rho^2; 1 on a corner, 0 on an edge
    *("body_x", "body_y", "normal_x", "normal_y", "motion_x", "motion_y"),  # c / rho, n and u / |u| in the slider's frame
    *("grain_c", "grain_s"),  # cos and sin of twice the angle of -n in the world
    *("world_x", "world_y"),  # where the slider lies [decimetres]
)
"""Names of the features, in order."""
ODD = frozenset({"arm", "angle", "slide", "turn", "skew"})
"""Features that change sign in a mirror."""
"""Features that mean the same on every shape."""


@dataclass(frozen=True)
class PushGeometry:
    """Where the outline and the tip really are: geometry alone, no friction."""

    shape: Shape
    pusher_radius: float  # [m]
    tip_offset: tuple[float, float] = (0.0, 0.0)  # from the recorded to the real pusher, world frame [m]
    outline: tuple[float, float, float] = (0.0, 0.0, 0.0)  # x, y [m], angle [rad] of the outline in the slider's frame

    @classmethod
    def of(cls, twin: PushTwin) -> PushGeometry:
        """The geometry that a twin has."""
        v = {name: float(twin.values[name]) for name in GEOMETRY}
        return cls(twin.shape, v["pusher_radius"], (v["tip_offset_x"], v["tip_offset_y"]), (v["outline_x"], v["outline_y"], v["outline_angle"]))

    def near(self, pose: Tensor, pusher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gap (*B) [m], contact point (*B, 2) [m] and outward normal (*B, 2) in the slider's frame, for poses (*B, 3) and recorded pushers (*B, 2)."""
        tip = pusher + pusher.new_tensor(self.tip_offset)
        shift, angle = pose.new_tensor(self.outline[:2]), pose.new_tensor(self.outline[2])
        near = self.shape.nearest(rotate(rotate(tip - pose[..., :2], -pose[..., 2]) - shift, -angle))
        return near.distance - self.pusher_radius, rotate(near.point, angle) + shift, rotate(near.normal, angle)


GEOMETRY = ("tip_offset_x", "tip_offset_y", "outline_x", "outline_y", "outline_angle", "pusher_radius")
"""The parameters of a `PushTwin` that are geometry."""


@dataclass(frozen=True)
class Outline:
    """What features need of a shape: plain numbers, so that a saved model keeps them."""

    centroid: tuple[float, float]  # [m]
    gyration: float  # rho [m]
    moments: tuple[float, float, float]  # xx, xy, yy of the area about the centroid, over rho^2

    @classmethod
    def of(cls, shape: Shape) -> Outline:
        """Of a shape, its second moments those of a fine outline."""
        centroid, gyration = shape.moments
        _, _, second = moments(shape.boundary(720))
        second /= np.trace(second)
        return cls((float(centroid[0]), float(centroid[1])), float(gyration), (float(second[0, 0]), float(second[0, 1]), float(second[1, 1])))


@dataclass(frozen=True)
class ContactStep:
    """One step seen from the contact half-way through it."""

    features: Tensor  # (*B, len(COLUMNS))
    travel: Tensor  # (*B) [m]
    point: Tensor  # (*B, 2) contact point on the predicted slider [m], world frame
    tangent: Tensor  # (*B, 2) t in the world frame


def contact_step(geometry: PushGeometry, outline: Outline, state: PushState, predicted: PushState) -> ContactStep:
    """The contact of a step from `state` to what a model predicts, batch axes *B."""
    turned = predicted.pose[..., 2] - state.pose[..., 2]
    middle = (state.pose + predicted.pose) / 2
    _, point, n = geometry.near(middle, (state.pusher + predicted.pusher) / 2)
    t = torch.stack((-n[..., 1], n[..., 0]), -1)
    yaw = middle[..., 2]
    after = predicted.pose[..., :2] + rotate(point, predicted.pose[..., 2])
    d = rotate(after - state.pose[..., :2] - rotate(point, state.pose[..., 2]), -yaw)
    u = rotate(predicted.pusher - state.pusher, -yaw)
    travel = -(n * d).sum(-1)
    travel = torch.where(travel > TINY, travel, 0.0)
    safe = torch.where(travel > 0, travel, 1.0)
    speed = u.norm(dim=-1, keepdim=True)
    heading = u / torch.where(speed > TINY, speed, 1.0)
    arm = (point - point.new_tensor(outline.centroid)) / outline.gyration
    xx, xy, yy = outline.moments
    facing = rotate(-n, yaw)
    columns = (
        (arm * t).sum(-1),
        (arm * n).sum(-1),
        torch.atan2((t * u).sum(-1), -(n * u).sum(-1)),
        torch.atan((t * d).sum(-1) / safe),
        torch.atan(outline.gyration * turned / safe),
        xx * t[..., 0] ** 2 + 2 * xy * t[..., 0] * t[..., 1] + yy * t[..., 1] ** 2,
        xx * t[..., 0] * n[..., 0] + xy * (t[..., 0] * n[..., 1] + t[..., 1] * n[..., 0]) + yy * t[..., 1] * n[..., 1],
        _corner(geometry, point),
        *arm.unbind(-1),
        *n.unbind(-1),
        *heading.unbind(-1),
        facing[..., 0] ** 2 - facing[..., 1] ** 2,
        2 * facing[..., 0] * facing[..., 1],
        *(10 * middle[..., :2]).unbind(-1),
    )
    return ContactStep(torch.stack(columns, -1), travel, after, rotate(t, predicted.pose[..., 2]))


TINY = 1e-9  # [m]


def _corner(geometry: PushGeometry, point: Tensor) -> Tensor:
    """How close a contact point lies to a corner of a polygon: 1 on it, 0 from a fifth of the tip's radius on."""
    vertices = getattr(geometry.shape, "vertices", None)
    if vertices is None:
        return torch.zeros_like(point[..., 0])
    shift, angle = point.new_tensor(geometry.outline[:2]), point.new_tensor(geometry.outline[2])
    corners = rotate(point.new_tensor(vertices), angle) + shift
    distance = (point.unsqueeze(-2) - corners).square().sum(-1).amin(-1).clamp_min(1e-18).sqrt()
    return (1 - distance / (0.2 * geometry.pusher_radius)).clamp(0.0, 1.0)


def mirrored(columns: tuple[str, ...]) -> list[float]:
    """The sign of each feature in a mirror image."""
    return [-1.0 if name in ODD else 1.0 for name in columns]
