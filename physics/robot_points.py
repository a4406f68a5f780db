"""Points of a robot's surface and the tree of its links, from a rigid world: what `structwm.points.ArmSurface` moves a learned model of point clouds by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.geometry.kinematics import KinematicTree
from structwm.geometry.rotations import to_world
from structwm.perception.cloud_thinning import farthest_points

from .appearance import surface_splats
from .rigid_world import JointKind, RigidWorld

KINDS = {JointKind.HINGE: "hinge", JointKind.SLIDE: "slide", JointKind.FIXED: "fixed"}


@dataclass(frozen=True, eq=False)
class RobotPoints:
    """M points fixed to the links of a robot."""

    tree: KinematicTree
    points: Tensor  # (M, 3) in the frames of their links [m]
    owners: Tensor  # int64 (M,) the link of each


def robot_points(world: RigidWorld, count: int, *, bodies: Sequence[str] | None = None, spacing: float = 0.01) -> RobotPoints:
    """Points spread evenly over the collision geometries of a robot.

    Args:
        world: whose bodies are one robot on a fixed base, as `read_world` gives of a URDF or MJCF file.
        count: M.
        bodies: names of those that touch things, such as fingers; all that have a surface if not given.
        spacing: of the points among which these are chosen [m].

    Raises:
        ValueError: in one sentence, on a body that moves freely or as commanded, an unknown name, or less surface than points.
    """
    order = world.bodies  # parents stand before their children
    loose = [body.name for body in order if body.joint.kind not in KINDS]
    if loose:
        raise ValueError(f"robot_points needs bodies on joints, and {loose[0]!r} is {next(b for b in order if b.name == loose[0]).joint.kind.name.lower()}.")
    names = [body.name for body in order]
    unknown = sorted(set(bodies or ()) - set(names))
    if unknown:
        raise ValueError(f"There is no body {unknown[0]!r}; this world has {', '.join(names)}.")
    moving = [body.joint for body in order if body.joint.kind != JointKind.FIXED]
    tree = KinematicTree(
        names,
        [-1 if body.parent is None else names.index(body.parent) for body in order],
        [KINDS[body.joint.kind] for body in order],  # type: ignore[misc]
        torch.tensor([body.joint.position for body in order]),
        torch.tensor([body.joint.rotation for body in order]),
        torch.tensor([body.joint.axis for body in order]),
        low=torch.tensor([joint.low for joint in moving]),
        high=torch.tensor([joint.high for joint in moving]),
    )
    touching = [i for i, body in enumerate(order) if body.geometries and (bodies is None or body.name in bodies)]
    if not touching:
        raise ValueError("robot_points needs a body with a geometry, and there is none among those named.")
    covers = [surface_splats(order[i].geometries, spacing=spacing).means for i in touching]
    points, owners = torch.cat(covers), torch.cat([torch.full((len(cover),), i) for i, cover in zip(touching, covers, strict=True)])
    if len(points) < count or count < 1:
        raise ValueError(f"robot_points finds {len(points)} points {spacing:g} m apart, got a count of {count}; take a smaller spacing.")
    poses = tree.poses(torch.zeros(tree.joints))[owners]
    chosen = farthest_points(to_world(poses, points.unsqueeze(1)).squeeze(1), count)
    return RobotPoints(tree, points[chosen], owners[chosen])
