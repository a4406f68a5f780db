"""Meshes and surface points as files that other programs read: Wavefront OBJ with colours of vertices, PLY of points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from structwm.data.atomic import write_text
from structwm.data.ply import write_ply

if TYPE_CHECKING:
    from structwm.data.cloud_files import PointCloud
    from structwm.geometry.mesh import Mesh


def write_obj(meshes: Sequence[Mesh], path: str | Path) -> None:
    """Write triangle meshes, one object each, with red, green, blue behind the coordinates of vertices that have colours; `read_obj` reads them again.

    Raises:
        ValueError: if there is none.
    """
    if not meshes:
        raise ValueError(f"{path}: expected at least one mesh, got none.")
    lines, start = [], 1
    for number, mesh in enumerate(meshes):
        lines.append(f"o part_{number}")
        rows = mesh.vertices if mesh.colors is None else np.concatenate((mesh.vertices.numpy(), mesh.colors.numpy()), 1)
        lines += ["v " + " ".join(f"{value:.9g}" for value in row) for row in rows.tolist()]
        lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + start).tolist()]
        start += len(mesh.vertices)
    write_text(Path(path), "\n".join(lines) + "\n")


def write_points(cloud: PointCloud, path: str | Path) -> None:
    """Write points as a binary PLY of floats: x y z, and nx ny nz and red green blue in [0, 1] where there are normals and colours; needs no Open3D."""
    names, parts = ["x", "y", "z"], [cloud.positions]
    for more, value in ((("nx", "ny", "nz"), cloud.normals), (("red", "green", "blue"), cloud.colors)):
        if value is not None:
            names += more
            parts.append(value)
    values = np.concatenate([part.detach().cpu().float().numpy() for part in parts], 1)
    write_ply(Path(path), {"vertex": (names, values)})
