"""A recorded motion of a deformable thing, from an NPZ file: controllers, tracks, clouds, depth images, masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.data.errors import BadData, DataUnavailable
from structwm.data.rope_motion import CABLES, RATE, read_rope_motion
from structwm.geometry.camera import Camera
from structwm.perception.depth_cleaning import depth_points

GAP = 3  # frames that a controller may be hidden for, and is taken to move evenly
UNEVEN = 0.02  # share of a step by which times may be off
ROPES = "deform_rope"


@dataclass(frozen=True, eq=False)
class SoftRun:
    """T frames of a body. World frame, float64; NaN is what was not seen."""

    name: str
    dt: float  # from frame to frame [s]
    controllers: Tensor  # (T, C, 3) [m]
    tracks: Tensor | None  # (T, N, 3) of material points [m]
    clouds: Tensor | None  # (T, Q, 3) of the surface [m]
    masks: Tensor | None  # (T, V, h, w) in [0, 1]
    camera: Camera | None  # (V,) of masks and depth
    positions: Tensor | None  # (N, 3) where the shape's points are in the first frame [m]
    velocities: Tensor | None  # (N, 3) of the same [m/s]
    held: tuple[tuple[int, ...], ...] | None  # the shape's points that each controller holds
    filled: int  # places of controllers that were not seen and taken from before and after

    @property
    def frames(self) -> int:
        """T."""
        return len(self.controllers)


def read_soft_run(path: str | Path) -> SoftRun:
    """A recorded motion.

    Args:
        path: an `.npz` file with `times` (T,) [s], evenly spaced, `controllers` (T, C, 3) [m], and one at least of `tracks` (T, N, 3), `clouds` (T, Q, 3), NaN
            where there is none, `depth` (T, V, h, w) [m], 0 or NaN where there is none, and `masks` (T, V, h, w), the latter two with `intrinsics` (V, 3, 3) or
            (3, 3) and `world_from_camera` (V, 4, 4). Where it is known, `nodes` (T, N, 3) or `positions` (N, 3) and `velocities` (N, 3) say where the shape's
            points are in the first frame, and `held` and `held_counts` which of them controllers hold. What `SoftRecording.save` wrote is such a file; of its
            `nodes` the first frame alone is used.

    Raises:
        DataUnavailable: if there is no such file.
        BadData: if it cannot be right: another shape, masks of other images than depth, uneven times, a controller that is hidden for more than three frames,
            nothing seen, velocities or held points of others than `positions` or `nodes`.
    """
    file = Path(path)
    arrays = _arrays(file)
    times = _needed(file, arrays, "times", 1)
    controllers = _needed(file, arrays, "controllers", 3)
    count = len(controllers)
    if len(times) != count or count < 4 or controllers.shape[-1] != 3:
        raise _bad(file, "controllers", f"(T, C, 3) with T of the {len(times)} times, 4 at least", str(tuple(controllers.shape)))
    dt = _step(file, times)
    controllers, filled = _filled(file, controllers)
    tracks, clouds, masks = (_frames(file, arrays, name, count, dims) for name, dims in (("tracks", 3), ("clouds", 3), ("masks", 4)))
    depth = _frames(file, arrays, "depth", count, 4)
    if depth is not None and masks is not None and masks.shape != depth.shape:
        raise _bad(file, "masks", f"{tuple(depth.shape)} as of depth", str(tuple(masks.shape)), "masks and depth are of the same cameras, pixel by pixel")
    camera = _camera(file, arrays, masks if depth is None else depth)
    if depth is not None and camera is not None:
        clouds = _lifted(depth, masks, camera, clouds)
    if not any(part is not None and bool(part[1:].isfinite().any()) for part in (tracks, clouds, masks)):
        raise _bad(file, "tracks", "tracks, clouds, depth or masks after the first frame", "none", "record what a camera or a tracker sees")
    positions, velocities = _start(file, arrays, count)
    named = positions if velocities is None else velocities
    return SoftRun(
        file.stem,
        dt,
        controllers,
        tracks,
        clouds,
        masks,
        camera,
        positions,
        velocities,
        _held(file, arrays, controllers.shape[1], None if named is None else len(named)),
        filled,
    )


def read_vertices(path: str | Path, cable: str | None = None) -> tuple[Tensor, float]:
    """Tracked vertices of a rod (N, T, V, 3) [m], and the time from frame to frame [s].

    Args:
        path: an `.npz` file with `times` (T,) and `tracks` (T, V, 3) or (N, T, V, 3), NaN where a vertex was not seen; or the set `deform_rope`.
        cable: which of that set.

    Raises:
        DataUnavailable: if there is no such file.
        BadData: if it cannot be right.
    """
    if str(path) == ROPES:
        motion = read_rope_motion(cable or CABLES[0])
        return torch.tensor(motion.train), 1 / RATE
    file = Path(path)
    arrays = _arrays(file)
    times = _needed(file, arrays, "times", 1)
    if "tracks" not in arrays:
        raise _bad(file, "tracks", "tracks of all vertices of the rod", "none", "calibrate a thing of which there are clouds alone as springs")
    tracks = torch.as_tensor(arrays["tracks"]).double()
    tracks = tracks.unsqueeze(0) if tracks.ndim == 3 else tracks
    if tracks.ndim != 4 or tracks.shape[-1] != 3 or tracks.shape[1] != len(times) or len(times) < 4:
        raise _bad(file, "tracks", f"(T, V, 3) or (N, T, V, 3) with T of the {len(times)} times, 4 at least", str(tuple(tracks.shape)))
    return tracks, _step(file, times)


def _arrays(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataUnavailable(f"expected a recorded motion at {file}, found none; give an .npz file, as docs/calibration.md says.")
    try:
        with np.load(file, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except Exception as error:
        raise _bad(file, "the whole file", "an .npz file of arrays", type(error).__name__) from error


def _needed(file: Path, arrays: Mapping[str, Any], name: str, dims: int) -> Tensor:
    if name not in arrays:
        raise _bad(file, name, f"an array of {dims} axes", f"none among {', '.join(sorted(arrays))}")
    value = torch.as_tensor(arrays[name]).double()
    if value.ndim != dims:
        raise _bad(file, name, f"an array of {dims} axes", f"{tuple(value.shape)}")
    return value


def _step(file: Path, times: Tensor) -> float:
    """The time from frame to frame [s]."""
    steps = times.diff()
    dt = float(steps.median())
    if not dt > 0 or not bool(((steps - dt).abs() <= UNEVEN * dt).all()):
        got = f"steps from {float(steps.min()):.4g} to {float(steps.max()):.4g} s"
        raise _bad(file, "times", "rising, evenly spaced times [s]", got, "resample the recording")
    return dt


def _frames(file: Path, arrays: Mapping[str, Any], name: str, count: int, dims: int) -> Tensor | None:
    if name not in arrays:
        return None
    value = _needed(file, arrays, name, dims)
    if len(value) != count or (dims == 3 and value.shape[-1] != 3):
        raise _bad(file, name, f"{count} frames" + (" of points (n, 3)" if dims == 3 else " of images (V, h, w)"), str(tuple(value.shape)))
    if name == "masks":
        value = value / 255.0 if float(value.nan_to_num(0.0).max()) > 1 else value
    return value


def _filled(file: Path, controllers: Tensor) -> tuple[Tensor, int]:
    """Gaps of a few frames filled evenly."""
    seen = controllers.isfinite().all(-1)
    found = controllers.clone()
    for k in range(controllers.shape[1]):
        known = seen[:, k].nonzero().flatten()
        if not len(known) or int(known[0]) > 0 or int(known[-1]) < len(controllers) - 1 or int(known.diff().max()) > GAP + 1:
            hidden = (~seen[:, k]).nonzero().flatten()
            raise _bad(
                file,
                "controllers",
                f"every controller seen at both ends and never hidden for more than {GAP} frames",
                f"controller {k} hidden in {len(hidden)}, the first of them frame {int(hidden[0])}",
                "cut the recording there, or fill the gap",
            )
        for axis in range(3):
            found[:, k, axis] = torch.from_numpy(np.interp(np.arange(len(controllers)), known.numpy(), controllers[known, k, axis].numpy()))
    return found, int((~seen).sum())


def _camera(file: Path, arrays: Mapping[str, Any], images: Tensor | None) -> Camera | None:
    if images is None:
        return None
    views, height, width = images.shape[1:]
    for name, shape in (("intrinsics", (views, 3, 3)), ("world_from_camera", (views, 4, 4))):
        if name not in arrays or arrays[name].shape not in (shape, shape[1:]):
            raise _bad(file, name, f"{shape} beside images of {views} cameras", str(arrays[name].shape) if name in arrays else "none")
    intrinsics, poses = (torch.as_tensor(arrays[name]).float() for name in ("intrinsics", "world_from_camera"))
    return Camera(intrinsics, poses.expand(views, 4, 4), width, height)


def _lifted(depth: Tensor, masks: Tensor | None, camera: Camera, clouds: Tensor | None) -> Tensor:
    """The clouds (T, Q, 3) of depth images (T, V, h, w), of what is masked where there are masks; beside those that there are."""
    kept = depth.float() if masks is None else torch.where(masks > 0.5, depth, 0.0).float()
    found = [depth_points(frame.nan_to_num(0.0), camera)[0].double() for frame in kept]
    full = torch.full((len(depth), max(map(len, found)), 3), torch.nan, dtype=torch.float64)
    for own, points in zip(full, found, strict=True):
        own[: len(points)] = points
    return full if clouds is None else torch.cat((full, clouds), 1)


def _start(file: Path, arrays: Mapping[str, Any], count: int) -> tuple[Tensor | None, Tensor | None]:
    """Where the shape's points are in the first frame and how fast they are, each (N, 3), where it is known."""
    nodes = _frames(file, arrays, "nodes", count, 3)
    positions = _points(file, arrays, "positions")
    if positions is None and nodes is not None:
        positions = nodes[0]
    velocities = _points(file, arrays, "velocities", None if positions is None else len(positions))
    if velocities is not None and not bool(velocities.isfinite().all()):
        raise _bad(file, "velocities", "finite velocities [m/s]", "others", "leave the array out where they are not known")
    return positions, velocities


