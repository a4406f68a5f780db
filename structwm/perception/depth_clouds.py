"""Depth images, with colours where there are any, to one cloud of points in the world frame."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.data.cloud_files import PointCloud
from structwm.geometry.camera import Camera
from structwm.geometry.neighbors import knn
from structwm.interfaces import Observation

from .depth_cleaning import clean_depth, depth_points, measured

NORMAL_POINTS = 24  # neighbours whose plane gives a point's normal


def select_points(cloud: PointCloud, index: Tensor) -> PointCloud:
    """Some points of a cloud, by int64 (M,) or bool (N,), with their colours and normals."""
    fields = (cloud.positions, cloud.colors, cloud.normals)
    return PointCloud(*(None if value is None else value[index] for value in fields))  # type: ignore[arg-type]  # positions are never None


def rgbd_cloud(
    depth: Tensor,
    camera: Camera,
    *,
    images: Tensor | None = None,
    masks: Tensor | None = None,
    box: Tensor | None = None,
    clean: bool = True,
    noise: float | None = None,
    normals: bool = False,
) -> PointCloud:
    """All that V depth images measured, as one cloud in the world frame.

    Args:
        depth: (V, height, width) along the optical axis [m]; NaN, infinity and what is not above 0 is no measurement.
        camera: of V views.
        images: (V, height, width, 3) in [0, 1]; gives the points colours.
        masks: (V, height, width) bool or integers; only pixels that are not 0 count.
        box: (2, 3) lowest and highest corner of what is kept [m].
        clean: leave out mixed pixels at edges, see `clean_depth`; turn it off for depth without edges or with few measurements.
        noise: standard deviation of the depth that cleaning reckons with [m]; measured in the images if not given.
        normals: estimate normals, towards the cameras, see `cloud_normals`.

    Raises:
        ValueError: in one sentence, if shapes do not fit. An image without measurements is no error: the cloud may be empty.
    """
    _check(depth, camera, images, masks, box)
    fine = measured(depth) if masks is None else measured(depth) & (masks != 0)
    kept = torch.where(fine, depth, 0.0)
    if clean and bool(fine.any()):
        kept = clean_depth(kept, camera, noise=noise)
    positions, place = depth_points(kept, camera)
    if box is not None:
        inside = ((positions >= box[0].to(positions)) & (positions <= box[1].to(positions))).all(-1)
        positions, place = positions[inside], place[inside]
    view, row, column = place.unbind(-1)
    colors = None if images is None else images[view, row, column].to(positions)
    eyes = camera.positions.to(positions).expand(len(depth), 3)[view]
    return PointCloud(positions, colors, cloud_normals(positions, eyes) if normals else None)


def _check(depth: Tensor, camera: Camera, images: Tensor | None, masks: Tensor | None, box: Tensor | None) -> None:
    if depth.ndim != 3 or not depth.is_floating_point():
        raise ValueError(f"rgbd_cloud depth: expected floats (V, height, width), got {depth.dtype} {tuple(depth.shape)}.")
    if (*camera.batch_size, camera.height, camera.width) != tuple(depth.shape):
        raise ValueError(f"rgbd_cloud camera: expected {tuple(depth.shape)} views and pixels, got {(*camera.batch_size, camera.height, camera.width)}.")
    if images is not None and tuple(images.shape) != (*depth.shape, 3):
        raise ValueError(f"rgbd_cloud images: expected {(*depth.shape, 3)}, got {tuple(images.shape)}.")
    if masks is not None and masks.shape != depth.shape:
        raise ValueError(f"rgbd_cloud masks: expected {tuple(depth.shape)}, got {tuple(masks.shape)}.")
    if box is not None and (tuple(box.shape) != (2, 3) or not bool((box[0] < box[1]).all())):
        raise ValueError(f"rgbd_cloud box: expected a lowest and a highest corner (2, 3), got {box.tolist()}.")


def stacked_views(observation: Observation) -> tuple[Tensor, Camera, Tensor | None, Tensor | None]:
    """Depth (V, height, width), cameras (V,), images or None, and masks or None of an observation of one instant, by the names of its depth images.

    Images and masks are given where every camera with depth has them.

    Raises:
        ValueError: in one sentence, if there is no depth, a camera lacks intrinsics or pose, images differ in size, or there is a batch of more than one.
    """
    names = sorted(observation.depth)
    if not names:
        raise ValueError("An observation without depth images gives no cloud: expected depth of at least one camera.")
    lacking = [name for name in names if name not in observation.intrinsics or name not in observation.world_from_camera]
    if lacking:
        raise ValueError(f"Camera {lacking[0]!r} has depth, but no intrinsics or no pose; give both in the observation.")
    sizes = {tuple(observation.depth[name].shape[-2:]) for name in names}
    if len(sizes) > 1:
        raise ValueError(f"The depth images of an observation have different sizes, {sorted(sizes)}; scale them to one.")

    def one(value: Tensor, own: int, what: str) -> Tensor:
        if value.ndim < own or value.shape[: value.ndim - own].numel() != 1:
            raise ValueError(f"{what}: expected one observation, got {tuple(value.shape)}; follow each problem of a batch alone.")
        return value.reshape(value.shape[value.ndim - own :])

    depth = torch.stack([one(observation.depth[name], 2, f"depth of {name!r}") for name in names])
    intrinsics = torch.stack([one(observation.intrinsics[name], 2, f"intrinsics of {name!r}") for name in names])
    pose = torch.stack([one(observation.world_from_camera[name], 2, f"pose of {name!r}") for name in names])
    camera = Camera(intrinsics.to(depth), pose.to(depth), depth.shape[2], depth.shape[1])
    images = torch.stack([one(observation.images[name], 3, f"image of {name!r}") for name in names]) if set(names) <= set(observation.images) else None
    masks = torch.stack([one(observation.masks[name], 2, f"masks of {name!r}") for name in names]) if set(names) <= set(observation.masks) else None
    return depth, camera, images, masks


def cloud_normals(points: Tensor, eyes: Tensor | None = None, *, count: int = NORMAL_POINTS) -> Tensor:
    """Unit normals (N, 3) of points (N, 3): the direction in which their `count` nearest points spread least (Hoppe et al., SIGGRAPH 1992, section 3.1).

    Args:
        points: [m].
        eyes: (N, 3) or (3,) from where each was seen [m]; normals point there. Without, the sign is arbitrary.
        count: of neighbours; more are smoother, and rounder at edges.

    Points with fewer than two others have the normal (0, 0, 1), or point at the eye.
    """
    if len(points) < 3:
        normals = torch.tensor([0.0, 0.0, 1.0]).to(points).expand_as(points).clone()
        return normals if eyes is None else torch.nn.functional.normalize(eyes - points, dim=-1)
    near = knn(points.detach().contiguous(), points.detach().contiguous(), min(count, len(points))).indices
    around = points[near]
    around = around - around.mean(1, keepdim=True)
    normals = torch.linalg.eigh(around.mT @ around).eigenvectors[..., 0]
    if eyes is not None:
        normals = torch.where(((eyes - points) * normals).sum(-1, keepdim=True) < 0, -normals, normals)
    return normals
