"""From RGB-D frames to states of point models: objects are found in the first frame, and the same points of each followed from then on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.geometry.neighbors import knn
from structwm.geometry.rotations import quaternion_to_matrix
from structwm.interfaces import Belief, Observation
from structwm.perception.cloud_thinning import above_plane, farthest_points, table_plane
from structwm.perception.depth_clouds import rgbd_cloud, select_points, stacked_views
from structwm.perception.followed_points import FollowedPoints, PointFollower
from structwm.perception.object_split import split_objects

from .cloud import PointCloud, point_cloud

Surface = Callable[[Observation], Tensor]


@dataclass(frozen=True)
class CloudBelief:
    """All that `CloudTracker` carries from frame to frame."""

    follower: PointFollower
    belief: Belief[FollowedPoints]
    local: tuple[Tensor, ...]  # of each object, the points of the model in its own frame (N_k, 3) [m]
    seen: tuple[Tensor, ...]  # positions (N, 3) at the last instants, the newest first [m]
    robot: tuple[Tensor, ...]  # of the robot's points (M, 3), likewise

    @property
    def colors(self) -> Tensor:
        """Mean colour of each object (K, 3), by which it is known again in another picture; NaN where there are no colours."""
        nothing = torch.full((3,), torch.nan)
        return torch.stack([nothing if thing.colors is None else thing.colors.mean(0).float() for thing in self.follower.objects])


class CloudTracker:
    """Objects on a table and a robot, as RGB-D cameras and the robot's own joints tell: states for models of point clouds.

    The first frame is split into objects (`split_objects`); what is near the robot's surface is taken for the robot, what lies in the table's plane for the
    table. Points are then followed frame by frame (`PointFollower`), so that a state's history is of the same points. Cameras see no undersides: with
    `underside`, objects are taken to stand on the table on all of their outline.

    Args:
        robot: from an observation's proprioception to the points (M, 3) of the robot's surface that the model is told of [m].
        body: likewise to as many points of its whole surface as it takes to tell the robot from objects in a picture; `robot` if not given.
        points: of each object, at most.
        context: C, earlier instants in a state.
        noise: standard deviation of the measured depth [m].
        near: what is nearer than this to the robot's surface is the robot [m].
        apart: radius of `split_objects` [m].
        step: how far an object may move from frame to frame [m].
        followed: points of each object that are followed; more are steadier.
        underside: whether objects stand on the table with all of their outline.
    """

    def __init__(
        self,
        robot: Surface,
        *,
        body: Surface | None = None,
        points: int = 32,
        context: int = 2,
        noise: float = 0.001,
        near: float = 0.008,
        apart: float = 0.012,
        step: float = 0.03,
        followed: int = 200,
        underside: bool = True,
    ) -> None:
        if min(points, followed) < 4 or context < 1:
            raise ValueError(f"CloudTracker needs at least four points of each object and a context of at least 1, got {points}, {followed} and {context}.")
        self.robot, self.body, self.points, self.context, self.noise = robot, body or robot, points, context, noise
        self.near, self.apart, self.step, self.followed, self.underside = near, apart, step, followed, underside

    def start(self, observation: Observation) -> CloudBelief:
        """What is known after the first frame; everything is taken to be at rest.

        Raises:
            ValueError: in one sentence, if the frame shows no table, or no object on it.
        """
        depth, camera, images, _ = stacked_views(observation)
        cloud = rgbd_cloud(depth.float(), camera.to(torch.float32), images=images, noise=self.noise, normals=True)
        table = table_plane(cloud.positions, 3 * self.noise, above=camera.positions.reshape(-1, 3)[0].float())
        if table is None:
            raise ValueError("CloudTracker found no table in the first frame; objects must stand on a plane that the cameras see.")
        cloud = above_plane(cloud, table, 3 * self.noise)
        surface = self.body(observation).to(cloud.positions)
        if len(cloud) and len(surface):
            cloud = select_points(cloud, knn(cloud.positions, surface, 1).distances[:, 0] > self.near)
        labels = split_objects(cloud, self.apart)
        if not len(labels) or int(labels.max()) < 0:
            raise ValueError("CloudTracker found no object on the table in the first frame.")
        follower = PointFollower.from_cloud(cloud, labels, noise=self.noise, count=self.followed, step=self.step, table=table)
        belief = follower.start(observation.time)
        local = []
        for number, pose in enumerate(follower.poses):
            own = cloud.positions[labels == number]
            own = torch.cat((own, _dropped(own, table))) if self.underside else own
            own = own[farthest_points(own, min(self.points, len(own)))]
            local.append((own - pose[:3]) @ quaternion_to_matrix(pose[3:]))
        return CloudBelief(follower, belief, tuple(local), (_placed(local, follower.poses),), (self.robot(observation).to(local[0]),))

    def update(self, observation: Observation, belief: CloudBelief | None = None) -> CloudBelief:
        """What is known after another frame; without a belief, the first one.

        Raises:
            ValueError: as `start`, or as `PointFollower.update`.
        """
        if belief is None:
            return self.start(observation)
        found = belief.follower.update(observation, belief.belief, None)
        positions = _placed(list(belief.local), found.states.object_poses[0, 0])
        robot = self.robot(observation).to(positions)
        return CloudBelief(belief.follower, found, belief.local, (positions, *belief.seen[: self.context]), (robot, *belief.robot[: self.context]))

    def state(self, belief: CloudBelief) -> PointCloud:
        """The state (batch size 1) for a model with this many points of the robot; before the first frame everything was where it is then."""

        def past(values: tuple[Tensor, ...]) -> Tensor:
            filled = (*values, *[values[-1]] * (self.context + 1 - len(values)))
            return torch.stack(filled[1 : self.context + 1], 1).unsqueeze(0)

        ids = torch.cat([torch.full((len(points),), number) for number, points in enumerate(belief.local)])
        rest = torch.cat([points - points.mean(0) for points in belief.local])
        return point_cloud(
            belief.seen[0].unsqueeze(0), belief.robot[0].unsqueeze(0), history=past(belief.seen), robot_history=past(belief.robot), rest=rest, object_ids=ids
        )


def _dropped(points: Tensor, table: Tensor) -> Tensor:
    """Points (N, 3) let down onto the plane (4,)."""
    height = points @ table[:3] + table[3]
    return points - height.unsqueeze(-1) * table[:3]


def _placed(local: list[Tensor] | tuple[Tensor, ...], poses: Tensor) -> Tensor:
    return torch.cat([points @ quaternion_to_matrix(pose[3:]).mT + pose[:3] for points, pose in zip(local, poses, strict=True)])
