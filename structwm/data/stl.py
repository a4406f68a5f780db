"""STL files of triangles, binary and text; normals and colours are passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.ply import bad, open_data

Array = NDArray[Any]

_HEAD = 84  # bytes before the first triangle: a comment of 80, a count of 4
_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read_stl(path: Path) -> Array:
    """The triangles of a file, corners (n, 3, 3) float32 in the file's unit.

    Raises:
        BadData: in one sentence, if the file is missing, cut short, holds no triangle, or a coordinate is no finite number.
    """
    with open_data(path) as stream:
        content = stream.read()
    count = int.from_bytes(content[_HEAD - 4 : _HEAD], "little") if len(content) >= _HEAD else -1
    if count >= 0 and len(content) == _HEAD + count * _RECORD.itemsize:
        corners = np.frombuffer(content, _RECORD, count, _HEAD)["corners"].astype(np.float32)
    elif content.lstrip()[:5] == b"solid":
        corners = _read_text(content, path)
    else:
        expected = f"{_HEAD + count * _RECORD.itemsize} bytes, for {count} triangles" if count >= 0 else f"at least {_HEAD} bytes"
        raise bad(path, "the whole file", "size", expected, f"{len(content)} bytes")
    if not len(corners):
        raise bad(path, "the whole file", "facet", "at least one triangle", "none")
    finite = np.isfinite(corners).all((1, 2))
    if not finite.all():
        raise bad(path, int(np.flatnonzero(~finite)[0]), "vertex", "finite coordinates", str(corners[~finite][0].tolist()))
    return corners


def _read_text(content: bytes, path: Path) -> Array:
    values = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        words = line.split()
        if words[:1] == ["vertex"]:
            try:
                x, y, z = (float(word) for word in words[1:])
            except ValueError:
                raise bad(path, f"line {number}", "vertex", "3 coordinates", repr(line[:80])) from None
            values.append((x, y, z))
    if len(values) % 3:
        raise bad(path, "the whole file", "vertex", "3 corners to each triangle", f"{len(values)} corners")
    return np.array(values, np.float32).reshape(-1, 3, 3)
