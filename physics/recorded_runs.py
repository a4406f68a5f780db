"""Runs of a rigid world from recordings: CSV and NPZ files, episode stores, and data sets by name. `run_columns` says how columns are called."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Mapping, Sequence
from glob import glob
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.cube_tosses import read_cube_tosses
from structwm.data.double_pendulum import RATE, read_double_pendulum
from structwm.data.episode import Episode
from structwm.data.errors import BadData
from structwm.data.ply import open_data
from structwm.data.store import EpisodeSet
from structwm.kernels.rigid_layout import ActuatorKind, JointKind

from .rigid_world import RigidWorld
from .run_columns import GROUPS, LABELS, check_actions, runs_of_columns
from .timed_runs import TimedRun

Array = NDArray[Any]
FOREIGN = frozenset({"mm", "cm", "km", "mm/s", "cm/s", "deg", "degree", "degrees", "deg/s", "rpm", "ms", "us", "ns", "step", "inch", "ft"})
SMOOTHING = 15  # instants whose cubic tells the rates of the double pendulum


def read_runs(source: str | Path | Sequence[str | Path], world: RigidWorld, *, names: Mapping[str, str] | None = None) -> list[TimedRun]:
    """The runs of a recording, in order.

    Args:
        source: a `.csv` or `.npz` file, a folder of them or a pattern such as `runs/*.csv` (in the order of their names), several of these; a folder that an
            `EpisodeWriter` or `EpisodeRecorder` wrote; or a data set: `contactnets_cube` (a world of one free body), `double_pendulum` (of two hinges).
        world: what was recorded.
        names: bodies and actuators that are called otherwise in the recording: there, to here.

    Raises:
        FileNotFoundError: if there is no such recording.
        BadData: in one sentence that names file, run and column, if something is missing, unknown, or cannot be.
        ValueError: if the world is not one that the recording can be of.
    """
    if not isinstance(source, str | Path):
        return [run for part in source for run in read_runs(part, world, names=names)]
    if str(source) in SETS:
        return SETS[str(source)](world, None)
    path = Path(source)
    if (path / "index.json").is_file():
        return read_episode_runs(EpisodeSet(path), world, names=names, file=str(path))
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in READERS) if path.is_dir() else [Path(name) for name in sorted(glob(str(source)))]
    files = [path] if path.is_file() else files
    if not files:
        raise FileNotFoundError(
            f"expected recorded runs at {source}, found none; give a .csv or .npz file, a folder of them, a folder of episodes, or one of {', '.join(SETS)}."
        )
    runs: list[TimedRun] = []
    for file in files:
        if file.suffix.lower() not in READERS:
            advice = "give a .csv or .npz file, or a folder that an EpisodeWriter wrote"
            raise BadData.at(file=file, record="the whole file", field="name", expected=" or ".join(READERS), got=repr(file.suffix), advice=advice)
        runs += runs_of_columns(READERS[file.suffix.lower()](file), world, file=str(file), names=names)
    return runs


def read_csv_columns(path: Path) -> dict[str, Array]:
    """The columns (T,) of a CSV file with a header; an empty cell is NaN. `run` may hold any text.

    Raises:
        BadData: names line and column.
    """

    def bad(record: str, column: str, expected: str, got: str) -> BadData:
        return BadData.at(file=path, record=record, field=column, expected=expected, got=got, advice="correct the file")

    with open_data(path) as stream:
        try:
            rows = [row for row in csv.reader(TextIOWrapper(stream, encoding="utf-8-sig", newline="")) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise bad("the whole file", "every column", "text in UTF-8, separated by commas", type(error).__name__) from error
    header = [name.strip() for name in rows[0]] if rows else []
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise bad("the header", twice[0], "each column once", "it twice")
    if len(rows) < 2:
        raise bad("the whole file", "every column", "a header and rows of numbers", f"{len(rows)} rows")
    table = np.full((len(rows) - 1, len(header)), np.nan)
    labels = header.index("run") if "run" in header else -1
    for k, row in enumerate(rows[1:]):
        if len(row) != len(header):
            raise bad(f"row {k + 1}", "every column", f"{len(header)} cells as the header has", f"{len(row)}")
        for column, cell in enumerate(row):
            if column != labels and cell.strip():
                try:
                    table[k, column] = float(cell)
                except ValueError:
                    raise bad(f"row {k + 1}", header[column], "a number", repr(cell.strip()[:40])) from None
    found: dict[str, Array] = dict(zip(header, table.T, strict=True))
    if labels >= 0:
        found["run"] = np.array([row[labels].strip() for row in rows[1:]])
    return found


def read_npz_columns(path: Path) -> dict[str, Array]:
    """The arrays of an NPZ file; nothing pickled is read.

    Raises:
        BadData: names file and array.
    """
    advice = "write numbers with numpy.savez"
    with open_data(path) as stream:
        try:
            with np.load(stream, allow_pickle=False) as content:
                found = {name: content[name] for name in content.files}
        except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise BadData.at(
                file=path, record="the whole file", field="every array", expected="arrays of numbers", got=type(error).__name__, advice=advice
            ) from error
    for name, values in found.items():
        if values.ndim == 0 or (values.dtype.kind not in "biuf" and name != "run"):
            raise BadData.at(file=path, record="every row", field=name, expected="numbers (T, ...)", got=f"{values.dtype} {values.shape}", advice=advice)
    return found


def read_episode_runs(episodes: Sequence[Episode], world: RigidWorld, *, names: Mapping[str, str] | None = None, file: str = "memory") -> list[TimedRun]:
    """Episodes whose observations are called `NAME/pose` (T, 7), `NAME/twist` (T, 6), `NAME/angle`, `NAME/position`, `NAME/rate`, or as in `run_columns` with a
    slash for the dot. Other observations are left out. Actions are the world's actuators in order.

    Raises:
        BadData: as `read_runs`; also for metadata that says another unit than SI, or another frame than the world's.
    """
    runs = []
    for k, episode in enumerate(episodes):
        record = episode.name or f"episode {k}"
        columns: dict[str, Array] = {"time": episode.time}
        for key, values in episode.observation.items():
            name = key.replace("/", ".")
            if name.rpartition(".")[2] in LABELS or name.rpartition(".")[2] in GROUPS:
                _check_meaning(episode, key, file, record)
                columns[name] = values
        _check_meaning(episode, None, file, record)
        actions = np.array(episode.action, dtype=np.float64)
        actions = actions.reshape(len(actions), -1)
        actions[~episode.action_valid] = np.nan
        runs += runs_of_columns(columns | {"action": actions}, world, file=file, record=record, names=names)
    return runs


def _check_meaning(episode: Episode, key: str | None, file: str, record: str) -> None:
    """Refuse units that are not SI and frames that are not the world's, where the metadata tells; None: of time."""
    field = "time" if key is None else f"observation/{key}"
    unit, frame = episode.metadata.units.get(field, ""), episode.metadata.frames.get(field, "world")
    foreign = [part for part in unit.replace(",", " ").split() if part in FOREIGN]
    if foreign:
        raise BadData.at(
            file=file, record=record, field=field, expected="SI units", got=repr(foreign[0]), advice="convert the numbers before they are recorded"
        )
    if frame != "world":
        raise BadData.at(file=file, record=record, field=field, expected="numbers in the frame 'world'", got=f"in {frame!r}", advice="transform them first")


