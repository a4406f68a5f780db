"""Signed distance from points to a triangle mesh, over the kernel of `mesh_kernels`; the operator is `structwm::nearest_on_mesh`."""

from __future__ import annotations

from typing import Any, Literal

import torch
import warp as wp
from torch import Tensor

from structwm.geometry.mesh import Mesh

from .launching import as_array, as_vectors, launch_beside, scalar_of, torch_stream
from .mesh_kernels import nearest_kernel

POINT_SHARE = 256  # points a CPU thread must have to be worth starting
SORTED_FROM = 2048  # points from which it pays to ask for neighbors one after another
SLIVER = 2e-6  # twice the area over the sum of squared edges, below which a face is left out


@torch.library.custom_op("structwm::nearest_on_mesh", mutates_args=())
def nearest_on_mesh(points: Tensor, corners: Tensor, normals: Tensor, mesh: int, winding: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest place of a mesh, without gradients.

    Args:
        points: (N, 3), from the origin of the mesh's bounding volumes.
        corners: (F, 3, 3), likewise.
        normals: (F, 7, 3) pseudonormals, see `MeshQuery`.
        mesh: identifier of a `warp.Mesh`.
        winding: whether the winding number gives the sign.

    Returns:
        Faces int32 (N), barycentric coordinates (N, 3), and the unit directions (N, 3) in which the signed distance grows.
    """
    faces, places, directions = _nearest_shapes(points)
    kind = scalar_of(points)
    tables = [as_vectors(points), *(wp.from_torch(value.contiguous(), dtype=wp.types.vector(3, kind)) for value in (corners, normals))]
    outputs = [as_array(faces), as_vectors(places), as_vectors(directions)]
    launch_beside(points, nearest_kernel(kind), len(points), [wp.uint64(mesh), int(winding), as_array(_order(points)), *tables, *outputs], share=POINT_SHARE)
    return faces, places, directions


@nearest_on_mesh.register_fake
def _nearest_shapes(points: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return points.new_empty(len(points), dtype=torch.int32), points.new_empty(points.shape), points.new_empty(points.shape)


def _order(points: Tensor) -> Tensor:
    """int32 (N): the points cell by cell of a grid of 32^3, so that the search meets the same faces again while they are in the cache."""
    if len(points) < SORTED_FROM:
        return torch.arange(len(points), dtype=torch.int32, device=points.device)
    low, high = points.amin(0), points.amax(0)
    cells = ((points - low) / (high - low).clamp_min(torch.finfo(points.dtype).tiny) * 31.0).long()
    return torch.argsort((cells[:, 0] * 32 + cells[:, 1]) * 32 + cells[:, 2], stable=True).to(torch.int32)


class MeshQuery:
    """A mesh made ready for queries; making it costs far more than asking it once.

    Distances are to the nearest point of any face, negative inside. Inside is, by `sign`,

    - `"normal"`: behind the nearest corner, edge or face, by its angle-weighted pseudonormal. Exact for closed meshes; for open ones, as a terrain, it is the
      side of the surface, which beyond an open border is that of the border's own faces.
    - `"winding"`: where the mesh winds around the point by more than a half. Slower, and right also where a closed mesh has small holes, or parts that overlap.

    Vertices in one place count as one. Faces without area are left out.

    Args:
        mesh: its vertices may carry gradients; they are not to be changed while the query is used.
        sign: how inside is told from outside.

    Attributes:
        closed: whether each edge has two faces, which run along it in opposite directions.

    Raises:
        ValueError: in one sentence, if the mesh has no face with an area.
    """

    def __init__(self, mesh: Mesh, *, sign: Literal["normal", "winding"] = "normal") -> None:
        if sign not in ("normal", "winding"):
            raise ValueError(f"mesh query sign: expected 'normal' or 'winding', got {sign!r}.")
        self.mesh, self.sign = mesh, sign
        vertices = mesh.vertices.detach().double()
        corners = vertices[mesh.faces]
        ab, bc, ca = (corners.roll(-1, 1) - corners).unbind(1)
        twice = torch.linalg.cross(ab, -ca).norm(dim=-1)
        kept = twice > SLIVER * sum(edge.square().sum(-1) for edge in (ab, bc, ca))
        if not bool(kept.any()):
            raise ValueError(f"mesh: expected a face with an area, got {len(mesh.faces)} faces without; check the faces and the vertices.")
        self._faces = mesh.faces[kept]
        normals, self.closed = _pseudonormals(vertices, mesh.faces)
        used = corners[kept].reshape(-1, 3)
        origin = (used.amin(0) + used.amax(0)) / 2
        self._origin = origin.to(mesh.vertices.dtype)
        self._corners = (corners[kept] - self._origin.double()).to(mesh.vertices.dtype)
        self._normals = normals[kept].to(mesh.vertices.dtype)
        # Warp's mesh reads these two arrays as long as it lives
        self._points = wp.from_torch(self._corners.float().reshape(-1, 3).contiguous(), dtype=wp.vec3)
        self._indices = wp.from_torch(torch.arange(len(self._points), dtype=torch.int32, device=vertices.device))
        with torch_stream(vertices.device):
            self._bounds = wp.Mesh(
                self._points,
                self._indices,
                support_winding_number=sign == "winding",
                bvh_constructor="sah" if vertices.device.type == "cpu" else None,
                bvh_leaf_size=4,
            )
        self._id = int(self._bounds.id)

    def signed_distance(self, points: Tensor) -> Tensor:
        """Distances (*B, N) [m] of points (*B, N, 3) [m], with gradients by points and vertices; on the surface they are those of the pseudonormal.

        Raises:
            ValueError: in one sentence, if points are not finite, or of another type or device than the vertices.
        """
        vertices = self.mesh.vertices
        if points.ndim < 2 or points.shape[-1] != 3 or points.dtype != vertices.dtype or points.device != vertices.device:
            raise ValueError(
                f"mesh query points: expected {vertices.dtype} (*B, N, 3) on {vertices.device}, got {points.dtype} {tuple(points.shape)} on {points.device}."
            )
        flat = points.reshape(-1, 3)
        local = flat.detach() - self._origin
        if not torch.compiler.is_compiling() and not bool(local.isfinite().all()):
            raise ValueError("mesh query points: expected finite numbers, got NaN or infinity.")
        faces, places, directions = nearest_on_mesh(local, self._corners, self._normals, self._id, self.sign == "winding")
        corners = vertices.index_select(0, self._faces.index_select(0, faces).flatten()).view(-1, 3, 3)
        return ((flat - (places.unsqueeze(-1) * corners).sum(1)) * directions).sum(-1).view(points.shape[:-1])


def _pseudonormals(vertices: Tensor, faces: Tensor) -> tuple[Tensor, bool]:
    """Unit normals (F, 7, 3) of each face's corners (weighted by angles), edges (the mean of their faces) and inside, and whether the mesh is closed."""
    ids = torch.zeros(len(vertices), dtype=torch.int64, device=vertices.device)
    for column in vertices.T:  # vertices in one place count as one
        _, rank = torch.unique(column, return_inverse=True)
        _, ids = torch.unique(ids * len(vertices) + rank, return_inverse=True)
    corners, ids = vertices[faces], ids[faces]
    after, before = corners.roll(-1, 1) - corners, corners.roll(1, 1) - corners
    normal = torch.nn.functional.normalize(torch.linalg.cross(after[:, 0], before[:, 0]), dim=-1)
    angles = torch.atan2(torch.linalg.cross(after, before).norm(dim=-1), (after * before).sum(-1))
    at_corners = torch.zeros_like(vertices).index_add_(0, ids.flatten(), (angles.unsqueeze(-1) * normal.unsqueeze(1)).flatten(0, 1))[ids]
    ends = torch.stack((ids, ids.roll(-1, 1)), -1).flatten(0, 1)  # (3 F, 2) directed edges
    low, high = ends.sort(-1).values.unbind(-1)
    _, edge_ids, counts = torch.unique(low * len(vertices) + high, return_inverse=True, return_counts=True)
    forward = torch.where(ends[:, 0] < ends[:, 1], 1, -1)
    balance = torch.zeros(len(counts), dtype=torch.int64, device=faces.device).index_add_(0, edge_ids, forward)
    at_edges = torch.zeros(len(counts), 3, dtype=vertices.dtype, device=faces.device).index_add_(0, edge_ids, normal.repeat_interleave(3, 0))[edge_ids]
    closed = bool(((counts == 2) & (balance == 0)).all())
    table = torch.cat((at_corners, at_edges.view(-1, 3, 3), normal.unsqueeze(1)), 1)
    return torch.nn.functional.normalize(table, dim=-1), closed
