"""Tables as models of point clouds know them: recorded pushes as motion of points, and what cameras see of a table as states."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from structwm.interfaces import Observation
from structwm.perception.cloud_thinning import farthest_points
from structwm.points import CloudRecording, CloudTracker

from .tabletop import Observation as Sensed
from .tabletop import Tabletop
from .tabletop_config import Array, TabletopConfig
from .tabletop_episodes import TabletopEpisodes
from .tabletop_views import place_pusher, pusher_points


def cloud_recording(episodes: TabletopEpisodes, *, points: int | None = None, robot_points: int = 24) -> CloudRecording:
    """Episodes as the motion of the objects' points and of points on the pusher's surface.

    Args:
        episodes: of R runs.
        points: of each object, the ones that spread farthest in the first instant, as those do that `structwm.points.CloudTracker` takes from images; record
            some times as many. All, in their order, if not given.
        robot_points: M, spread over the pusher's surface.

    Raises:
        ValueError: on less than one point.
    """
    if robot_points < 1 or (points is not None and points < 1):
        raise ValueError(f"cloud_recording needs at least one point of each object and of the robot, got {points} and {robot_points}.")
    paths = zip(episodes.configs, episodes.pusher.numpy(), strict=True)
    robot = torch.from_numpy(np.stack([place_pusher(pusher_points(config, robot_points), path) for config, path in paths])).float()  # type: ignore[arg-type]
    if points is None:
        return CloudRecording(episodes.positions, robot, episodes.dt, object_ids=episodes.object_ids.clamp_min(0), mask=episodes.mask)
    most = int(episodes.object_ids.max()) + 1
    own = torch.stack([episodes.mask & (episodes.object_ids == number) for number in range(most)], 1)  # (R, O, N)
    chosen = farthest_points(episodes.positions[:, :1].expand(-1, most, -1, -1), points, mask=own).flatten(1)  # (R, O points)
    index = chosen.clamp_min(0)[:, None, :, None].expand(-1, episodes.positions.shape[1], -1, 3)
    ids = torch.arange(most).repeat_interleave(points).expand(len(chosen), -1)
    return CloudRecording(episodes.positions.gather(2, index), robot, episodes.dt, object_ids=ids, mask=chosen >= 0)


def table_observation(world: Tabletop, observed: Sensed) -> Observation:
    """What `reset` or `step` of a table gave, as sensors of a robot give it: images, depth and the pusher's configuration; nothing that only the engine knows.

    Raises:
        ValueError: if the table gives no images.
    """
    if "depth" not in observed:
        raise ValueError("table_observation needs images; make the table with images=True.")
    cameras = world.cameras
    names = [f"camera{view}" for view in range(len(observed["depth"]))]

    def by_name(values: Tensor) -> dict[str, Tensor]:
        return dict(zip(names, values, strict=True))

    return Observation(
        float(observed["time"]),
        images=by_name(torch.from_numpy(observed["rgb"]).float() / 255),
        depth=by_name(torch.from_numpy(observed["depth"])),
        intrinsics=by_name(cameras.intrinsics.expand(len(names), 3, 3)),
        world_from_camera=by_name(cameras.world_from_camera),
        proprioception={"pusher": torch.from_numpy(observed["pusher"]).float()},
    )


def table_tracker(config: TabletopConfig, *, points: int = 32, robot_points: int = 24, context: int = 2) -> CloudTracker:
    """What makes states of a point model from the observations of a table (`table_observation`).

    Args:
        config: of which only the pusher's shape is read.
        points: of each object, at most.
        robot_points: of the pusher's surface, the same as in `cloud_recording`.
        context: earlier instants in a state.
    """
    few, many = pusher_points(config, robot_points), pusher_points(config, 600)
    return CloudTracker(partial(_surface, few), body=partial(_surface, many), points=points, context=context)


def _surface(points: Array, observation: Observation) -> Tensor:
    return torch.from_numpy(place_pusher(points, observation.proprioception["pusher"].double().numpy())).float()
