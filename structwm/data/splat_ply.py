"""Splats as the PLY files of 3-D Gaussian splatting (Kerbl et al., SIGGRAPH 2023): logarithms of scales, logits of opacities, coefficients of harmonics.

A splat is a dictionary of float32 arrays by the names of the fields of `structwm.state.Splats`, here and in the modules of the other formats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.ply import bad, check_finite, columns_of, write_ply

Array = NDArray[Any]

HARMONIC_0 = math.sqrt(1 / math.pi) / 2  # the harmonic of degree 0, a constant: colors are 0.5 + HARMONIC_0 * f_dc
LOWEST, HIGHEST = -104.0, 20.0
"""Logarithms and logits are written within this range; float32 makes 0 of what is below and, of a logit above, an opacity of 1."""

_MEANS = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")  # always 0, but many readers count on them
_COLORS = tuple(f"f_dc_{i}" for i in range(3))
_SCALES = tuple(f"scale_{i}" for i in range(3))
_ROTATIONS = tuple(f"rot_{i}" for i in range(4))
_NO_SPLATS = "write the file with a trainer of splats, or read it with `read_cloud` if it is a cloud of points"


def decode_ply(table: Array, path: Path) -> dict[str, Array]:
    """The splats of the table of vertices; properties may stand in any order, others are ignored."""
    rest = harmonic_names(table, path)
    found = {
        "means": _single(table, _MEANS, path),
        "rotations": _single(table, _ROTATIONS, path),
        "scales": scales_of(columns_of(table, _SCALES, path, advice=_NO_SPLATS), path),
        "opacities": opacity_of(columns_of(table, ("opacity",), path, advice=_NO_SPLATS)[:, 0]),
        "colors": color_of(columns_of(table, _COLORS, path, advice=_NO_SPLATS)),
    }
    if rest:
        found["harmonics"] = np.ascontiguousarray(_single(table, rest, path).reshape(len(table), 3, len(rest) // 3).transpose(0, 2, 1))
    return found


def write_splat_ply(path: Path, splats: Mapping[str, Array]) -> None:
    """Write the layout of the reference implementation, binary and little-endian."""
    count = len(splats["means"])
    coefficients = splats.get("harmonics", np.empty((count, 0, 3), np.float32)).transpose(0, 2, 1)
    parts = (
        (_MEANS, splats["means"]),
        (_NORMALS, np.zeros((count, 3), np.float32)),
        (_COLORS, _undone(splats["colors"], color_of, _coefficient)),
        (tuple(f"f_rest_{i}" for i in range(3 * coefficients.shape[2])), coefficients),
        (("opacity",), _undone(splats["opacities"], opacity_of, _logit)[:, None]),
        (_SCALES, log_scales(splats["scales"])),
        (_ROTATIONS, splats["rotations"]),
    )
    names = [name for part, _ in parts for name in part]
    values = np.empty((count, len(names)), np.float32)
    place = 0
    for part, columns in parts:
        values[:, place : place + len(part)].reshape(columns.shape)[...] = columns
        place += len(part)
    write_ply(path, {"vertex": (names, values)})


def harmonic_names(table: Array, path: Path) -> tuple[str, ...]:
    """The properties f_rest_0, f_rest_1, ... of a table, one for each coefficient and channel, all of red first.

    Raises:
        BadData: if they are not as many as degree 0, 1, 2 or 3 has, or one is missing.
    """
    count = sum(name.startswith("f_rest_") for name in table.dtype.names or ())
    if count not in (0, 9, 24, 45):
        raise bad(path, "the header", "f_rest", "0, 9, 24 or 45 properties (harmonics up to degree 0, 1, 2 or 3)", f"{count}")
    return tuple(f"f_rest_{i}" for i in range(count))


def scales_of(logarithms: Array, path: Path) -> Array:
    """Scales [m] of their logarithms (N, 3), computed in float64 and rounded once.

    Raises:
        BadData: if one is beyond float32.
    """
    scales = _exponential(logarithms)
    if not (fine := np.isfinite(scales)).all():
        record, axis = np.argwhere(~fine)[0]
        expected = "the logarithm of a scale below 3e38 m"
        raise bad(path, int(record), f"scale_{axis}", expected, str(logarithms[record, axis]), "remove the record or write the file again")
    return scales


def log_scales(scales: Array) -> Array:
    """Float32 logarithms of scales, from which `scales_of` gives the same scales."""
    return _undone(scales, _exponential, _logarithm)


def opacity_of(logits: Array) -> Array:
    """Opacities of logits, computed in float64 and rounded once."""
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def color_of(coefficients: Array) -> Array:
    """Colors of coefficients of degree 0, not clamped."""
    return (0.5 + HARMONIC_0 * coefficients.astype(np.float64)).astype(np.float32)


def _undone(values: Array, forward: Callable[[Array], Array], inverse: Callable[[Array], Array]) -> Array:
    """Float32 numbers that `forward` takes to the float32 `values` bit for bit where there are such, as for all values that `forward` made; else the nearest.

    Where the exponent of `values` changes, rounding to nearest can miss by one step, so both neighbors are tried.
    """
    found = inverse(values.astype(np.float64)).astype(np.float32)
    missed = np.flatnonzero(forward(found) != values)
    for side in (-np.inf, np.inf):
        neighbors = np.nextafter(found.flat[missed], np.float32(side))
        right = forward(neighbors) == values.flat[missed]
        found.flat[missed[right]] = neighbors[right]
    return found


def _exponential(logarithms: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(logarithms.astype(np.float64)).astype(np.float32)


def _logarithm(scales: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(scales), LOWEST)


def _logit(opacity: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.clip(np.log(opacity) - np.log1p(-opacity), LOWEST, HIGHEST)


def _coefficient(color: Array) -> Array:
    return (color - 0.5) / HARMONIC_0


def _single(table: Array, names: tuple[str, ...], path: Path) -> Array:
    """Columns as float32, still finite."""
    with np.errstate(over="ignore"):
        values = columns_of(table, names, path, advice=_NO_SPLATS).astype(np.float32, copy=False)
    check_finite(values, names, path)
    return values
