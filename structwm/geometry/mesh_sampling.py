"""Points on and in triangle meshes, and what a mesh consists of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structwm.geometry.mesh import Mesh
from structwm.geometry.signed_distance import MeshQuery


def face_areas(mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Areas (F,) [m^2] and unit normals (F, 3) of the faces; the normal of a face without area is 0."""
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    return cross.norm(dim=-1) / 2, torch.nn.functional.normalize(cross, dim=-1)


def mesh_volume(mesh: Mesh) -> Tensor:
    """Enclosed volume [m^3] of a closed mesh, by the divergence theorem."""
    middle = mesh.vertices.mean(0)
    a, b, c = (mesh.vertices - middle)[mesh.faces].unbind(1)
    return (a * torch.linalg.cross(b, c)).sum() / 6


def sample_surface(mesh: Mesh, count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points (count, 3) [m] spread uniformly at random over the surface, and the faces (count,) that they lie on.

    Raises:
        ValueError: if no face has an area.
    """
    areas = face_areas(mesh)[0].double()
    if not bool(areas.sum() > 0):
        raise ValueError("sample_surface: expected a mesh with a face that has an area, got none.")
    generator = torch.Generator().manual_seed(seed)
    total = areas.cumsum(0)
    place = (torch.arange(count, dtype=torch.float64) + torch.rand(count, generator=generator, dtype=torch.float64)) / count * total[-1].cpu()
    face = torch.searchsorted(total, place.to(total), right=True).clamp_max(len(areas) - 1)
    u, v = torch.rand(2, count, generator=generator, dtype=torch.float64).to(mesh.vertices).unsqueeze(-1)
    root = u.sqrt()
    a, b, c = mesh.vertices[mesh.faces[face]].unbind(1)
    return (1 - root) * a + root * (1 - v) * b + root * v * c, face


def thin_points(points: Tensor, spacing: float, *, seed: int = 0) -> Tensor:
    """Indices of points (N, 3) no two of which are nearer than `spacing` [m] to each other, while every other point has one of them that near.

    The points are gone through in random order (dart throwing; Cook, ACM TOG 1986, on given darts), so that what is kept is spread like a Poisson disk.
    """
    import numpy as np
    from scipy.spatial import cKDTree

    places = points.detach().cpu().double().numpy()
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).numpy()
    tree, taken, kept = cKDTree(places), np.zeros(len(places), bool), []
    for chunk in np.array_split(order, max(1, math.ceil(len(order) / 4096))):
        chunk = chunk[~taken[chunk]]
        for index, near in zip(chunk, tree.query_ball_point(places[chunk], spacing), strict=True) if len(chunk) else ():
            if not taken[index]:
                kept.append(int(index))
                taken[near] = True
    return torch.tensor(sorted(kept), dtype=torch.int64, device=points.device)


def interior_points(mesh: Mesh | MeshQuery, spacing: float, *, margin: float | None = None, jitter: float = 0.25, seed: int = 0) -> Tensor:
    """Points (N, 3) [m] inside a closed mesh: those of a jittered body-centred grid that lie deeper than `margin`.

    Args:
        mesh: closed.
        spacing: about that between neighbours [m].
        margin: least depth under the surface [m]; half of the spacing if not given, so that a layer of points on the surface fits around.
        jitter: largest displacement of each coordinate, in units of the spacing; 0 for a regular grid.
        seed: of the displacements.

    Raises:
        ValueError: if the spacing is not above 0.
    """
    if not spacing > 0:
        raise ValueError(f"interior_points: expected a spacing above 0 m, got {spacing}.")
    query = mesh if isinstance(mesh, MeshQuery) else MeshQuery(mesh)
    vertices = query.mesh.vertices.detach()
    low, high = vertices.amin(0), vertices.amax(0)
    side = spacing * 2 / math.sqrt(3)  # of the cube whose corners and middle are `spacing` apart
    counts = [int((size / side).ceil()) + 1 for size in high - low]
    grid = torch.cartesian_prod(*(torch.arange(n) for n in counts)).to(vertices) * side + low
    points = torch.cat((grid, grid + side / 2))
    noise = torch.rand(points.shape, generator=torch.Generator().manual_seed(seed)).to(points)
    points = points + jitter * spacing * (2 * noise - 1)
    depth = -query.signed_distance(points)
    return points[depth > (spacing / 2 if margin is None else margin)]


def mesh_parts(mesh: Mesh) -> list[Mesh]:
    """The parts of a mesh that hang together by shared vertices, those of the largest area first; vertices without faces are left out."""
    from structwm.geometry.spring_graph import graph_pieces

    labels = graph_pieces(len(mesh.vertices), torch.cat((mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]])))
    areas = face_areas(mesh)[0].double()
    of_face = labels[mesh.faces[:, 0]].cpu()
    sizes = torch.zeros(int(of_face.max()) + 1 if len(of_face) else 0, dtype=torch.float64).index_add_(0, of_face, areas.cpu())
    return [submesh(mesh, (of_face == label).to(mesh.faces.device)) for label in sizes.argsort(descending=True).tolist() if sizes[label] > 0]


def submesh(mesh: Mesh, kept: Tensor) -> Mesh:
    """Some faces of a mesh, by a bool mask (F,), with the vertices that they need."""
    faces = mesh.faces[kept]
    used, faces = faces.unique(return_inverse=True)
    return Mesh(mesh.vertices[used], faces, None if mesh.colors is None else mesh.colors[used])
