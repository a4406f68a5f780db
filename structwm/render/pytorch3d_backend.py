"""Points and meshes by PyTorch3D (Ravi et al., 2020), where the user has it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.camera import Camera, pinhole_matrix
from structwm.geometry.mesh import Mesh
from structwm.state import Points

from .job import Drawn, SplatJob
from .rendering import Rendering, on_background

RADIUS = 2.0  # of a drawn point [px]
NEIGHBORS = 8  # points blended at a pixel


def _pytorch3d(name: str) -> Any:
    try:
        return import_module(f"pytorch3d.{name}")
    except ImportError as error:
        raise ImportError(f"render with backend='pytorch3d' needs the package pytorch3d, built for this machine (pytorch3d.org): {error}.") from error


def _cameras(camera_from_world: Tensor, pinholes: Tensor, width: int, height: int) -> Any:
    size = torch.tensor([[height, width]], device=pinholes.device).expand(len(pinholes), 2)
    return _pytorch3d("utils").cameras_from_opencv_projection(camera_from_world[..., :3], camera_from_world[..., 3], pinhole_matrix(pinholes), size)


def draw(job: SplatJob) -> Drawn:
    """Draw the splats' means as points of two pixels, with their colours and opacities."""
    structures, renderer = _pytorch3d("structures"), _pytorch3d("renderer")
    worlds, views, splats, _ = job.channels.shape
    cameras = _cameras(job.camera_from_world.flatten(0, 1), job.pinholes.flatten(0, 1), job.width, job.height)
    points = job.means.unsqueeze(1).expand(worlds, views, splats, 3).flatten(0, 1)
    channels = job.channels.flatten(0, 1)
    opacities = job.opacities.unsqueeze(1).expand(worlds, views, splats).flatten(0, 1)
    pose = job.camera_from_world.flatten(0, 1)
    depths = (points @ pose[..., :3].mT)[..., 2] + pose[:, 2, 3, None]
    cloud = structures.Pointclouds(points=points, features=torch.cat((channels, depths.unsqueeze(-1)), -1))
    settings = renderer.PointsRasterizationSettings(
        image_size=(job.height, job.width), radius=2 * RADIUS / min(job.width, job.height), points_per_pixel=NEIGHBORS, bin_size=0
    )
    fragments = renderer.PointsRasterizer(cameras=cameras, raster_settings=settings)(cloud)
    index = fragments.idx.long()  # (V, height, width, K), -1 where none, into all points of all views
    alpha = torch.where(index >= 0, opacities.reshape(-1)[index.clamp_min(0)], 0.0)
    before = torch.cumprod(torch.cat((torch.ones_like(alpha[..., :1]), 1 - alpha), -1), -1)
    values = cloud.features_packed()[index.clamp_min(0)]
    image = ((before[..., :-1] * alpha).unsqueeze(-1) * values).sum(-2).unflatten(0, (worlds, views))
    return Drawn(image[..., :-1], image[..., -1], before[..., -1].unflatten(0, (worlds, views)))


def draw_surface(scene: Points | Mesh, camera: Camera, *, background: Tensor | Sequence[float] | None) -> Rendering:
    """Draw a cloud in white, or a mesh in its vertices' colours without shading.

    Raises:
        ValueError: if the scene or the camera has more batch axes than one of views.
        ImportError: if PyTorch3D is not installed.
    """
    pose = camera.camera_from_world[..., :3, :].expand(*camera.batch_size, 3, 4).reshape(-1, 3, 4)
    pinholes = camera.pinholes.reshape(-1, 4)
    if isinstance(scene, Points):
        if scene.batch_size:
            raise ValueError(f"render: expected points of one world for backend='pytorch3d', got batch axes {tuple(scene.batch_size)}.")
        points = scene.positions if scene.mask is None else scene.positions[scene.mask]
        white = torch.ones_like(points)
        job = SplatJob(points[None], white[None], white[None], None, white[None, :, 0], white.expand(1, len(pose), *white.shape), pose[None], pinholes[None],
                       camera.width, camera.height, 0.0, float("inf"), 0.0, False, False)  # fmt: skip
        drawn = draw(job)
    else:
        structures, renderer = _pytorch3d("structures"), _pytorch3d("renderer")
        colors = torch.ones_like(scene.vertices) if scene.colors is None else scene.colors
        meshes = structures.Meshes(verts=[scene.vertices], faces=[scene.faces]).extend(len(pose))
        settings = renderer.RasterizationSettings(image_size=(camera.height, camera.width), faces_per_pixel=1, bin_size=0)
        cameras = _cameras(pose, pinholes, camera.width, camera.height)
        fragments = renderer.MeshRasterizer(cameras=cameras, raster_settings=settings)(meshes)
        hit = fragments.pix_to_face[..., 0] >= 0
        corners = colors[scene.faces].repeat(len(pose), 1, 1)
        values = _pytorch3d("ops").interpolate_face_attributes(fragments.pix_to_face, fragments.bary_coords, corners)[..., 0, :]
        drawn = Drawn(torch.where(hit.unsqueeze(-1), values, 0.0), torch.where(hit, fragments.zbuf[..., 0], 0.0), 1 - hit.to(values))
    return on_background(drawn, (*camera.batch_size, camera.height, camera.width), background)
