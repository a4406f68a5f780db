"""What a deformable thing is, from files: points and springs, a mesh, or a rod."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.data.errors import BadData, DataUnavailable
from structwm.data.rope_motion import CABLES, DIRECTOR
from structwm.geometry import knn
from structwm.geometry.mesh import Mesh
from structwm.render.mesh_views import points_on_mesh

from .rod_scene import as_direction

SPRINGS, LINE = "springs.npz", "centre_line.json"  # what `structwm reconstruct` calls them
SURFACE = 1500  # points of a mesh's surface that clouds are compared with
NEAREST = 6  # particles that a point of the surface follows


@dataclass(frozen=True, eq=False)
class SpringShape:
    """Points of a body, what joins them where that is known, and a dense surface."""

    points: Tensor  # (N, 3) float64 [m]
    surface: Tensor  # (S, 3) of the surface [m]
    edges: Tensor | None = None  # int64 (M, 2); None: near points are to be joined
    rest_lengths: Tensor | None = None  # (M,) [m]


@dataclass(frozen=True, eq=False)
class RodShape:
    """A rod, of which what is None follows from its recording."""

    vertices: Tensor | None = None  # (V, 3) of the centre line [m]
    driven: tuple[int, ...] = (0, -1)
    radius: float = 0.005  # [m]
    director: tuple[float, float, float] | None = None  # of a rod that may be curved by nature, as `Rod` has it


def is_shape(path: str | Path) -> bool:
    """Whether this names a deformable thing rather than a rigid scene; nothing of it is checked."""
    file = Path(path)
    if file.is_dir():
        return (file / SPRINGS).is_file() or (file / LINE).is_file()
    if str(path) in CABLES:
        return True
    if not file.is_file() or file.suffix not in (".npz", ".json"):
        return False
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as content:
                return {"points", "edges"} <= set(content.files) or {"mesh_nodes", "mesh_triangles"} <= set(content.files)
        return bool({"springs", "rod", "vertices"} & set(json.loads(file.read_text(encoding="utf-8"))))
    except Exception:  # it is read again where errors are told
        return False


def read_shape(path: str | Path) -> SpringShape | RodShape:
    """A deformable thing.

    Args:
        path: a folder that `structwm reconstruct` wrote (its centre line, where there is one, or else its springs); an `.npz` file with `points` (N, 3) and
            `edges` (M, 2), and, if wanted, `rest_lengths` (M,) and `surface`, the number of points that are on the surface, which come first; one with
            `mesh_nodes` (N, 3) and `mesh_triangles` (F, 3), such as what `SoftRecording.save` wrote; a `.json` file {"springs": {"points": ..., "edges": ...}},
            {"rod": {"vertices": [[x, y, z], ...], "driven": [0, -1], "radius": 0.005, "director": [0, 1, 0]}}, all of whose entries may be left out (only a
            rod with a director is taken for one that is curved by nature), or {"vertices": ...}; or the name of a cable of the set `deform_rope`.

    Raises:
        DataUnavailable: if there is no such file.
        BadData: if it cannot be right.
    """
    file = Path(path)
    if str(path) in CABLES and not file.exists():
        return RodShape(driven=(0, 1, -2, -1), director=DIRECTOR)
    if file.is_dir():
        file = file / (LINE if (file / LINE).is_file() else SPRINGS)
    if not file.is_file():
        raise DataUnavailable(f"expected a deformable shape at {file}, found none; give what structwm reconstruct wrote, or points and edges as .npz or .json.")
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as content:
                arrays: dict[str, Any] = {name: content[name] for name in content.files}
            return _springs(file, arrays)
        content = json.loads(file.read_text(encoding="utf-8"))
        if "springs" in content:
            return _springs(file, content["springs"])
        return _rod(file, content.get("rod", content))
    except BadData:
        raise
    except Exception as error:  # damaged and foreign files fail in many ways
        raise _bad(file, "the whole file", "points and edges, a mesh, or a rod", type(error).__name__) from error


def _springs(file: Path, arrays: Mapping[str, Any]) -> SpringShape:
    if "mesh_nodes" in arrays:
        points, triangles = torch.as_tensor(arrays["mesh_nodes"]).double(), torch.as_tensor(arrays["mesh_triangles"]).long()
        _check_points(file, "mesh_nodes", points)
        if triangles.ndim != 2 or triangles.shape[1] != 3 or int(triangles.min()) < 0 or int(triangles.max()) >= len(points):
            raise _bad(file, "mesh_triangles", f"numbers (F, 3) of {len(points)} nodes", str(tuple(triangles.shape)))
        faces, weights = points_on_mesh(Mesh(points, triangles), SURFACE)
        return SpringShape(points, (weights.unsqueeze(-1) * points[triangles[faces]]).sum(1))
    points, edges = torch.as_tensor(np.asarray(arrays["points"])).double(), torch.as_tensor(np.asarray(arrays["edges"])).long()
    _check_points(file, "points", points)
    if edges.ndim != 2 or edges.shape[-1] != 2 or not len(edges) or int(edges.min()) < 0 or int(edges.max()) >= len(points):
        raise _bad(file, "edges", f"pairs (M, 2) of {len(points)} points", str(tuple(edges.shape)))
    lengths = None
    if "rest_lengths" in arrays:
        lengths = torch.as_tensor(np.asarray(arrays["rest_lengths"])).double()
        if lengths.shape != (len(edges),) or not bool((lengths > 0).all()):
            raise _bad(file, "rest_lengths", f"({len(edges)},) above zero", str(tuple(lengths.shape)))
    outside = int(arrays.get("surface", len(points)))
    if not 1 <= outside <= len(points):
        raise _bad(file, "surface", f"a number from 1 to {len(points)}", str(outside))
    return SpringShape(points, points[:outside], edges, lengths)


def _check_points(file: Path, field: str, points: Tensor) -> None:
    if points.ndim != 2 or points.shape[-1] != 3 or len(points) < 4 or not bool(points.isfinite().all()):
        raise _bad(file, field, "at least four finite points (N, 3) [m]", str(tuple(points.shape)))


def _rod(file: Path, content: Mapping[str, Any]) -> RodShape:
    unknown = sorted(set(content) - {"vertices", "driven", "radius", "length", "director"})
    if unknown:
        raise _bad(file, unknown[0], "vertices, driven, radius and director of a rod alone", "another field")
    vertices = None
    if "vertices" in content:
        vertices = torch.as_tensor(content["vertices"]).double()
        if vertices.ndim != 2 or vertices.shape[-1] != 3 or len(vertices) < 3 or not bool(vertices.isfinite().all()):
            raise _bad(file, "vertices", "at least three finite vertices (V, 3) [m]", str(tuple(vertices.shape)))
    radius = float(content.get("radius", RodShape.radius))
    if not radius > 0:
        raise _bad(file, "radius", "a number above zero [m]", str(radius))
    rod = RodShape(vertices, tuple(int(k) for k in content.get("driven", RodShape.driven)), radius)
    if content.get("director") is None:
        return rod
    try:
        return replace(rod, director=as_direction(content["director"], True))
    except ValueError as error:
        raise _bad(file, "director", "a direction in the world, three numbers", str(content["director"])) from error


def _bad(file: Path, field: str, expected: str, got: str) -> BadData:
    return BadData.at(file=file, record="the shape", field=field, expected=expected, got=got, advice="docs/calibration.md says what a shape is")


def farthest(points: Tensor, count: int, first: Tensor | None = None) -> Tensor:
    """Numbers of at most `count` points (N, 3), each the farthest from those before; those of `first` to begin with."""
    if count >= len(points):
        return torch.arange(len(points))
    chosen = [int((points - points.mean(0)).norm(dim=-1).argmax())] if first is None or not len(first) else first.tolist()
    far = torch.cdist(points, points[chosen]).amin(-1)
    while len(chosen) < count:
        chosen.append(int(far.argmax()))
        far = torch.minimum(far, (points - points[chosen[-1]]).norm(dim=-1))
    return torch.tensor(sorted(chosen))


def between(points: Tensor, particles: Tensor, *, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Points (S, 3) as weighted means of near particles (P, 3): int64 corners (S, K) and weights (S, K) that add up to one.

    Weights are those of locally linear embedding (Roweis and Saul, Science 2000): they repeat the point as well as the particles allow, and move rigidly with
    them.
    """
    near = knn(points, particles, min(NEAREST, len(particles))).indices
    away = particles[near] - points.unsqueeze(1)
    gram = away @ away.mT
    size = gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)
    gram = gram + ridge * size[:, None, None] * torch.eye(near.shape[1]).to(gram)
    weights = torch.linalg.solve(gram, torch.ones_like(gram[..., :1])).squeeze(-1)
    return near, weights / weights.sum(-1, keepdim=True)
