"""Refuses pushes that cannot be right: wrong shapes, NaN, degrees for radians, millimetres for metres, poses that do not fit the tip.

What can be told from numbers alone:

- A yaw from a pose estimate is wrapped, so beyond pi (2 pi where it may continue over the seam) it is not in radians. Of random headings in degrees one in
  57 lies below pi, so a set in degrees is found, and of single records nearly all. Of what slips through, physics catches some: a quasi-static push of length
  L turns a slider of radius of gyration r by no more than about 0.6 L/r (in the recordings known here by up to 0.9), so a turn beyond 2 L/r is refused, and so
  is a tip that stands deep inside the outline. Seeded into each of 4,536 recorded pushes alone, degrees in one pose are found in 99 of 100, millimetres in all.
- A slider on a table is within metres of the origin and a push is shorter than a metre: millimetres are found unless all numbers are below 5 mm.
- Not detectable: a small yaw in degrees (below 3 degrees) that happens to fit the contact, a wrong frame that is still consistent with itself, mirrored axes
  of a symmetric outline, or records exchanged between two files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.errors import BadData
from structwm.geometry.outline import moments, signed_distance

Array = NDArray[Any]

COLUMNS = {"init_pose": 3, "final_pose": 3, "init_tip": 2, "final_tip": 2}
REACH = 5.0  # [m], farther from the origin no position is believed
LONGEST = 1.0  # [m], nor a longer push
FARTHEST = 0.5  # [m], nor a push that starts or ends farther from the slider
DEEPEST = 0.010  # [m], nor a tip deeper inside the outline (the recordings known here: 3.6 mm)


def check_pushes(
    arrays: Mapping[str, Array],
    *,
    outline: Array,
    tip_radius: float,
    yaw_limit: float = 2 * np.pi,
    file: str | Path = "memory",
    names: Mapping[str, str] | None = None,
) -> None:
    """Check n pushes: `init_pose`, `final_pose` (n, 3) [m, m, rad] and `init_tip`, `final_tip` (n, 2) [m] in one world frame.

    Args:
        arrays: these four by name, and predicted final poses (n, 3) under any other name.
        outline: (V, 2) counter-clockwise [m], in the slider's frame.
        tip_radius: of the round tip [m].
        yaw_limit: the largest believable |yaw| of the four [rad]: pi where yaw is known to be wrapped.
        file: what messages call the source.
        names: how a field is called there.

    Raises:
        BadData: naming file, record and field.
    """
    called = {name: (names or {}).get(name, name) for name in (*COLUMNS, *arrays)}
    for name in COLUMNS:
        if name not in arrays:
            got = f"only {', '.join(called[key] for key in arrays) or 'nothing'}"
            raise BadData.at(file=file, record="every record", field=called[name], expected=f"the field {called[name]}", got=got, advice="add it")
    count = len(arrays["init_pose"])
    for name, values in arrays.items():
        check_rows(values, (count, COLUMNS.get(name, 3)), file=file, field=called[name])
    for name, values in arrays.items():
        check_metres(values[:, :2], file=file, field=called[name])
        if values.shape[1] == 3:
            check_radians(values[:, 2], yaw_limit if name in COLUMNS else 2 * np.pi, file=file, field=called[name])
    _check_outline(outline, tip_radius, file)
    _check_motion({name: arrays[name] for name in COLUMNS}, outline, tip_radius, file, called)


def check_rows(values: Array, shape: tuple[int, int], *, file: str | Path, field: str) -> None:
    """Refuse another shape, an empty array and values that are not finite."""
    if values.shape != shape or shape[0] == 0:
        got = f"shape {values.shape}"
        raise BadData.at(file=file, record="every record", field=field, expected=f"shape {shape} with n > 0", got=got, advice="give one row a push")
    wrong = np.asarray(~np.isfinite(values).all(axis=1))
    if wrong.any():
        record = int(np.argmax(wrong))
        advice = _others(wrong, "drop the record or measure it again")
        raise BadData.at(file=file, record=record, field=field, expected="finite values", got=_text(values[record]), advice=advice)


def check_radians(yaw: Array, limit: float, *, file: str | Path, field: str) -> None:
    """Refuse angles (n,) beyond the limit [rad]."""
    wrong = np.asarray(np.abs(yaw) > limit + 1e-6)
    if wrong.any():
        record = int(np.argmax(wrong))
        advice = _others(wrong, "this looks like degrees: multiply by pi/180; if it is radians, wrap it into (-pi, pi]")
        raise BadData.at(file=file, record=record, field=field, expected=f"a yaw in radians within ±{limit:.4g}", got=f"{yaw[record]:.6g}", advice=advice)


def check_metres(positions: Array, *, file: str | Path, field: str) -> None:
    """Refuse positions (n, 2) that are not within metres of the origin."""
    wrong = np.asarray((np.abs(positions) > REACH).any(axis=1))
    if wrong.any():
        record = int(np.argmax(wrong))
        advice = _others(wrong, "this looks like millimetres: multiply by 0.001; if it is metres, move the origin near the slider")
        raise BadData.at(file=file, record=record, field=field, expected=f"positions in metres within ±{REACH:g}", got=_text(positions[record]), advice=advice)


def tip_gap(pose: Array, tip: Array, outline: Array, tip_radius: float) -> Array:
    """Gap between the surfaces of tip and slider [m], (n,), negative where they overlap; pose (n, 3), tip (n, 2) in the world frame."""
    offset = tip - pose[:, :2]
    c, s = np.cos(pose[:, 2]), np.sin(pose[:, 2])
    local = np.stack([c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0]], axis=-1)
    return signed_distance(outline, local) - tip_radius


def _check_outline(outline: Array, tip_radius: float, file: str | Path) -> None:
    size = float(np.abs(outline).max())
    for field, value, low in (("outline", size, 1e-3), ("tip_radius", float(tip_radius), 0.0)):
        if not low <= value <= LONGEST:
            advice = "give it in metres"
            raise BadData.at(file=file, record="every record", field=field, expected=f"{low:g} to {LONGEST:g} m", got=f"{value:g}", advice=advice)


def _check_motion(arrays: Mapping[str, Array], outline: Array, tip_radius: float, file: str | Path, called: Mapping[str, str]) -> None:
    """Does each push fit itself: its length, the slider's way and turn, the tip outside the outline and near it."""
    init, final, start, end = (arrays[name] for name in COLUMNS)
    length = np.linalg.norm(end - start, axis=1)
    way = np.linalg.norm((final - init)[:, :2], axis=1)
    turn = np.abs((final[:, 2] - init[:, 2] + np.pi) % (2 * np.pi) - np.pi)
    gyration = float(np.sqrt(np.trace(moments(outline)[2])))
    before, after = (tip_gap(pose, tip, outline, tip_radius) for pose, tip in ((init, start), (final, end)))
    unit = "check the record's units and frames (degrees, millimetres, pose and tip in one world frame)"
    rules = (
        ("final_tip", length, np.full_like(length, LONGEST), "a push of at most {} m", unit),
        ("final_pose", way, 2 * length + 0.02, "a slider that a push of this length moves by at most {} m", unit),
        ("final_pose", turn, 2 * length / gyration, "a slider that a quasi-static push of this length turns by at most {} rad", unit),
        ("init_pose", -before, np.full_like(before, DEEPEST), "a tip no deeper in the outline at the start than {} m", unit),
        ("final_pose", -after, np.full_like(after, DEEPEST), "a tip no deeper in the outline at the end than {} m", unit),
        ("init_tip", before, np.full_like(before, FARTHEST), "a tip that starts within {} m of the slider", unit),
    )
    for name, values, limits, expected, advice in rules:
        wrong = values > limits + 1e-9
        if wrong.any():
            record = int(np.argmax(wrong))
            got = f"{values[record]:.4g}"
            expected = expected.format(f"{limits[record]:.4g}")
            raise BadData.at(file=file, record=record, field=called[name], expected=expected, got=got, advice=_others(wrong, advice))


def _others(wrong: Array, advice: str) -> str:
    return f"{int(wrong.sum())} of {len(wrong)} records are like this, {advice}"


def _text(row: Array) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in row) + ")"
