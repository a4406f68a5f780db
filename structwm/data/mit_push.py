"""Real pushes of eight planar shapes on two surfaces, about 44 mm each, with what two published models predicted for every push.

Recordings: Yu, Bauza, Fazeli and Rodriguez, More than a Million Ways to Be Pushed, IROS 2016. Predictions: Zhou, Paolini, Bagnell and Mason, ICRA 2016.
The world frame is the robot's; the slider's frame lies where the recording put it, for triangles not in the centroid. Four records of plywood/tri2 start with
the tip 11 to 54 mm off the slider; they are kept, and `Pushes.suspect` says which. Two more of that cell (8 and 218) start right and end turned by a quarter.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.download import fetch
from structwm.data.errors import BadData, DataUnavailable
from structwm.data.pushes import Pushes
from structwm.data.validate import check_pushes
from structwm.geometry.outline import convex_outline, ellipse

Array = NDArray[Any]

TIP_RADIUS = 0.00475  # [m]
MODELS = ("poly4", "quadratic")
POLYGONS = {  # vertices [m], slider frame, counter-clockwise
    "rect1": ((0.045, 0.045), (-0.045, 0.045), (-0.045, -0.045), (0.045, -0.045)),
    "rect2": ((0.044955, 0.05629), (-0.044955, 0.05629), (-0.044955, -0.05629), (0.044955, -0.05629)),
    "rect3": ((0.067505, 0.04497), (-0.067505, 0.04497), (-0.067505, -0.04497), (0.067505, -0.04497)),
    "tri1": ((0.045, 0.045), (-0.0809, 0.045), (0.045, -0.08087)),
    "tri2": ((0.045, 0.045), (-0.106, 0.045), (0.045, -0.08087)),
    "tri3": ((0.045, 0.045), (-0.1315, 0.045), (0.045, -0.08061)),
}
SEMI_AXES = {"ellip1": (0.0525, 0.0525), "ellip2": (0.0525, 0.065445), "ellip3": (0.0525, 0.0785)}  # along x and y [m]
_FIELDS = {"init_pose": "init_pose_gt", "final_pose": "final_pose_gt", "init_tip": "init_tip_pt", "final_tip": "final_tip_pt"}
_SIZES = {"init_pose_gt": 3, "final_pose_gt": 3, "final_pose_sim": 3, "init_tip_pt": 2, "final_tip_pt": 2}
_FILE = re.compile(r"wrench1twist1_20percenttraining(?P<surface>[a-z]+)_(?P<shape>[a-z]+\d)_(?P<model>poly4|quadratic)_v10\.mat")


def shape_outline(shape: str) -> Array:
    """The outline (V, 2) of a shape [m], slider frame; an ellipse as a polygon of 99 vertices.

    Raises:
        ValueError: if the set has no such shape.
    """
    if shape in SEMI_AXES:
        return ellipse(*SEMI_AXES[shape], vertices=99)
    if shape not in POLYGONS:
        raise ValueError(f"expected one of the shapes {', '.join((*SEMI_AXES, *POLYGONS))}, got {shape!r}.")
    return convex_outline(POLYGONS[shape])


def read_mit_push(path: str | Path | None = None) -> tuple[Pushes, ...]:
    """All cells (one surface, one shape) in alphabetical order, each with its pushes in the order of the file.

    Args:
        path: a folder of the upstream `.mat` files, all or those of some cells; fetched if not given.

    Raises:
        DataUnavailable: if the folder holds none of the files.
        BadData: if a file cannot be right; it names file, record and field.
    """
    folder = fetch("mit_push") if path is None else Path(path)
    cells: dict[tuple[str, str], dict[str, Path]] = {}
    for file in sorted(folder.glob("*.mat")):
        if match := _FILE.fullmatch(file.name):
            cells.setdefault((match["surface"], match["shape"]), {})[match["model"]] = file
    if not cells:
        raise DataUnavailable(f"expected the .mat files of mit_push in {folder}, found none; run `structwm fetch mit_push` or give their folder.")
    return tuple(_read_cell(surface, shape, files) for (surface, shape), files in sorted(cells.items()))


def _read_cell(surface: str, shape: str, files: dict[str, Path]) -> Pushes:
    for model in MODELS:
        if model not in files:
            file = next(iter(files.values()))
            advice = "add the other model's file"
            raise BadData.at(file=file, record="every record", field="final_pose_sim", expected=f"{model}'s file beside it", got="none", advice=advice)
    contents = {model: _read_file(files[model], surface=surface, shape=shape, model=model) for model in MODELS}
    _check_same_pushes(files, {model: content[0] for model, content in contents.items()})
    truth, speed = contents[MODELS[0]]
    return Pushes(
        surface=surface,
        shape=shape,
        outline=shape_outline(shape),
        tip_radius=TIP_RADIUS,
        semi_axes=SEMI_AXES.get(shape),
        published={model: content["final_pose_sim"] for model, (content, _) in contents.items()},
        tip_speed=speed,
        source=f"mit_push {surface}/{shape}",
        **{ours: truth[theirs] for ours, theirs in _FIELDS.items()},
    )


def _read_file(file: Path, *, surface: str, shape: str, model: str) -> tuple[dict[str, Array], float]:
    """The fields of every record, stacked, and the tip's speed [m/s]."""
    from scipy.io import loadmat

    whole: dict[str, Any] = {"file": file, "record": "every record"}
    again = "fetch it again with `structwm fetch mit_push`"
    try:
        content = loadmat(file, simplify_cells=True)
    except Exception as error:  # a damaged file makes the parser fail in many ways
        got = f"{file.stat().st_size} bytes that end early or are damaged ({type(error).__name__})"
        raise BadData.at(**whole, field="record_all", expected="a complete MATLAB version 5 file", got=got, advice=again) from error
    for field, expected in (("surface_type", surface), ("shape_id", shape), ("ls_type", model)):
        if str(content.get(field)) != expected:
            advice = "the file was renamed or damaged, " + again
            raise BadData.at(**whole, field=field, expected=f"{expected!r} as in the file's name", got=repr(content.get(field)), advice=advice)
    records = content.get("record_all")
    records = [records] if isinstance(records, dict) else list(records if isinstance(records, list | np.ndarray) else [])
    speed = float(content.get("vel", np.nan)) / 1000  # upstream in mm/s
    if not records or not speed > 0:
        field, got = ("record_all", "none") if not records else ("vel", repr(content.get("vel")))
        raise BadData.at(**whole, field=field, expected="one struct a push, made at a speed above zero [mm/s]", got=got, advice=again)
    arrays = {field: np.stack([_row(record, field, size, number, file) for number, record in enumerate(records)]) for field, size in _SIZES.items()}
    checked = {ours: arrays[theirs] for ours, theirs in _FIELDS.items()} | {"final_pose_sim": arrays["final_pose_sim"]}
    check_pushes(checked, outline=shape_outline(shape), tip_radius=TIP_RADIUS, yaw_limit=np.pi, file=file, names=_FIELDS)
    return arrays, speed


