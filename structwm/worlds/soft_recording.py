"""Recordings of deformable bodies as cameras see them: point clouds and tracks with what is hidden left out, beside the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from structwm.data.errors import BadData, DataUnavailable
from structwm.geometry.camera import Camera
from structwm.geometry.soft_mesh import SoftMesh
from structwm.render.mesh_views import MeshImages, MeshViews, points_on_mesh


@dataclass(frozen=True)
class Sensing:
    """How a motion is observed."""

    cameras: int = 3  # around the scene
    width: int = 160  # of the depth images [px]
    height: int = 120
    distance: float = 1.5  # of the cameras from the middle of the motion, in units of its extent
    depth_noise: float = 1e-3  # std of a pixel's depth, and of a track's [m]
    cloud_points: int = 1000  # of the fused cloud of a frame at most; drawn at random
    tracks: int = 200  # material points that are followed
    seed: int = 0  # of noise and draws


@dataclass(frozen=True, eq=False)
class SoftRecording:
    """T frames of a deformable body. World frame, float32; NaN is what was not seen."""

    times: Tensor  # (T,) [s]
    clouds: Tensor  # (T, Q, 3) what the cameras see of the surface, fused [m]
    colors: Tensor  # (T, Q, 3) in [0, 1]: each material point keeps its colour
    tracks: Tensor  # (T, N, 3) of material points [m]
    track_faces: Tensor  # int64 (N,) the triangle of the mesh that each is on
    track_weights: Tensor  # (N, 3) of its corners
    nodes: Tensor  # (T, P, 3) the truth: nodes of the mesh [m]
    velocities: Tensor  # (P, 3) of the nodes in the first frame [m/s]
    controllers: Tensor  # (T, C, 3) [m]
    held: tuple[tuple[int, ...], ...]  # nodes that each controller holds; none for one that pushes
    mesh: SoftMesh  # at rest
    cameras: Camera  # (V,)
    split: int  # frame from which on the motion is another: what comes before is for fitting

    @property
    def actions(self) -> Tensor:
        """Velocities of the controllers from frame to frame, (T - 1, C, 3) [m/s]."""
        return self.controllers.diff(dim=0) / self.times.diff()[:, None, None]

    def material_points(self, nodes: Tensor) -> Tensor:
        """Where the tracked points are for nodes (*B, P, 3): (*B, N, 3) [m]."""
        corners = nodes[..., self.mesh.triangles[self.track_faces], :]
        return (self.track_weights.to(nodes).unsqueeze(-1) * corners).sum(-2)

    def surface_points(self, nodes: Tensor, count: int = 4000) -> Tensor:
        """The same points of the surface for nodes (*B, P, 3): (*B, count, 3) [m], dense enough for `visible_chamfer`; nodes alone are too far apart."""
        faces, weights = points_on_mesh(self.mesh.surface(), count)
        return (weights.to(nodes).unsqueeze(-1) * nodes[..., self.mesh.triangles[faces], :]).sum(-2)

    def images(self, frame: int) -> MeshImages:
        """What the cameras see of the surface in a frame, without noise."""
        return MeshViews(self.mesh.surface(), self.cameras).render(self.nodes[frame])

    def save(self, path: str | Path) -> None:
        """Write to an npz file; its folder is made."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(self, name).numpy() for name in _TENSORS}
        arrays["held"] = np.array([node for nodes in self.held for node in nodes], np.int64)
        arrays["held_counts"] = np.array([len(nodes) for nodes in self.held], np.int64)
        arrays["mesh_nodes"], arrays["mesh_triangles"] = self.mesh.nodes.numpy(), self.mesh.triangles.numpy()
        if self.mesh.tetrahedra is not None:
            arrays["mesh_tetrahedra"] = self.mesh.tetrahedra.numpy()
        arrays["intrinsics"], arrays["world_from_camera"] = self.cameras.intrinsics.numpy(), self.cameras.world_from_camera.numpy()
        arrays["sizes"] = np.array([self.cameras.width, self.cameras.height, self.split], np.int64)
        part = file.with_name(file.name + ".part.npz")
        np.savez_compressed(part, **arrays)  # type: ignore[arg-type]
        part.replace(file)

    @classmethod
    def load(cls, path: str | Path) -> SoftRecording:
        """Read what `save` wrote.

        Raises:
            DataUnavailable: if the file is not there.
            BadData: if it is not such a recording.
        """
        file = Path(path)
        if not file.is_file():
            raise DataUnavailable(f"expected a recording at {file}, found none; record it again.")
        try:
            with np.load(file, allow_pickle=False) as content:
                found = {name: torch.from_numpy(content[name]) for name in content.files}
            ends = [0, *found["held_counts"].cumsum(0).tolist()]
            held = tuple(tuple(found["held"][a:b].tolist()) for a, b in zip(ends, ends[1:], strict=False))
            mesh = SoftMesh(found["mesh_nodes"], found["mesh_triangles"], found.get("mesh_tetrahedra"))
            width, height, split = found["sizes"].tolist()
            cameras = Camera(found["intrinsics"], found["world_from_camera"], width, height)
            return cls(**{name: found[name] for name in _TENSORS}, held=held, mesh=mesh, cameras=cameras, split=split)
        except Exception as error:  # damaged and foreign files fail in many ways
            raise BadData.at(
                file=file, record="the recording", field="arrays", expected="what SoftRecording.save wrote", got=type(error).__name__, advice="record it again"
            ) from error


_TENSORS = ("times", "clouds", "colors", "tracks", "track_faces", "track_weights", "nodes", "velocities", "controllers")


