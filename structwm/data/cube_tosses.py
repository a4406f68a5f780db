"""Real tosses of a cube onto a table: 550 trajectories at 148 Hz, with impacts, tumbling and sliding until rest.

Recordings: Pfrommer, Halm and Posa, ContactNets, CoRL 2020; files: assets/contactnets_cube of github DAIRLab/dair_pll. The world is z up. A row of a file is a
quaternion wxyz, the centre [m], an angular velocity [rad/s] and the velocity of the centre [m/s]. What the files do not say was found in the differences
between rows, over all 57,812 steps:

- The angular velocity is that of the BODY frame (here it is turned into the world): the turn over a step, divided by the step, differs from it by a median of
  0.037 and an RMS of 0.41 rad/s, from the same numbers read in the world frame by 1.7 and 5.7; their own RMS is 4.0.
- Velocities belong to the step that ENDS at their row (the backward difference): the centre's differ by an RMS of 0.017 m/s, for the step that begins there by
  0.111. What is left is smoothing by the estimator; at impacts it reaches 0.2 m/s and 16 rad/s.
- The lowest corner of a cube at rest lies 1 to 3 mm below z = 0, and during impacts up to 6 mm.
- Edges and corners are round: where the cube slides on one, a sharp corner would lie below the face that it rests on by 4.3 mm times (sum |u| - 1), u being the
  vertical in the body's frame (the 64 tosses for calibration: 266 rows with sum |u| above 1.2, slope 4.35 mm; 4.26 mm from the height at rest).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.download import fetch
from structwm.data.errors import BadData, DataUnavailable

Array = NDArray[Any]

SIDE = 0.1048  # [m]
MASS = 0.37  # [kg]
INERTIA = 0.00081  # about each axis of the body [kg m^2]
FRICTION = (0.15, 0.18)  # between these: the upstream URDF says 0.15
RESTITUTION = 0.125
ROUNDING = 4.3e-3  # radius of its edges and corners [m]
GRAVITY = 9.81  # [m/s^2]
RATE = 148.0  # rows a second [1/s]
TOSSES = 550
_FOLDER = "assets/contactnets_cube"
_FILE = re.compile(r"(0|[1-9]\d*)\.pt")
_COLUMNS = 13  # quaternion, position, angular velocity, velocity
_NORM_TOLERANCE = 1e-3  # a quaternion farther from unit length is refused


@dataclass(frozen=True, eq=False)
class Toss:
    """One toss, float64, read-only."""

    poses: Array  # (T, 7) world_from_body: x, y, z [m] of the centre, unit quaternion wxyz
    twists: Array  # (T, 6) world frame: velocity of the centre [m/s], angular velocity [rad/s]
    times: Array  # (T,) from 0 [s]
    number: int  # of the file

    @property
    def start(self) -> Array:
        """The twist (6,) at the first row, where the cube flies: the recorded one is half a step older, and so lacks half a step of gravity [m/s, rad/s]."""
        return self.twists[0] - np.array([0.0, 0.0, 0.5 * GRAVITY / RATE, 0.0, 0.0, 0.0])


def read_cube_tosses(path: str | Path | None = None) -> tuple[Toss, ...]:
    """All tosses, in the order of the numbers of their files, 0 to 549.

    The files are pickles of tensors; they are read without running anything that a pickle asks for.

    Args:
        path: the set's folder, or one of `.pt` files, all or some; fetched if not given.

    Raises:
        DataUnavailable: if the folder holds none of the files.
        BadData: if a file cannot be right; it names file, record and field.
    """
    folder = fetch("contactnets_cube") if path is None else Path(path)
    if (folder / _FOLDER).is_dir():
        folder = folder / _FOLDER
    files = {int(match[1]): file for file in folder.glob("*.pt") if (match := _FILE.fullmatch(file.name))}
    if not files:
        raise DataUnavailable(
            f"expected 0.pt, 1.pt, ... of contactnets_cube in {folder}, found none; run `structwm fetch contactnets_cube` or give its folder."
        )
    return tuple(_read_toss(files[number], number) for number in sorted(files))


def toss_split(n: int = TOSSES) -> tuple[Array, Array]:
    """Indices (64,) for calibration and (100,) for test: the first and the last of `numpy.random.default_rng(0).permutation(n)`.

    Smaller calibration sets are nested: take the first 1, 4 or 16.

    Raises:
        ValueError: if there are fewer than 164 tosses.
    """
    if n < 164:
        raise ValueError(f"expected at least 164 tosses, 64 for calibration and 100 for test, got {n}.")
    order = np.random.default_rng(0).permutation(n)
    return order[:64], order[-100:]


def _read_toss(file: Path, number: int) -> Toss:
    rows = _read_rows(file)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        record = int(np.argmin(finite))
        raise _bad(file, record, "state", f"{_COLUMNS} finite numbers", str(rows[record].tolist()))
    length = np.linalg.norm(rows[:, :4], axis=1)
    off = np.abs(length - 1) > _NORM_TOLERANCE
    if off.any():
        record = int(np.argmax(off))
        raise _bad(file, record, "quaternion", f"a length within {_NORM_TOLERANCE} of 1", f"{length[record]:.6g}")
    quaternions = rows[:, :4] / length[:, None]
    poses = np.concatenate([rows[:, 4:7], quaternions], axis=1)
    twists = np.concatenate([rows[:, 10:13], _rotated(quaternions, rows[:, 7:10])], axis=1)
    times = np.arange(len(rows)) / RATE
    for values in (poses, twists, times):
        values.setflags(write=False)
    return Toss(poses, twists, times, number)


def _read_rows(file: Path) -> Array:
    """The numbers of a file, float64 (T, 13)."""
    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        tensor = isinstance(content, torch.Tensor) and content.layout == torch.strided and content.dtype in (torch.float32, torch.float64)
        values = content.detach().to(torch.float64).numpy() if tensor else None
    except Exception as error:  # damaged and foreign files make the unpickler fail in many ways
        raise _bad(file, "every record", "the whole file", "a tensor that torch saved", f"something else ({type(error).__name__})") from error
    if values is None:
        got = f"a tensor of {content.dtype}" if isinstance(content, torch.Tensor) else f"an object of type {type(content).__name__}"
        raise _bad(file, "every record", "the whole file", "a tensor of floating point numbers", got)
    if values.ndim != 2 or values.shape[1] != _COLUMNS or len(values) < 2:
        raise _bad(file, "every record", "shape", f"(T, {_COLUMNS}) with T of 2 or more", f"{values.shape}")
    return values


def _rotated(quaternions: Array, vectors: Array) -> Array:
    """Vectors (T, 3) turned by unit quaternions wxyz (T, 4)."""
    scalar, axis = quaternions[:, :1], quaternions[:, 1:]
    turn = 2 * np.cross(axis, vectors)
    return vectors + scalar * turn + np.cross(axis, turn)


def _bad(file: Path, record: int | str, field: str, expected: str, got: str) -> BadData:
    advice = "fetch it again with `structwm fetch contactnets_cube`"
    return BadData.at(file=file, record=record, field=field, expected=expected, got=got, advice=advice)
