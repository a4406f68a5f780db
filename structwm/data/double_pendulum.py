"""A real double pendulum with a motor in each joint: four excitation runs of 10 s at 500 Hz, and the parameters that its authors identified.

Recordings and models: Wiebe, Kumar, Shala, Vyas, Javadi and Kirchner, Open Source Dual-Purpose Acrobot and Pendubot Platform, IEEE Robotics and Automation
Magazine 2024 (github dfki-ric-underactuated-lab/double_pendulum). Angles q1, q2 [rad] are 0 where the pendulum hangs straight down; q1 is that of the first
link against the vertical, q2 that of the second link against the first. A positive angle is anticlockwise, the elbow at (l1 sin q1, -l1 cos q1). The authors'
model, with I1 about the first joint and I2 about the second joint (not about the centres of mass) and h = m2 l1 r2:

    M(q) a + c(q, v) + G(q) + F(v) = tau
    M = [[I1 + I2 + m2 l1^2 + 2 h cos q2 + (gr^2 + 1) Ir,  I2 + h cos q2 - gr Ir],  [I2 + h cos q2 - gr Ir,  I2 + gr^2 Ir]]
    c = [-h sin q2 (2 v1 v2 + v2^2),  h sin q2 v1^2]
    G = g [(m1 r1 + m2 l1) sin q1 + m2 r2 sin(q1 + q2),  m2 r2 sin(q1 + q2)]
    F = [b1 v1 + cf1 atan(100 v1),  b2 v2 + cf2 atan(100 v2)],  so Coulomb friction tends to (pi / 2) cf

Checked on the runs, which are of design C.1, by simulating 0.5 s open loop with the torques commanded: RMS 0.082 rad with `design_C.1/model_1.0`, 0.072 with
`model_2.0`; with I about the centres of mass 0.31 and 0.45, with +gr Ir in M 0.10 and 0.09, without friction 0.28. In `model_1.1` friction is set to 0 (0.36),
and `model_3.0` (0.48) does not describe these runs. I2 of models 2.0 and 3.0 is less than m2 r2^2, which no body has: their numbers fit, but are not masses.

What the files hold: velocities are exactly the backward differences of the positions, in steps of 0.19 rad/s (the encoder's 0.00038 rad over 2 ms); the
filtered columns equal the measured ones; the compensation of friction is 0. The torque measured at the elbow follows the commanded one by 26 to 34 ms, at the
shoulder by up to 16 ms. The first step of time is up to 1.7 ms longer than 2 ms, a few others up to 1.2 ms.
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

RATE = 500.0  # nominal [1/s]
DESIGN = "design_C.1"  # whose parameters belong to the runs
PARAMETERS = {  # 1 is the shoulder and the first link, 2 the elbow and the second link
    "m1": "mass [kg]",
    "m2": "mass [kg]",
    "l1": "length of the first link, from joint to joint [m]",
    "l2": "length of the second link [m]; not in the equations",
    "r1": "from the first joint to the first link's centre of mass [m]",
    "r2": "from the second joint to the second link's centre of mass [m]",
    "I1": "inertia of the first link about the first joint [kg m^2]",
    "I2": "inertia of the second link about the second joint [kg m^2]",
    "b1": "viscous damping [N m s/rad]",
    "b2": "viscous damping [N m s/rad]",
    "cf1": "Coulomb friction over pi / 2 [N m]",
    "cf2": "Coulomb friction over pi / 2 [N m]",
    "Ir": "inertia of one motor's rotor, before the gear [kg m^2]",
    "gr": "gear ratio",
    "tl1": "torque limit, 0 where the joint has no motor [N m]",
    "tl2": "torque limit, 0 where the joint has no motor [N m]",
    "g": "gravity [m/s^2]",
}
_POSITIVE = ("m1", "m2", "l1", "l2", "r1", "r2", "I1", "I2", "gr", "g")
_PAIRS = {  # fields of a run, and the columns of the two joints
    "positions": ("pos_meas1", "pos_meas2"),
    "velocities": ("vel_meas1", "vel_meas2"),
    "filtered_positions": ("pos_filt1", "pos_filt2"),
    "filtered_velocities": ("vel_filt1", "vel_filt2"),
    "torques_commanded": ("tau_con1", "tau_con2"),
    "torques_friction": ("tau_fric1", "tau_fric2"),
    "torques_measured": ("tau_meas1", "tau_meas2"),
}
_COLUMNS = ("time", *(column for pair in _PAIRS.values() for column in pair))
_LINE = re.compile(r"(?P<key>[A-Za-z]\w*)\s*:\s*(?P<number>[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?)")


@dataclass(frozen=True, eq=False)
class JointRun:
    """One run, float64, read-only; columns are the first joint (shoulder) and the second (elbow)."""

    name: str  # of the file: the day and time of the recording
    times: Array  # (T,) increasing, not evenly [s]
    positions: Array  # (T, 2) measured [rad]
    velocities: Array  # (T, 2) measured [rad/s]
    filtered_positions: Array  # (T, 2) [rad]
    filtered_velocities: Array  # (T, 2) [rad/s]
    torques_commanded: Array  # (T, 2) [N m]
    torques_friction: Array  # (T, 2) added to compensate friction [N m]
    torques_measured: Array  # (T, 2) from the motors' currents [N m]


def read_double_pendulum(path: str | Path | None = None) -> tuple[JointRun, ...]:
    """All runs in alphabetical order of their files, which is that of time.

    Args:
        path: the set's folder, or one of `.csv` files; fetched if not given.

    Raises:
        DataUnavailable: if the folder holds none of the files.
        BadData: if a file cannot be right; it names file, record and field.
    """
    folder = fetch("double_pendulum") if path is None else Path(path)
    files = sorted((folder / "C1_sys_id" if (folder / "C1_sys_id").is_dir() else folder).glob("*.csv"))
    if not files:
        raise _missing("the .csv files", folder)
    return tuple(_read_run(file) for file in files)


def read_identified_parameters(path: str | Path | None = None) -> dict[str, dict[str, float]]:
    """The parameters that the authors identified, by `PARAMETERS`' names, for every model: "design_C.1/model_1.0" and so on, in alphabetical order.

    Args:
        path: the set's folder, or one with `DESIGN/MODEL/model_parameters.yml`; fetched if not given.

    Raises:
        DataUnavailable: if the folder holds none of the files.
        BadData: if a file cannot be right; it names file, line and key.
    """
    folder = fetch("double_pendulum") if path is None else Path(path)
    root = folder / "identified_parameters" if (folder / "identified_parameters").is_dir() else folder
    files = sorted(root.glob("*/*/model_parameters.yml"))
    if not files:
        raise _missing("DESIGN/MODEL/model_parameters.yml", folder)
    return {file.parent.relative_to(root).as_posix(): _read_parameters(file) for file in files}


def _read_run(file: Path) -> JointRun:
    lines = _text(file).splitlines()
    header = tuple(name.strip() for name in lines[0].split(",")) if lines else ()
    if header != _COLUMNS:
        raise _bad(file, "the header", "columns", ", ".join(_COLUMNS), ", ".join(header) or "none")
    rows = np.empty((len(lines) - 1, len(_COLUMNS)))
    for record, line in enumerate(lines[1:]):
        try:
            rows[record] = [float(word) for word in line.split(",")]
        except ValueError:
            raise _bad(file, record, "the whole row", f"{len(_COLUMNS)} numbers", repr(line[:80])) from None
    if len(rows) < 2:
        raise _bad(file, "every record", "the whole row", "2 rows or more", f"{len(rows)}")
    if not (fine := np.isfinite(rows)).all():
        record, column = (int(place) for place in np.argwhere(~fine)[0])
        raise _bad(file, record, _COLUMNS[column], "a finite number", f"{rows[record, column]}")
    if (late := np.diff(rows[:, 0]) <= 0).any():
        record = int(np.argmax(late)) + 1
        raise _bad(file, record, "time", f"more than the {rows[record - 1, 0]} s of the row before", f"{rows[record, 0]}")
    fields = {name: rows[:, [_COLUMNS.index(column) for column in pair]] for name, pair in _PAIRS.items()} | {"times": rows[:, 0].copy()}
    for values in fields.values():
        values.setflags(write=False)
    return JointRun(name=file.stem, **fields)


def _read_parameters(file: Path) -> dict[str, float]:
    """Plain `key: number` lines; empty ones and comments are passed over."""
    found: dict[str, float] = {}
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not (text := line.partition("#")[0].strip()):
            continue
        match = _LINE.fullmatch(text)
        if not match:
            raise _bad(file, f"line {number}", "the whole line", "key: number", repr(line[:80]))
        key, value = match["key"], float(match["number"])
        if key not in PARAMETERS or key in found:
            raise _bad(file, f"line {number}", key, f"each of {', '.join(PARAMETERS)} once", "it again" if key in found else "another key")
        least = "a finite number above 0" if key in _POSITIVE else "a finite number of 0 or more"
        if not np.isfinite(value) or value < 0 or (key in _POSITIVE and value == 0):
            raise _bad(file, f"line {number}", key, least, f"{value}")
        found[key] = value
    if absent := [key for key in PARAMETERS if key not in found]:
        raise _bad(file, "every line", ", ".join(absent), f"{len(PARAMETERS)} parameters", f"{len(found)}")
    return {key: found[key] for key in PARAMETERS}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(file, "every record", "the whole file", "a text file", type(error).__name__) from error


def _missing(what: str, folder: Path) -> DataUnavailable:
    return DataUnavailable(f"expected {what} of double_pendulum in {folder}, found none; run `structwm fetch double_pendulum` or give its folder.")


def _bad(file: Path, record: int | str, field: str, expected: str, got: str) -> BadData:
    advice = "fetch it again with `structwm fetch double_pendulum`"
    return BadData.at(file=file, record=record, field=field, expected=expected, got=got, advice=advice)