def cameras_around(nodes: Tensor, sensing: Sensing) -> Camera:
    """Cameras evenly around where a body is over the frames, (T, P, 3) [m]: they look down at its middle by 35 degrees."""
    low, high = nodes.reshape(-1, 3).amin(0), nodes.reshape(-1, 3).amax(0)
    middle, extent = (low + high) / 2, float((high - low).norm())
    angle = torch.arange(sensing.cameras) * (2 * math.pi / sensing.cameras) + 0.3
    away = torch.stack((angle.cos(), angle.sin(), torch.full_like(angle, math.tan(math.radians(35)))), -1)
    eyes = middle + away / away.norm(dim=-1, keepdim=True) * sensing.distance * extent
    return Camera.look_at(eyes, middle.expand_as(eyes), width=sensing.width, height=sensing.height, field_of_view=2 * math.atan(0.6 / sensing.distance))


def observe(
    nodes: Tensor,
    controllers: Tensor,
    mesh: SoftMesh,
    *,
    dt: float,
    held: Sequence[Sequence[int]] = (),
    velocities: Tensor | None = None,
    split: int | None = None,
    sensing: Sensing | None = None,
    cameras: Camera | None = None,
) -> SoftRecording:
    """What cameras see of a motion. Grippers and ground hide nothing; the body hides itself.

    Args:
        nodes: (T, P, 3) [m].
        controllers: (T, C, 3) [m].
        mesh: whose nodes they are.
        dt: time from frame to frame [s].
        held: nodes that each controller holds; none of them if not given.
        velocities: (P, 3) at the first frame [m/s]; at rest if not given.
        split: first frame of what is held out; 70 % if not given.
        sensing: cameras, noise, how many points.
        cameras: (V,); around the motion if not given.

    Raises:
        ValueError: if shapes do not fit, or positions are not finite.
    """
    sensing = sensing or Sensing()
    frames = len(nodes)
    if nodes.shape != (frames, len(mesh.nodes), 3) or controllers.ndim != 3 or len(controllers) != frames or not bool(nodes.isfinite().all()):
        raise ValueError(f"observe needs finite nodes (T, {len(mesh.nodes)}, 3) and controllers (T, C, 3), got {nodes.shape} and {controllers.shape}.")
    nodes, generator = nodes.float(), torch.Generator().manual_seed(sensing.seed)
    surface = mesh.surface()
    views = MeshViews(surface, cameras_around(nodes, sensing) if cameras is None else cameras)
    low, high = mesh.nodes.amin(0), mesh.nodes.amax(0)
    paint = ((mesh.nodes - low) / (high - low).clamp_min(1e-9)).float()
    faces, weights = (part.float() if part.is_floating_point() else part for part in points_on_mesh(surface, sensing.tracks, spread=True, seed=sensing.seed))
    clouds = torch.full((frames, sensing.cloud_points, 3), torch.nan)
    colors, tracks = torch.zeros_like(clouds), torch.empty(frames, sensing.tracks, 3)
    for t in range(frames):
        cloud, color = _cloud(views, nodes[t], paint, sensing, generator)
        clouds[t, : len(cloud)], colors[t, : len(cloud)] = cloud, color
        tracks[t] = _lifted(views, nodes[t], (weights.unsqueeze(-1) * nodes[t][surface.faces[faces]]).sum(1), sensing, generator)
    return SoftRecording(
        times=torch.arange(frames) * dt,
        clouds=clouds,
        colors=colors,
        tracks=tracks,
        track_faces=faces,
        track_weights=weights,
        nodes=nodes,
        velocities=torch.zeros_like(nodes[0]) if velocities is None else velocities.float(),
        controllers=controllers.float(),
        held=tuple(tuple(int(node) for node in group) for group in held) or ((),) * controllers.shape[1],
        mesh=mesh,
        cameras=views.cameras,
        split=round(0.7 * frames) if split is None else split,
    )


def _cloud(views: MeshViews, nodes: Tensor, paint: Tensor, sensing: Sensing, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (n, 3) [m] that the cameras see and their colours (n, 3), no more than wanted."""
    images = views.render(nodes)
    camera, row, column = (images.faces >= 0).nonzero(as_tuple=True)
    kept = torch.randperm(len(row), generator=generator)[: sensing.cloud_points].sort().values
    camera, row, column = camera[kept], row[kept], column[kept]
    depth = images.depth[camera, row, column]
    noisy = depth + sensing.depth_noise * torch.randn(depth.shape, generator=generator)
    fx, fy, cx, cy = views.cameras.pinholes[camera].unbind(-1)
    inside = torch.stack(((column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, torch.ones_like(depth)), -1) * noisy.unsqueeze(-1)
    pose = views.cameras.world_from_camera[camera]
    points = (pose[:, :3, :3] @ inside.unsqueeze(-1)).squeeze(-1) + pose[:, :3, 3]
    corners = views.mesh.faces[images.faces[camera, row, column]]
    return points, (images.weights[camera, row, column].unsqueeze(-1) * paint[corners]).sum(1)


def _lifted(views: MeshViews, nodes: Tensor, points: Tensor, sensing: Sensing, generator: torch.Generator) -> Tensor:
    """Points (N, 3) [m] where the first camera that sees them has them, as an image tracker lifted by the depth would; NaN where none does."""
    seen = views.visible(nodes, points)
    eye = views.cameras.positions[seen.int().argmax(0)]
    away = points - eye
    noisy = points + away / away.norm(dim=-1, keepdim=True) * (sensing.depth_noise * torch.randn(len(points), 1, generator=generator))
    return torch.where(seen.any(0).unsqueeze(-1), noisy, torch.nan)