def _row(record: Any, field: str, size: int, number: int, file: Path) -> Array:
    where: dict[str, Any] = {"file": file, "record": number, "field": field}
    if not isinstance(record, dict) or field not in record:
        got = f"fields {', '.join(record)}" if isinstance(record, dict) else type(record).__name__
        raise BadData.at(**where, expected=f"a struct with the field {field}", got=got, advice="record it again or leave the record out of both models' files")
    values = np.asarray(record[field])
    if values.shape != (size,) or values.dtype.kind not in "iuf":
        advice = "give x, y and yaw" if size == 3 else "give x and y"
        raise BadData.at(**where, expected=f"{size} numbers", got=f"{values.dtype} of shape {values.shape}", advice=advice)
    return values.astype(np.float64)


def _check_same_pushes(files: dict[str, Path], arrays: dict[str, dict[str, Array]]) -> None:
    """The models' files must hold the same pushes in the same order."""
    first, second = MODELS
    for field in _FIELDS.values():
        ours, theirs = arrays[first][field], arrays[second][field]
        advice = "use files of one export"
        if len(ours) != len(theirs):
            expected, got = f"{len(ours)} records as in {files[first].name}", f"{len(theirs)}"
            record: int | str = f"record {min(len(ours), len(theirs))}"
            raise BadData.at(file=files[second], record=record, field=field, expected=expected, got=got, advice=advice)
        differs = (ours != theirs).any(axis=1)
        if differs.any():
            number = int(np.argmax(differs))
            raise BadData.at(
                file=files[second], record=number, field=field, expected=f"{ours[number]} as in {files[first].name}", got=f"{theirs[number]}", advice=advice
            )
