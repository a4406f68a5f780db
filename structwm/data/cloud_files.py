"""Files of point clouds, read and written by Open3D (the optional extra `clouds`)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.atomic import sync_path
from structwm.data.ply import bad, check_last_line, open_data, read_ply, table_of, text_numbers

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]

SUFFIXES = (".ply", ".pcd", ".xyz", ".pts")
_DEBIAN = {"libusb": "libusb-1.0-0", "libGL": "libgl1", "libEGL": "libegl1", "libX11": "libx11-6", "libgomp": "libgomp1"}  # what Open3D loads, and its package
_CARRIES = {".ply": ("colors", "normals"), ".pcd": ("colors", "normals"), ".xyz": (), ".pts": ("colors",)}


@dataclass(frozen=True)
class PointCloud:
    """Points of one instant.

    Raises:
        ValueError: in one sentence, if shapes do not fit.
    """

    positions: Tensor  # (N, 3) [m]
    colors: Tensor | None = None  # (N, 3) red, green, blue in [0, 1]
    normals: Tensor | None = None  # (N, 3)

    def __post_init__(self) -> None:
        if self.positions.ndim != 2 or self.positions.shape[1] != 3:
            raise ValueError(f"cloud positions: expected (N, 3), got {tuple(self.positions.shape)}.")
        for name in ("colors", "normals"):
            value = getattr(self, name)
            if value is not None and value.shape != self.positions.shape:
                raise ValueError(f"cloud {name}: expected {tuple(self.positions.shape)} as the positions, got {tuple(value.shape)}.")

    def __len__(self) -> int:
        return len(self.positions)


def read_cloud(path: str | Path, *, drop_invalid: bool = False) -> PointCloud:
    """Read a point cloud, float64, from .ply, .pcd, .xyz or .pts.

    A file of Gaussian splats (.ply, not compressed) gives the cloud of their means. Normals that are all zero are left out. Colors are bytes in most files;
    floats in .ply are fractions of 1.

    Args:
        path: the file.
        drop_invalid: leave out points with NaN or infinity, with which depth cameras mark pixels without a measurement; else they are refused.

    Raises:
        BadData: in one sentence, if the file is missing, empty, damaged, cut short or of another kind.
        ImportError: if Open3D is missing; it says what to install.
    """
    import torch

    open3d = load_open3d()
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise bad(path, "the whole file", "suffix", f"one of {', '.join(SUFFIXES)}", repr(path.suffix), "rename the file or convert it")
    table = _ply_points(path) if suffix == ".ply" else None
    if not (count := _promised_count(path, suffix) if table is None else len(table)):
        raise bad(path, "the whole file", "points", "at least one", "none", "leave the file out")
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        cloud = open3d.io.read_point_cloud(str(path), remove_nan_points=False, remove_infinite_points=False)
    if len(cloud.points) != count:
        raise bad(path, "the whole file", "points", f"{count} points", f"{len(cloud.points)} that Open3D understands")
    found = {"positions": np.asarray(cloud.points)}
    if cloud.has_colors() and (table is None or {"red", "green", "blue"} <= set(table.dtype.names or ())):
        found["colors"] = np.asarray(cloud.colors)
        if table is not None and table.dtype["red"].kind == "f" and table["red"].max() <= 1:  # Open3D takes fractions for 255ths
            found["colors"] = np.stack([table[name] for name in ("red", "green", "blue")], -1).astype(np.float64)
        if (wrong := ~((found["colors"] >= 0) & (found["colors"] <= 1)).all(-1)).any():
            record = int(np.argmax(wrong))
            raise bad(path, record, "color", "bytes or fractions of 1", f"{found['colors'][record]} of the most")
    if cloud.has_normals() and np.asarray(cloud.normals).any():
        found["normals"] = np.asarray(cloud.normals)
    fine = np.isfinite(found["positions"]).all(-1)
    if drop_invalid:
        found = {name: values[fine] for name, values in found.items()}
    elif not fine.all():
        record = int(np.argmin(fine))
        advice = "pass drop_invalid=True to leave such points out"
        raise bad(path, record, "position", "finite numbers", str(found["positions"][record]), advice)
    return PointCloud(**{name: torch.from_numpy(np.array(values)) for name, values in found.items()})


def write_cloud(cloud: PointCloud, path: str | Path) -> None:
    """Write a point cloud; an existing file is replaced in one step.

    .ply keeps float64 positions and normals; .pcd rounds them to float32; .xyz and .pts are text with ten decimals. Colors become bytes. .xyz has positions
    only, .pts also colors.

    Raises:
        ValueError: in one sentence, before anything is written, if the suffix is unknown, numbers are not finite, or the format would lose colors or normals.
        ImportError: if Open3D is missing; it says what to install.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a suffix {', '.join(SUFFIXES)}, got {path.suffix!r}; rename the file.")
    fields = {"positions": cloud.positions} | {name: value for name in ("colors", "normals") if (value := getattr(cloud, name)) is not None}
    if lost := [name for name in fields if name != "positions" and name not in _CARRIES[suffix]]:
        raise ValueError(f"{path}: expected a cloud without {' and '.join(lost)}, for which {suffix} has no place, got some; write .ply.")
    if not len(cloud):
        raise ValueError(f"{path}: expected at least one point, got none.")
    if wrong := [name for name, value in fields.items() if not bool(value.isfinite().all())]:
        raise ValueError(f"{path}: expected finite {wrong[0]}, got NaN or infinity; remove those points.")
    if cloud.colors is not None and (float(cloud.colors.min()) < 0 or float(cloud.colors.max()) > 1):
        raise ValueError(f"{path}: expected colors in [0, 1], got {float(cloud.colors.min()):.4g} to {float(cloud.colors.max()):.4g}.")
    open3d = load_open3d()
    made = open3d.geometry.PointCloud()
    for name, target in (("positions", "points"), ("colors", "colors"), ("normals", "normals")):
        if name in fields:
            setattr(made, target, open3d.utility.Vector3dVector(fields[name].detach().cpu().double().numpy()))
    draft = path.with_name(f"{path.stem}.{os.getpid()}.tmp{suffix}")
    try:
        if not path.parent.is_dir() or not open3d.io.write_point_cloud(str(draft), made):
            raise OSError(f"{path}: expected a folder that can be written to; make it first.")
        sync_path(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_path(path.parent)


def load_open3d() -> Any:
    """The module, loaded when it is first needed.

    Raises:
        ImportError: in one sentence that says what to install.
    """
    try:
        import open3d
    except ModuleNotFoundError as error:
        raise ImportError(f"expected Open3D for point clouds, but the module {error.name} is missing; run `pip install 'structwm[clouds]'`.") from error
    except (ImportError, OSError) as error:
        package = next((package for library, package in _DEBIAN.items() if library in str(error)), " ".join(_DEBIAN.values()))
        raise ImportError(f"expected Open3D to load, but a library of the system is missing ({error}); on Debian run `apt-get install {package}`.") from error
    return open3d


def _promised_count(path: Path, suffix: str) -> int:
    """How many points the file says it has, once it is sure that they are all there: Open3D fills up what is cut off with whatever lay in memory."""
    with open_data(path) as stream:
        content = stream.read()
    if suffix == ".pcd":
        return _pcd_count(content, path)
    if not content:
        raise bad(path, "the whole file", "length", "points", "0 bytes of them")
    check_last_line(content, path)
    lines = [line for line in content.split(b"\n") if line.strip() and not line.startswith(b"#")]
    if suffix == ".xyz":
        return len(lines)
    count = int(lines[0]) if lines and lines[0].strip().isdigit() and len(lines[0]) < 15 else -1
    if count < 0 or count != len(lines) - 1:
        raise bad(
            path,
            "the first line",
            "count",
            f"the number of points, {max(len(lines) - 1, 0)} as lines follow",
            repr(lines[0][:20].decode("latin-1")) if lines else "none",
        )
    widths = {len(line.split()) for line in lines[1:]}
    if len(widths) > 1:
        raise bad(path, "every record", "values", "as many numbers on every line", f"{min(widths)} to {max(widths)}")
    text_numbers(b"\n".join(lines), path)
    return count


def _ply_points(path: Path) -> Array:
    """The vertices of a complete file."""
    table = table_of(read_ply(path), "vertex", path)
    have = table.dtype.names or ()
    if "packed_position" in have:
        raise bad(path, "the header", "x", "points", "compressed splats", "read it with `read_splats`")
    for name in ("x", "y", "z"):
        if name not in have:
            raise bad(path, "the header", name, f"a property {name} of the vertices", f"properties {', '.join(have)}")
    return table


_PCD_LINES = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS")


def _pcd_count(content: bytes, path: Path) -> int:
    found = re.search(rb"^DATA[ \t]+(\w+)[ \t]*\r?\n", content, re.MULTILINE)
    if found is None:
        raise bad(path, "the header", "DATA", "a header of a PCD file that ends with a line DATA", f"none in {len(content)} bytes")
    lines = [line.split() for line in content[: found.start()].decode("latin-1").splitlines() if line.strip() and not line.startswith("#")]
    header = {words[0]: words[1:] for words in lines}
    if unknown := [words[0] for words in lines if words[0] not in _PCD_LINES] or len(header) < len(lines):
        raise bad(path, "the header", "lines", f"each of {', '.join(_PCD_LINES)} once at most", str(unknown or "one of them twice"))
    try:
        sizes = [int(word) for word in header["SIZE"]]
        counts = [int(word) for word in header.get("COUNT", ["1"] * len(sizes))]
        points, width, height = (int(header[name][0]) for name in ("POINTS", "WIDTH", "HEIGHT"))
        fields, kinds = header["FIELDS"], header["TYPE"]
    except (KeyError, IndexError, ValueError) as error:
        raise bad(
            path, "the header", "FIELDS, SIZE, TYPE, COUNT, WIDTH, HEIGHT, POINTS", "names and whole numbers", f"{type(error).__name__} at {error}"
        ) from error
    body = content[found.end() :]
    columns = list(zip(fields, kinds, sizes, counts, strict=False))
    known = all((kind == "F" and size in (4, 8)) or (kind in ("I", "U") and size in (1, 2, 4, 8)) for _, kind, size, _ in columns)
    if not len(fields) == len(kinds) == len(sizes) == len(counts) == len(set(fields)) or not known or min(counts, default=0) < 1:
        raise bad(path, "the header", "FIELDS, SIZE, TYPE, COUNT", "one name, type and size for every field", f"{fields}, {kinds}, {sizes}, {counts}")
    if missing := [name for name in "xyz" if (name, 1) not in [(column[0], column[3]) for column in columns]]:
        raise bad(path, "the header", "FIELDS", "x, y and z", f"no {', '.join(missing)}")
    if min(points, width, height) < 0 or points != width * height:
        raise bad(path, "the header", "POINTS", f"WIDTH times HEIGHT, {width} times {height}", str(points))
    if found[1] == b"ascii":
        check_last_line(body, path)
        have, wanted = len(text_numbers(body, path)), points * sum(counts)
    elif found[1] == b"binary":
        have, wanted = len(body), points * sum(size * count for size, count in zip(sizes, counts, strict=True))
    else:
        have, wanted = len(body), 8 + int.from_bytes(body[:4], "little")  # Open3D checks what it unpacks
    if have < wanted:
        unit = "numbers" if found[1] == b"ascii" else "bytes"
        raise bad(path, "the whole file", "POINTS", f"{wanted} {unit} for {points} points", f"{have}")
    return points
