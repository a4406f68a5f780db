"""A solid as a few convex pieces, as contact solvers want it: by CoACD (the optional extra `convex`), or its convex hull."""

from __future__ import annotations

import numpy as np
import torch

from structwm.geometry.convex import few_vertices
from structwm.geometry.mesh import Mesh


def has_coacd() -> bool:
    """Whether the package `coacd` is installed."""
    from importlib.util import find_spec

    return find_spec("coacd") is not None


def convex_pieces(mesh: Mesh, *, concavity: float = 0.05, most: int = 16, vertices: int = 64, decompose: bool | None = None, seed: int = 0) -> tuple[Mesh, ...]:
    """Convex pieces that together stand for a closed mesh.

    Collision-aware approximate convex decomposition (Wei et al., ACM TOG 2022) by the package `coacd`. Without it, or with `decompose=False`, the one convex
    hull.

    Args:
        mesh: closed; a few thousand faces are enough, more take longer.
        concavity: how deep hollows may be that are filled, in units of CoACD: relative to the mesh's size; smaller gives more pieces.
        most: pieces.
        vertices: of a piece at most.
        decompose: False for the hull; True refuses to do without `coacd`.
        seed: of the search.

    Raises:
        ImportError: if `decompose` is True and `coacd` is not installed.
        ValueError: if the mesh does not span a volume.
    """
    if decompose and not has_coacd():
        raise ImportError("Convex pieces need the package coacd: pip install 'structwm[convex]'.")
    points = mesh.vertices.detach().cpu().double().numpy()
    if decompose is False or not has_coacd():
        return (hull_mesh(points, vertices),)
    import coacd

    coacd.set_log_level("off")
    found = coacd.run_coacd(
        coacd.Mesh(points, mesh.faces.cpu().numpy().astype(np.int32)), threshold=concavity, max_convex_hull=most, max_ch_vertex=vertices, seed=seed
    )
    return tuple(hull_mesh(np.asarray(corners, dtype=np.float64), vertices) for corners, _ in found)


def hull_mesh(points: np.ndarray, limit: int = 64) -> Mesh:
    """The convex hull of points (n, 3) as a closed mesh of at most `limit` vertices, faces anticlockwise seen from outside."""
    from scipy.spatial import ConvexHull

    corners = few_vertices(points, limit)
    hull = ConvexHull(corners)
    faces = hull.simplices.copy()
    a, b, c = (corners[faces[:, k]] for k in range(3))
    inward = (np.cross(b - a, c - a) * hull.equations[:, :3]).sum(-1) < 0
    faces[inward] = faces[inward][:, ::-1]
    used, numbers = np.unique(faces, return_inverse=True)
    return Mesh(torch.from_numpy(corners[used]).float(), torch.from_numpy(numbers.reshape(-1, 3)).long())
