"""A scene of splats from one RGB-D frame of things on a table: which splats are of which object, of the robot, and of what stays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.data.cloud_files import PointCloud
from structwm.geometry.neighbors import knn
from structwm.interfaces import Observation
from structwm.perception.cloud_thinning import table_plane
from structwm.perception.depth_cleaning import measured
from structwm.perception.depth_clouds import select_points, stacked_views
from structwm.perception.object_split import split_objects
from structwm.perception.rgbd_splats import SIZE, hidden_plane_splats, rgbd_splats
from structwm.perception.splat_fit import SplatFitSettings, fit_splats
from structwm.render.scenes import take_splats
from structwm.state import Splats

from .splat_scene import ROBOT, STATIC

UNKNOWN = -3
RATE = 4.0  # of fitting, which starts near its end
UNLIKE = 0.12  # difference of colours from which they are not of one thing in one light


@dataclass(frozen=True)
class TableScene:
    """Splats of a table, of what stands on it and of the robot."""

    splats: Splats  # of one world
    object_ids: Tensor  # int64 (S,): of objects from 0 on, the largest first, `STATIC` for table and surroundings, `ROBOT`
    table: Tensor  # (4,) unit normal n and d with n . x + d = 0
    background: tuple[float, ...]  # colour where nothing is


def table_scene(
    observation: Observation,
    robot: Tensor | None = None,
    *,
    noise: float = 0.001,
    near: float = 0.004,
    apart: float = 0.012,
    iterations: int = 100,
    blur: float = 0.05,
) -> TableScene:
    """A scene from a first frame: a splat a pixel, objects told apart by where they are and by colour, the table filled in where things hide it.

    Splats of several cameras lie over one another and would make edges thick and soft, so they are fitted to the images that they come from.

    Args:
        observation: RGB-D of at least one camera; the more see an object, the more of its sides can be shown.
        robot: points (M, 3) of its surface, close together [m].
        noise: standard deviation of the measured depth [m].
        near: what is nearer than this to the robot's points is the robot [m].
        apart: radius of `split_objects` [m].
        iterations: of fitting the splats to the images; 0 leaves them as they are.
        blur: as of `render`, with which the scene is fitted and should be drawn [px^2].

    Raises:
        ValueError: in one sentence, if there are no images, or the frame shows no table or no object on it.
    """
    depth, camera, images, _ = stacked_views(observation)
    if images is None:
        raise ValueError("table_scene needs images of every camera that has depth, for the splats' colours.")
    splats, normals = rgbd_splats(depth.float(), camera.to(torch.float32), images.float(), noise=noise)
    table = table_plane(splats.means, 3 * noise, above=camera.positions.reshape(-1, 3)[0].float())
    if table is None:
        raise ValueError("table_scene found no table in the frame; objects must stand on a plane that the cameras see.")
    ids = _labels(PointCloud(splats.means, splats.colors, normals), table, robot, noise=noise, near=near, apart=apart)
    sound = ids != UNKNOWN
    splats, ids = take_splats(splats, sound), ids[sound]
    if not len(ids) or int(ids.max()) < 0:
        raise ValueError("table_scene found no object on the table in the frame.")
    height = splats.means @ table[:3] + table[3]
    top = take_splats(splats, (ids == STATIC) & (height.abs() < 3 * noise))
    spacing = float(top.scales[:, 1].median()) / SIZE
    hidden = hidden_plane_splats(table, top, splats.means[(ids != STATIC) & (height < 0.3)], spacing)
    fields = {name: torch.cat((value, getattr(hidden, name))) for name, value in splats.items() if value is not None}
    whole, nothing = Splats(**fields, batch_size=[]), ~measured(depth)  # type: ignore[arg-type]
    background = images[nothing].median(0).values.tolist() if bool(nothing.any()) else (0.0, 0.0, 0.0)
    if iterations:
        settings = SplatFitSettings(
            iterations, len(whole.means), blur=blur, structural=0.0, refine_every=iterations + 1, resets=(), rate=RATE, evaluate_every=iterations
        )
        fitted = fit_splats(images, camera, initial=whole, background=background, settings=settings).splats
        seen = torch.arange(len(whole.means)) < len(ids)  # what is hidden was moved by gradients next to nothing, and is left as it was
        whole = _where(seen.to(ids.device), fitted, whole)
    return TableScene(whole, torch.cat((ids, torch.full((len(hidden.means),), STATIC).to(ids))), table, tuple(background))


def _where(chosen: Tensor, one: Splats, other: Splats) -> Splats:
    """Splats of `one` where bool (S,) says so, of `other` elsewhere."""
    pairs = {name: (getattr(one, name), value) for name, value in other.items() if value is not None}
    fields = {name: torch.where(chosen.view(-1, *[1] * (a.ndim - 1)), a, b) for name, (a, b) in pairs.items()}
    return Splats(**fields, batch_size=[])  # type: ignore[arg-type]


def _labels(cloud: PointCloud, table: Tensor, robot: Tensor | None, *, noise: float, near: float, apart: float) -> Tensor:
    """The object of each point: first by place, then, where place and colour disagree, by the nearest points of its colour.

    Pixels at edges that mix colours of two things are `UNKNOWN`.
    """
    points, colors = cloud.positions, cloud.colors
    assert colors is not None
    height = points @ table[:3] + table[3]
    ids = torch.where(height.abs() < 3 * noise, STATIC, UNKNOWN)
    if robot is not None and len(robot):
        ids[(knn(points, robot.to(points).contiguous(), 1).distances[:, 0] < near) & (height > 3 * noise)] = ROBOT
    for kind in (STATIC, ROBOT):  # feet of objects lie in the plane, and what touches the robot is near it
        own = ids == kind
        if bool(own.any()):
            ids[own & ((colors - colors[own].median(0).values).norm(dim=-1) > UNLIKE)] = UNKNOWN
    free = ((ids == UNKNOWN) & (height > 3 * noise)).nonzero()[:, 0]
    found = split_objects(select_points(cloud, free), apart)
    ids[free[found >= 0]] = found[found >= 0]
    rows = (ids == UNKNOWN).nonzero()[:, 0]
    if bool((ids >= 0).any()) and len(rows):
        ids[rows] = _by_look(points, colors, ids, rows, apart)
        rows = rows[ids[rows] == UNKNOWN]
        things = points[(ids >= 0) | (ids == ROBOT)].contiguous()
        rows = rows[knn(points[rows].contiguous(), things, 1).distances[:, 0] > 2 * apart]
    ids[rows] = STATIC
    return ids


def _by_look(points: Tensor, colors: Tensor, ids: Tensor, rows: Tensor, apart: float, *, count: int = 32) -> Tensor:
    """The label that most points of like colour around have, of points `rows`; `UNKNOWN` where there are none."""
    known = (ids != UNKNOWN).nonzero()[:, 0]
    near = knn(points[rows].contiguous(), points[known].contiguous(), min(count, len(known)))
    index = known[near.indices.long()]
    like = ((colors[index] - colors[rows].unsqueeze(1)).norm(dim=-1) < UNLIKE) & (near.distances < apart)
    votes = torch.zeros(len(rows), int(ids.max()) + 1 - UNKNOWN).to(points)
    votes.scatter_add_(1, ids[index] - UNKNOWN, like.to(points) / (near.distances + 0.1 * apart))
    return votes.argmax(1) + UNKNOWN
