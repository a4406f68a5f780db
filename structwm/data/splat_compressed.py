"""Splats as PlayCanvas' compressed PLY files: 16 bytes a splat, relative to the extremes of its chunk of 256, and a byte for each coefficient of harmonics.

Places and logarithms of scales are fractions between the chunk's extremes, of 11, 10 and 11 bits, and colors of 8 bits each; opacities are fractions of 255;
of a quaternion the three smallest parts are kept. (PlayCanvas, developer.playcanvas.com/user-manual/gaussian-splatting; written by SuperSplat and
splat-transform.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.ply import bad, columns_of, table_of, write_ply
from structwm.data.splat_ply import harmonic_names, log_scales, scales_of

Array = NDArray[Any]

CHUNK = 256
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_MEASURED = (("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b"))
_EXTREMES = tuple(f"{side}_{name}" for names in _MEASURED for side in ("min", "max") for name in names)
_VECTOR, _COLOR = (11, 10, 11), (8, 8, 8, 8)  # bits, from the highest
_COMPACT_ENOUGH = 1.5
_SCALE_LIMIT = np.float32(20)  # of logarithms, as in the reference writer, so that one scale of 0 does not make its chunk coarse
_TIE = 0.005  # the part of a quaternion that is left out may be smaller than the largest by so much; rounding shifts it by half of that
_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def decode_compressed(tables: Mapping[str, Array], path: Path) -> dict[str, Array]:
    """The splats of a file, in its order; quaternions are of length 1."""
    chunks, vertices = table_of(tables, "chunk", path), table_of(tables, "vertex", path)
    colored = "min_r" in (chunks.dtype.names or ())
    extremes = columns_of(chunks, _EXTREMES[: 18 if colored else 12], path).astype(np.float64)
    packed = _codes(vertices, PACKED, "u4", path)
    count = len(packed)
    if len(extremes) != -(-count // CHUNK):
        raise bad(path, "element chunk", "count", f"{-(-count // CHUNK)}, one for every {CHUNK} of {count} splats", f"{len(extremes)}")
    sides = extremes.reshape(len(extremes), 3 if colored else 2, 2, 3)
    low, high = (np.repeat(sides[:, :, side], CHUNK, axis=0)[:count] for side in (0, 1))
    shares = np.stack([_fractions(packed[:, column], _VECTOR) for column in (0, 2)], 1)
    colors = _fractions(packed[:, 3], _COLOR)
    means, logarithms = (low[:, part] * (1 - shares[:, part]) + high[:, part] * shares[:, part] for part in (0, 1))
    found = {
        "means": means.astype(np.float32),
        "rotations": _quaternions(packed[:, 1]).astype(np.float32),
        "scales": scales_of(logarithms.astype(np.float32), path),
        "opacities": colors[:, 3].astype(np.float32),
        "colors": (low[:, 2] * (1 - colors[:, :3]) + high[:, 2] * colors[:, :3] if colored else colors[:, :3]).astype(np.float32),
    }
    if "sh" in tables:
        table = tables["sh"]
        if len(table) != count:
            raise bad(path, "element sh", "count", f"{count} as of element vertex", f"{len(table)}")
        codes = _codes(table, harmonic_names(table, path), "u1", path)
        found["harmonics"] = np.ascontiguousarray(_COEFFICIENTS[codes].reshape(count, 3, codes.shape[1] // 3).transpose(0, 2, 1))
    return found


def write_compressed(path: Path, splats: Mapping[str, Array]) -> Array:
    """Write a file; the order of its records, (N,) indices of the splats given.

    Splats that lie together share a chunk, so that extremes are near and codes fine: records stand along a Morton curve, unless the given order is about as
    compact already, as in a file that was read. Logarithms of scales are clamped to 20 either way, coefficients of harmonics to 4.
    """
    count = len(splats["means"])
    order = _compact_order(splats["means"])
    means, scales, colors, opacities, rotations = (splats[name][order] for name in ("means", "scales", "colors", "opacities", "rotations"))
    starts = np.arange(0, count, CHUNK)
    codes, extremes = [], []
    for values, bits in ((means, _VECTOR), (np.clip(log_scales(scales), -_SCALE_LIMIT, _SCALE_LIMIT), _VECTOR), (colors, _COLOR[:3])):
        low, high = (side.reduceat(values, starts) if count else values for side in (np.minimum, np.maximum))
        extremes += [low, high]
        low, width = (np.repeat(part, CHUNK, axis=0)[:count] for part in (low.astype(np.float64), high.astype(np.float64) - low))
        shares = np.divide(values - low, width, out=np.zeros_like(low), where=width > 0)
        codes.append(_rounded(shares, bits))
    painted = np.concatenate((codes[2], _rounded(opacities[:, None].astype(np.float64), _COLOR[3:])), -1)
    packed = np.stack([_packed(codes[0], _VECTOR), _packed_quaternions(rotations), _packed(codes[1], _VECTOR), _packed(painted, _COLOR)], -1)
    tables = {"chunk": (_EXTREMES, np.concatenate(extremes, -1)), "vertex": (PACKED, packed)}
    if "harmonics" in splats:
        bytes_ = np.minimum(np.floor(np.clip(splats["harmonics"], -4, 4) * 32 + 128), 255).astype(np.uint8)[order].transpose(0, 2, 1)
        tables["sh"] = (tuple(f"f_rest_{i}" for i in range(3 * bytes_.shape[2])), bytes_.reshape(count, 3 * bytes_.shape[2]))
    write_ply(path, tables)
    return order


def _codes(table: Array, names: tuple[str, ...], kind: str, path: Path) -> Array:
    """Columns of whole numbers of one type."""
    for name in names:
        if name in (table.dtype.names or ()) and table.dtype[name].str[1:] != kind:
            raise bad(path, "the header", name, f"a property of type {'uint' if kind == 'u4' else 'uchar'}", str(table.dtype[name]))
    return columns_of(table, names, path)


def _harmonic_values() -> Array:
    """The coefficient of each byte: the middle of those that become it, and -4 and 4 at the ends."""
    values = (np.arange(256) + 0.5) / 32 - 4
    values[[0, 255]] = -4, 4
    return values.astype(np.float32)


_COEFFICIENTS = _harmonic_values()


def _fractions(words: Array, bits: tuple[int, ...]) -> Array:
    """Unpack 32-bit words into fractions of the largest number of so many bits each."""
    shift = np.cumsum((0, *bits[:0:-1]))[::-1].astype(np.uint32)
    most = np.array([(1 << width) - 1 for width in bits], np.uint32)
    return ((words[:, None] >> shift) & most) / most.astype(np.float64)


def _rounded(shares: Array, bits: tuple[int, ...]) -> Array:
    """Fractions in whole numbers of so many bits."""
    most = np.array([(1 << width) - 1 for width in bits], np.float64)
    return np.clip(np.floor(shares * most + 0.5), 0, most).astype(np.uint32)


def _packed(codes: Array, bits: tuple[int, ...]) -> Array:
    shift = np.cumsum((0, *bits[:0:-1]))[::-1].astype(np.uint32)
    return np.bitwise_or.reduce(codes << shift, axis=-1)


def _quaternions(words: Array) -> Array:
    """Unit quaternions of words: two bits say which part is missing (the largest, above 0), then the other three in order, of ten bits each."""
    small = (_fractions(words & 0x3FFFFFFF, (2, 10, 10, 10))[:, 1:] - 0.5) * np.sqrt(2)
    largest = np.sqrt(np.maximum(0, 1 - (small**2).sum(-1, keepdims=True)))
    missing = (words >> 30).astype(np.int64)[:, None]
    found = np.empty((len(words), 4))
    np.put_along_axis(found, missing, largest, -1)
    np.put_along_axis(found, _OTHERS[missing[:, 0]], small, -1)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def _packed_quaternions(quaternions: Array) -> Array:
    """Words for quaternions. Where several parts are nearly the largest, any of them may be left out: that one is whose word comes nearest."""
    unit = quaternions.astype(np.float64)
    unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
    by_size = np.argsort(-np.abs(unit), axis=-1, kind="stable")
    sizes = np.take_along_axis(np.abs(unit), by_size, -1)
    words, errors = np.empty(len(unit), np.uint32), np.full(len(unit), np.inf)
    for rank in range(4):
        tied = np.flatnonzero(sizes[:, rank] > sizes[:, 0] - _TIE)
        missing, turned = by_size[tied, rank], unit[tied]
        turned = turned * np.where(np.take_along_axis(turned, missing[:, None], -1) < 0, -1.0, 1.0)
        small = _rounded(np.take_along_axis(turned, _OTHERS[missing], -1) / np.sqrt(2) + 0.5, (10, 10, 10))
        tried = _packed(np.concatenate((missing[:, None].astype(np.uint32), small), -1), (2, 10, 10, 10))
        read = _quaternions(tried)
        error = ((read - turned) ** 2).sum(-1)
        better = (error < errors[tied]) & (np.take_along_axis(read, missing[:, None], -1)[:, 0] > np.abs(read).max(-1) - _TIE)  # so that it is tried again
        words[tied[better]], errors[tied[better]] = tried[better], error[better]
    return words


def _compact_order(means: Array) -> Array:
    """The order of a Morton curve through the means, or the given one if its chunks span hardly more."""
    given = np.arange(len(means))
    low = means.min(0, initial=np.inf).astype(np.float64)
    width = max(float((means.max(0, initial=-np.inf) - low).max(initial=0)), 1e-300)
    cells = ((means - low) * ((2**21 - 1) / width)).astype(np.uint64)
    for shift, mask in ((32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F), (4, 0x10C30C30C30C30C3), (2, 0x1249249249249249)):
        cells = (cells | (cells << np.uint64(shift))) & np.uint64(mask)  # leaves two free bits behind each
    order = np.argsort(np.bitwise_or.reduce(cells << np.arange(3, dtype=np.uint64), axis=-1), kind="stable")
    return given if _span(means) <= _COMPACT_ENOUGH * _span(means[order]) else order


def _span(means: Array) -> float:
    """The chunks' diagonals together [m]."""
    starts = np.arange(0, len(means), CHUNK)
    if not len(means):
        return 0.0
    return float(np.linalg.norm(np.maximum.reduceat(means, starts) - np.minimum.reduceat(means, starts), axis=-1).sum(dtype=np.float64))