def read_toss_runs(world: RigidWorld, path: Path | None = None) -> list[TimedRun]:
    """The tosses of `contactnets_cube`, in the order of their files, as runs of the world's one free body.

    A recorded velocity is that of the step that ends at its row, half a step of gravity (0.03 m/s) behind the instant, as fits to 432 free flights show; here
    each is the mean with that of the step that begins there.

    Raises:
        ValueError: if the world has not exactly one.
    """
    free = [body.name for body in world.bodies if body.joint.kind is JointKind.FREE]
    if len(free) != 1:
        raise ValueError(f"contactnets_cube is of one free body; the scene has {len(free)}: {', '.join(free) or 'none'}.")
    return [
        TimedRun(toss.times, {free[0]: toss.poses}, {free[0]: _centered(toss.twists)}, file="contactnets_cube", record=f"toss {toss.number}")
        for toss in read_cube_tosses(path)
    ]


def _centered(twists: Array) -> Array:
    """Twists (T, 6) at their instants, of those over the steps that end there; the last as it is."""
    return np.concatenate([(twists[:-1] + twists[1:]) / 2, twists[-1:]])


def read_pendulum_runs(world: RigidWorld, path: Path | None = None) -> list[TimedRun]:
    """The runs of `double_pendulum` as those of the world's two hinges; actions are the torques commanded. Rates come from the angles by a cubic through
    `SMOOTHING` instants (Savitzky and Golay, 1964): the recorded ones lag and are coarse.

    Raises:
        ValueError: if the world has not two hinges, or a joint was driven that has no actuator.
    """
    from scipy.signal import savgol_filter

    hinges = [body.name for body in world.bodies if body.joint.kind is JointKind.HINGE]
    if len(hinges) != 2:
        raise ValueError(f"double_pendulum is of two bodies on hinges; the scene has {len(hinges)}: {', '.join(hinges) or 'none'}.")
    of = {actuator.body: k for k, actuator in enumerate(world.actuators) if actuator.kind is ActuatorKind.EFFORT}
    runs = []
    for run in read_double_pendulum(path):
        rates = savgol_filter(run.positions, SMOOTHING, 3, deriv=1, delta=1 / RATE, axis=0)
        actions = np.zeros((len(run.times), len(world.actuators)))
        for k, name in enumerate(hinges):
            if name in of:
                actions[:, of[name]] = run.torques_commanded[:, k]
            elif run.torques_commanded[:, k].any():
                raise ValueError(f"double_pendulum has torques at its joint {k + 1}; give the scene an actuator of kind effort at {name!r}.")
        check_actions(world, actions, "double_pendulum", run.name)
        positions, speeds = ({name: values[:, k] for k, name in enumerate(hinges)} for values in (run.positions, rates))
        runs.append(TimedRun(run.times, positions=positions, rates=speeds, actions=actions, file="double_pendulum", record=run.name))
    return runs


READERS: Mapping[str, Callable[[Path], dict[str, Array]]] = {".csv": read_csv_columns, ".npz": read_npz_columns}
SETS: Mapping[str, Callable[[RigidWorld, Path | None], list[TimedRun]]] = {"contactnets_cube": read_toss_runs, "double_pendulum": read_pendulum_runs}
