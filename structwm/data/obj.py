"""Wavefront OBJ files of triangles, one mesh for each object of the file; normals, textures and materials are passed over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from structwm.data.ply import bad, open_data

if TYPE_CHECKING:
    from structwm.geometry.mesh import Mesh


def read_obj(path: Path) -> tuple[Mesh, ...]:
    """The objects of a file in its order, vertices float32 in the file's unit; a file without `o` lines is one object.

    Raises:
        BadData: in one sentence that names file, line and field, if the file is missing or holds anything but triangles of its object's own vertices.
    """
    import torch

    from structwm.geometry.mesh import Mesh

    with open_data(path) as stream:
        lines = stream.read().decode("utf-8", "replace").splitlines()
    vertices: list[tuple[float, float, float]] = []
    starts: list[int] = []  # how many vertices stand before each object
    faces: list[list[tuple[int, int, int]]] = []
    for number, line in enumerate(lines, start=1):
        kind, *words = line.split() or [""]
        if kind == "o" or (kind in ("v", "f") and not starts):
            starts.append(len(vertices))
            faces.append([])
        try:
            if kind == "v":
                x, y, z = (float(word) for word in words[:3])
                vertices.append((x, y, z))
            elif kind == "f":
                a, b, c = (int(word.partition("/")[0]) - 1 - starts[-1] for word in words)
                faces[-1].append((a, b, c))
        except ValueError:
            expected = "3 coordinates" if kind == "v" else "the indices of 3 vertices"
            raise bad(path, f"line {number}", kind, expected, repr(line[:80])) from None
    if not starts or not all(faces):
        raise bad(path, "the whole file", "f", "objects with triangles", "an object without" if starts else "no object")
    meshes = []
    for place, (start, end) in enumerate(zip(starts, [*starts[1:], len(vertices)], strict=True)):
        try:
            meshes.append(Mesh(torch.tensor(vertices[start:end]).reshape(-1, 3), torch.tensor(faces[place])))
        except ValueError as error:
            raise bad(path, f"object {place}", "v, f", "triangles of the object's own finite vertices", str(error).rstrip(".")) from error
    return tuple(meshes)
