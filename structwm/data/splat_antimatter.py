"""Splats as records of 32 bytes without a header (`.splat`, of the web viewer antimatter15/splat): places and scales exact, the rest in single bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.atomic import write_bytes
from structwm.data.ply import bad, check_finite, open_data

Array = NDArray[Any]

RECORD = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("rotation", "u1", 4)])
_LENGTHS = np.arange(126.0, 130.5, 0.5)


def read_antimatter(path: Path) -> dict[str, Array]:
    """The splats of a file; quaternions are of length 1, colors and opacities multiples of 1/255."""
    with open_data(path) as stream:
        content = stream.read()
    if content[:4] in (b"ply\n", b"ply\r"):
        raise bad(path, "the whole file", "header", "records of 32 bytes without a header", "a PLY file", "give it the suffix .ply")
    if not content or len(content) % RECORD.itemsize:
        raise bad(path, "the whole file", "length", "a multiple of 32 bytes, and not 0", f"{len(content)}")
    table = np.frombuffer(content, RECORD)
    for field in ("position", "scale"):
        check_finite(table[field], [f"{field} {axis}" for axis in "xyz"], path)
    if (negative := (table["scale"] < 0).any(-1)).any():
        record = int(np.argmax(negative))
        raise bad(path, record, "scale", "no number below 0", str(table["scale"][record]), "remove the record or write the file again")
    bytes_ = table["color"].astype(np.float64) / 255
    quaternions = table["rotation"].astype(np.float64) - 128
    lengths = np.linalg.norm(quaternions, axis=-1)
    if (lengths == 0).any():
        raise bad(path, int(np.argmin(lengths)), "rotation", "a quaternion", "zero (four bytes of 128)", "remove the record or write the file again")
    return {
        "means": table["position"].astype(np.float32),
        "rotations": (quaternions / lengths[:, None]).astype(np.float32),
        "scales": table["scale"].astype(np.float32),
        "opacities": bytes_[:, 3].astype(np.float32),
        "colors": bytes_[:, :3].astype(np.float32),
    }


def write_antimatter(path: Path, splats: Mapping[str, Array]) -> None:
    """Write a file, in the order given; colors are clamped to [0, 1]. What was read is written with the same bytes, if its quaternions were about 128 long."""
    if not len(splats["means"]):
        raise ValueError(f"{path}: expected at least one splat, as a .splat file without any has no bytes, got none; write .ply.")
    table = np.empty(len(splats["means"]), RECORD)
    table["position"], table["scale"] = splats["means"], splats["scales"]
    table["color"] = np.rint(255 * np.clip(np.concatenate((splats["colors"], splats["opacities"][:, None]), -1, dtype=np.float64), 0, 1))
    table["rotation"] = _quaternion_bytes(splats["rotations"].astype(np.float64))
    write_bytes(path, [table.view(np.uint8).data])


def _quaternion_bytes(quaternions: Array) -> Array:
    """Of the bytes around 128 + 128 q those that point most nearly as q: readers normalise, so the length is free, and some lengths round better."""
    unit = quaternions / np.linalg.norm(quaternions, axis=-1, keepdims=True)
    best, least = np.zeros_like(unit), np.full(len(unit), np.inf)
    for length in _LENGTHS:
        rounded = np.clip(np.rint(length * unit), -128, 127)
        along = (rounded * unit).sum(-1, keepdims=True)
        error = ((rounded - along * unit) ** 2).sum(-1) / along[:, 0] ** 2
        whole = np.linalg.norm(rounded, axis=-1)
        better = (error < least) & (whole > _LENGTHS[0] - 0.25) & (whole < _LENGTHS[-1] + 0.25)  # lengths that are found again from the direction
        best[better], least[better] = rounded[better], error[better]
    return best + 128
