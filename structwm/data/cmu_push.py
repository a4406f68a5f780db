"""Real pushes of a triangle at a single point, on three known support points, with force streams; 50 on hardboard, 50 on plywood.

Recordings: Zhou, Paolini, Bagnell and Mason, A Convex Polynomial Force-Motion Model for Planar Sliding, ICRA 2016 (github robinzhoucmu/Pushing,
icra_data_proc/SensorLogs). The world is the robot's base frame, z up; files are in mm, here all is in m. The motion capture's frame of the triangle has its
origin in the corner of the right angle and its axes along the legs; upstream moves it to the centre of mass (50, 50) mm, and so does this reader: poses,
outline and support points are all of that BODY frame. Checked: the tip ends every push within 1.9 mm of the outline (and starts it 1.3 to 2.5 mm away), which
it would not in other units or another frame. Poses tilt by up to 1.6 degrees and differ by 3 mm in height, which is error of the motion capture.

The tip travels 16.3 mm at 3.3 mm/s and touches 1 to 2 s after the streams begin; the triangle moves 2 to 15 mm and turns by up to 11 degrees. Its poses are
known before and after a push only. On hardboard push 30 (of 0 to 49) begins 48 minutes before push 29: two sessions in one file. How far from the outline
the tip ends differs by 0.6 mm RMS on plywood, by 0.3 if the tip stood 0.9 mm to one side of where the robot has it, and by 0.8 on hardboard, 0.7 so corrected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.download import fetch
from structwm.data.errors import BadData, DataUnavailable
from structwm.data.pushes import Pushes
from structwm.geometry.outline import signed_distance

Array = NDArray[Any]

MASS = 1.518  # [kg]
CENTER_OF_MASS = (0.05, 0.05)  # from the corner of the right angle, along the legs [m]
OUTLINE = np.array([(-0.05, -0.05), (0.10, -0.05), (-0.05, 0.10)])  # (3, 2) [m], body frame, counter-clockwise
FRICTION = {"hardboard": 4.2 / (MASS * 9.8), "plywood": 5.0 / (MASS * 9.8)}  # 0.282 and 0.336: forces of sliding in upstream's scripts
SENSOR = np.array([(1.0, 1.0), (1.0, -1.0)]) / np.sqrt(2)  # (2, 2) from the sensor's axes to those of the tool
TIP_RADIUS = 0.0005  # of a tip whose size upstream does not state: recorded positions end pushes 0.1 mm from the outline on average, 0.3 mm is fitted [m]
TIP_SPEED = 0.0033  # [m/s]
OUTLINE.setflags(write=False)
SENSOR.setflags(write=False)
_FOLDER = re.compile(r"(?P<wood>wood_)?(?P<numbers>\d+(\.\d+)?(_\d+(\.\d+)?){5})")
_ADVICE = "fetch it again with `structwm fetch cmu_push`"
_NORM_TOLERANCE = 1e-3  # the robot's quaternions have three digits
_FARTHEST = 0.010  # [m], no tip ends a push farther from the outline


@dataclass(frozen=True, eq=False)
class LoggedPush:
    """One push, float64, read-only, in the world frame unless said; times in seconds since 1970."""

    pre_pose: Array  # (7,) world_from_body before the push: x, y, z [m], unit quaternion wxyz
    post_pose: Array  # (7,) after it
    tip_times: Array  # (R,) increasing, about 33 Hz [s]
    tip_poses: Array  # (R, 7) of the tip: x, y, z [m], unit quaternion wxyz
    force_times: Array  # (F,) increasing, about 100 Hz [s]
    forces: Array  # (F, 2) as the sensor read them: in its own axes, on the sensor, with its offset [N]

    @cached_property
    def pre_planar(self) -> Array:
        """(3,) x, y [m] and yaw in (-pi, pi] [rad] before the push."""
        return _planar(self.pre_pose)

    @cached_property
    def post_planar(self) -> Array:
        """(3,) x, y [m] and yaw in (-pi, pi] [rad] after the push."""
        return _planar(self.post_pose)

    @cached_property
    def applied_forces(self) -> Array:
        """(F, 2) on the triangle, in the world, less the first reading [N]: -R(tip yaw) SENSOR (f - f[0]), as upstream computes it."""
        yaw = _planar(self.tip_poses[0])[2]  # the tip does not turn during a push
        turn = np.array([(np.cos(yaw), -np.sin(yaw)), (np.sin(yaw), np.cos(yaw))])
        return -(self.forces - self.forces[0]) @ (turn @ SENSOR).T


@dataclass(frozen=True, eq=False)
class PushLog:
    """The pushes of one file: one surface, one set of support points."""

    name: str  # of the file, without suffix
    surface: str  # hardboard or plywood
    support_points: Array  # (3, 2) [m], body frame
    friction: float  # of the support points on the surface
    pushes: tuple[LoggedPush, ...]  # in the order of the file

    def straight(self) -> Pushes:
        """Poses and tips before and after every push, with what `TIP_RADIUS` says of the tip."""
        return Pushes(
            surface=self.surface,
            shape="triangle",
            outline=OUTLINE,
            tip_radius=TIP_RADIUS,
            init_pose=np.array([push.pre_planar for push in self.pushes]),
            final_pose=np.array([push.post_planar for push in self.pushes]),
            init_tip=np.array([push.tip_poses[0, :2] for push in self.pushes]),
            final_tip=np.array([push.tip_poses[-1, :2] for push in self.pushes]),
            tip_speed=TIP_SPEED,
            source=self.name,
        )


def read_cmu_push(path: str | Path | None = None) -> tuple[PushLog, ...]:
    """All files, hardboard first, then in alphabetical order.

    Args:
        path: a folder with upstream's folders of `.txt` files, which are named x1_x2_x3_y1_y2_y3 after the support points in mm from the corner of the right
            angle, plywood's beginning with wood_; fetched if not given.

    Raises:
        DataUnavailable: if the folder holds none of the files.
        BadData: if a file cannot be right; it names file, push and field.
    """
    folder = fetch("cmu_push") if path is None else Path(path)
    found = [(match, file) for file in sorted(folder.glob("*/*.txt")) if (match := _FOLDER.fullmatch(file.parent.name))]
    if not found:
        raise DataUnavailable(f"expected folders of .txt files of cmu_push in {folder}, found none; run `structwm fetch cmu_push` or give its folder.")
    return tuple(_read_log(match, file) for match, file in sorted(found, key=lambda pair: (bool(pair[0]["wood"]), pair[1])))


def _read_log(match: re.Match[str], file: Path) -> PushLog:
    surface = "plywood" if match["wood"] else "hardboard"
    points = np.array([float(number) for number in match["numbers"].split("_")]).reshape(2, 3).T / 1000 - CENTER_OF_MASS
    points.setflags(write=False)
    text = _Lines(file)
    pushes = tuple(_read_push(text, number) for number in range(text.count("every push", "number of pushes")))
    text.check_end()
    return PushLog(file.stem, surface, points, FRICTION[surface], pushes)


def _read_push(text: _Lines, number: int) -> LoggedPush:
    poses = {name: _pose(text, number, f"{name}_pose", text.rows(number, f"{name}_pose", 1, 7)) for name in ("pre", "post")}
    offset = np.array([*CENTER_OF_MASS, 0.0])
    for pose in poses.values():
        pose[:, :3] += _rotated(pose[:, 3:], offset)
    forces = text.rows(number, "force", text.count(number, "number of forces"), 3)
    tips = text.rows(number, "tip", text.count(number, "number of tip poses"), 8)
    for field, rows in (("force", forces), ("tip", tips)):
        if not (np.diff(rows[:, 0]) > 0).all():
            raise text.bad(number, f"{field} time", "increasing times", f"{rows[int(np.argmin(np.diff(rows[:, 0]) > 0)) + 1, 0]} out of order")
    push = LoggedPush(poses["pre"][0], poses["post"][0], tips[:, 0].copy(), _pose(text, number, "tip", tips[:, 1:]), forces[:, 0].copy(), forces[:, 1:].copy())
    x, y, yaw = push.post_planar
    away = push.tip_poses[-1, :2] - (x, y)
    local = np.array([(np.cos(yaw), np.sin(yaw)), (-np.sin(yaw), np.cos(yaw))]) @ away
    gap = float(signed_distance(OUTLINE, local))
    if abs(gap) > _FARTHEST:
        raise text.bad(number, "tip", f"an end within {1000 * _FARTHEST:.0f} mm of the triangle's outline", f"{1000 * gap:.1f} mm")
    for values in vars(push).values():
        values.setflags(write=False)
    return push


def _pose(text: _Lines, number: int, field: str, rows: Array) -> Array:
    """Poses (n, 7) in m with unit quaternions, of rows in mm."""
    length = np.linalg.norm(rows[:, 3:], axis=1, keepdims=True)
    if (np.abs(length - 1) > _NORM_TOLERANCE).any():
        raise text.bad(number, field, f"quaternions of a length within {_NORM_TOLERANCE} of 1", f"{length[np.argmax(np.abs(length - 1))][0]:.6g}")
    return np.concatenate([rows[:, :3] / 1000, rows[:, 3:] / length], axis=1)


def _planar(pose: Array) -> Array:
    """x, y and the turn about z, in (-pi, pi], of a pose (7,)."""
    yaw = 2 * np.arctan2(pose[6], pose[3])
    return np.array([pose[0], pose[1], np.pi - (np.pi - yaw) % (2 * np.pi)])


def _rotated(quaternions: Array, vector: Array) -> Array:
    """A vector (3,) turned by unit quaternions wxyz (n, 4)."""
    turn = 2 * np.cross(quaternions[:, 1:], vector)
    return vector + quaternions[:, :1] * turn + np.cross(quaternions[:, 1:], turn)


class _Lines:
    """The lines of a file, read from the first to the last."""

    def __init__(self, file: Path) -> None:
        self.file, self.place = file, 0
        try:
            self.lines = file.read_text(encoding="ascii").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise self.bad("every push", "the whole file", "a text file", type(error).__name__) from error

    def bad(self, record: int | str, field: str, expected: str, got: str) -> BadData:
        return BadData.at(file=self.file, record=record, field=field, expected=expected, got=got, advice=_ADVICE)

    def count(self, record: int | str, field: str) -> int:
        """A line with one whole number above 0."""
        line = self.lines[self.place].strip() if self.place < len(self.lines) else "the end of the file"
        if not (line.isdecimal() and int(line) > 0):
            raise self.bad(record, field, "a whole number above 0 on its own line", repr(line[:80]))
        self.place += 1
        return int(line)

    def rows(self, record: int, field: str, count: int, width: int) -> Array:
        """The next `count` lines of `width` finite numbers each."""
        lines = self.lines[self.place : self.place + count]
        self.place += count
        if len(lines) < count:
            raise self.bad(record, field, f"{count} rows", f"{len(lines)} rows and the end of the file")
        rows = []
        for line in lines:
            try:
                row = [float(word) for word in line.split()]
            except ValueError:
                row = []
            if len(row) != width or not np.isfinite(row).all():
                raise self.bad(record, field, f"rows of {width} finite numbers", repr(line[:80]))
            rows.append(row)
        return np.array(rows)

    def check_end(self) -> None:
        if any(rest := [line for line in self.lines[self.place :] if line.strip()]):
            raise self.bad("every push", "the end of the file", "nothing after the last push", f"{len(rest)} more lines")
