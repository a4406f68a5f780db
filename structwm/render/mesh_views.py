"""A mesh that moves, as cameras see it: depth images, and which of its points nothing hides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import warp as wp
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.geometry.mesh import Mesh
from structwm.kernels.launching import as_array, as_vectors, launch_beside
from structwm.kernels.mesh_rays import cast_rays

RAY_SHARE = 2048  # rays that a CPU thread must have to be worth starting
CLEARANCE = 1e-3  # distance from the camera by which a point may lie behind what the ray meets, so that it does not hide itself [of the distance]


@dataclass(frozen=True, eq=False)
class MeshImages:
    """What V cameras see of a mesh."""

    depth: Tensor  # (V, height, width) along the optical axis [m], infinite where there is nothing
    faces: Tensor  # int64 (V, height, width), -1 where there is nothing
    weights: Tensor  # (V, height, width, 3) of the face's corners


class MeshViews:
    """Ray casting of one mesh, whose vertices may move from call to call, into V cameras; float32 on CPU.

    Faces are seen from both sides. Exact but for float32: no rasterisation, so a pixel is what is at its centre.

    Args:
        mesh: its faces, and vertices of the size in which they come.
        cameras: of batch_size (V,).

    Raises:
        ValueError: if the cameras are not a list.
    """

    def __init__(self, mesh: Mesh, cameras: Camera) -> None:
        if len(cameras.batch_size) != 1:
            raise ValueError(f"MeshViews needs cameras of batch_size (V,), got {tuple(cameras.batch_size)}.")
        self.mesh, self.cameras = mesh, cameras.to(torch.float32)
        self._points = mesh.vertices.detach().float().contiguous().clone()
        self._faces = mesh.faces.to(torch.int32).flatten().contiguous()
        self._bounds = wp.Mesh(wp.from_torch(self._points, dtype=wp.vec3), wp.from_torch(self._faces))
        self._origins, self._directions = self.cameras.rays()

    def _move(self, positions: Tensor) -> None:
        if positions.shape != self._points.shape or not bool(positions.isfinite().all()):
            raise ValueError(f"MeshViews needs finite positions {tuple(self._points.shape)} of the vertices, got {tuple(positions.shape)}.")
        self._points.copy_(positions)
        self._bounds.refit()

    def _cast(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = len(origins)
        distances, faces, weights = origins.new_empty(count), torch.empty(count, dtype=torch.int32), origins.new_empty(count, 3)
        inputs = [wp.uint64(self._bounds.id), as_vectors(origins), as_vectors(directions), as_array(distances), as_array(faces), as_vectors(weights)]
        launch_beside(origins, cast_rays, count, inputs, share=RAY_SHARE)
        return distances, faces.long(), weights

    def render(self, positions: Tensor) -> MeshImages:
        """The images of the mesh with its vertices at `positions` (P, 3) [m]."""
        self._move(positions)
        directions = self._directions
        origins = self._origins[:, None, None].expand_as(directions)
        distances, faces, weights = self._cast(origins.reshape(-1, 3), directions.reshape(-1, 3))
        forward = self.cameras.world_from_camera[:, None, None, :3, 2]
        depth = distances.view(directions.shape[:-1]) * (directions * forward).sum(-1)
        return MeshImages(depth, faces.view(depth.shape), weights.view(*depth.shape, 3))

    def visible(self, positions: Tensor, points: Tensor) -> Tensor:
        """Which points (N, 3) [m] each camera sees, bool (V, N), with the vertices at `positions` (P, 3) [m]: in its image, and not behind the mesh."""
        self._move(positions)
        pixels, depth = self.cameras.project(points.float())
        size = pixels.new_tensor([self.cameras.width, self.cameras.height])
        inside = (depth > 0) & (pixels >= 0).all(-1) & (pixels < size).all(-1)
        away = points.float() - self._origins[:, None]
        far = away.norm(dim=-1)
        distances, _, _ = self._cast(self._origins[:, None].expand_as(away).reshape(-1, 3), (away / far.unsqueeze(-1)).reshape(-1, 3))
        return inside & (distances.view(far.shape) >= (1 - CLEARANCE) * far)


def points_on_mesh(mesh: Mesh, count: int, *, spread: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points drawn by area: faces int64 (count,) and weights of their corners (count, 3).

    Args:
        mesh: the mesh.
        count: how many.
        spread: take the farthest first from twenty times as many, so that none are near each other.
        seed: of the draws.
    """
    generator, drawn = torch.Generator().manual_seed(seed), (20 if spread else 1) * count
    corners = mesh.vertices.detach().double()[mesh.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1)
    faces = torch.multinomial(area, drawn, replacement=True, generator=generator)
    weights = -torch.rand(drawn, 3, dtype=torch.float64, generator=generator).clamp_min(1e-12).log()  # even on a triangle once they add up to one
    weights = weights / weights.sum(-1, keepdim=True)
    if spread:
        places = (weights.unsqueeze(-1) * corners[faces]).sum(1)
        chosen = [0]
        far = (places - places[0]).norm(dim=-1)
        for _ in range(count - 1):
            chosen.append(int(far.argmax()))
            far = torch.minimum(far, (places - places[chosen[-1]]).norm(dim=-1))
        faces, weights = faces[chosen], weights[chosen]
    return faces, weights.to(mesh.vertices)