def _points(file: Path, arrays: Mapping[str, Any], name: str, count: int | None = None) -> Tensor | None:
    if name not in arrays:
        return None
    value = _needed(file, arrays, name, 2)
    if value.shape[-1] != 3 or count not in (None, len(value)):
        raise _bad(file, name, f"({'N' if count is None else count}, 3)", str(tuple(value.shape)))
    return value


def _held(file: Path, arrays: Mapping[str, Any], controllers: int, points: int | None) -> tuple[tuple[int, ...], ...] | None:
    if "held" not in arrays or "held_counts" not in arrays:
        return None
    counts = [int(count) for count in arrays["held_counts"]]
    if len(counts) != controllers or sum(counts) != len(arrays["held"]):
        raise _bad(file, "held_counts", f"{controllers} numbers that add up to the {len(arrays['held'])} of held", str(counts))
    if not all(counts):
        return None
    wrong = [int(k) for k in arrays["held"] if k < 0 or (points is not None and k >= points)]
    if wrong:
        raise _bad(file, "held", "numbers of points, from 0" if points is None else f"numbers of {points} points, from 0", str(wrong[0]))
    ends = np.cumsum([0, *counts])
    return tuple(tuple(int(k) for k in arrays["held"][a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True))


def _bad(file: Path, field: str, expected: str, got: str, advice: str = "docs/calibration.md says what a recording holds") -> BadData:
    return BadData.at(file=file, record="the recording", field=field, expected=expected, got=got, advice=advice)
