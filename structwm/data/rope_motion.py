"""Real cables in motion: both ends moved by arms, the vertices by motion capture at 100 Hz, five seconds a run.

Recordings: Chen et al., Differentiable Discrete Elastic Rods for Real-Time Modeling of Deformable Linear Objects, CoRL 2024; files: data_set of github
roahmlab/DEFORM. The first two and the last two vertices are held by the arms. The world is z up [m].

The makers state no licence: the set is for evaluation, and nothing learned from it is passed on. Upstream are pickles, one a run, (T, 3, V);
`convert_rope_motion` reads them without running anything that a pickle asks for, and writes the two files of this set.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.download import fetch
from structwm.data.errors import BadData, DataUnavailable

Array = NDArray[Any]

RATE = 100.0  # frames a second [1/s]
CABLES = ("DLO1", "DLO2")
FRAMES = 500
DIRECTOR = (0.0, 1.0, 0.0)  # world frame: level, and most often across the line between both arms
_PLAIN = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


@dataclass(frozen=True, eq=False)
class RopeMotion:
    """Runs of one cable, float64, read-only."""

    train: Array  # (56, 500, V, 3) [m]
    test: Array  # (14, 500, V, 3) [m]; two are fast whirls
    name: str

    @property
    def vertices(self) -> int:
        """V."""
        return int(self.train.shape[2])

    @property
    def director(self) -> tuple[float, float, float]:
        """Where that of the first edge points at a start, world frame, about: how the grips hold a cable about itself was not recorded. What this says of one
        instant and what a grip that does not spin makes of an earlier one differ by 0.3 to 12 degrees in the middle, by 50 at most."""
        return DIRECTOR

    @property
    def driven(self) -> tuple[int, ...]:
        """The vertices that the arms hold."""
        return 0, 1, self.vertices - 2, self.vertices - 1


def read_rope_motion(cable: str = "DLO1", path: str | Path | None = None) -> RopeMotion:
    """The runs of a cable.

    Args:
        cable: "DLO1" (13 vertices, 1.06 m) or "DLO2" (12 vertices, 0.91 m).
        path: the set's folder; fetched if not given.

    Raises:
        ValueError: on another cable.
        DataUnavailable: if the file is not there.
        BadData: if it cannot be right.
    """
    if cable not in CABLES:
        raise ValueError(f"read_rope_motion knows the cables {', '.join(CABLES)}, got {cable!r}.")
    folder = fetch("deform_rope") if path is None else Path(path)
    file = folder / f"{cable}.npz"
    if not file.is_file():
        raise DataUnavailable(f"expected {file.name} of deform_rope in {folder}, found none; run `structwm fetch deform_rope` or give its folder.")
    try:
        with np.load(file, allow_pickle=False) as content:
            parts = {name: content[name].astype(np.float64) for name in ("train", "eval")}
    except Exception as error:  # damaged and foreign files make numpy fail in many ways
        raise _bad(file, "every record", "the whole file", "arrays train and eval", f"something else ({type(error).__name__})") from error
    for name, runs in parts.items():
        if runs.ndim != 4 or runs.shape[-1] != 3 or runs.shape[1] < 3 or runs.shape[2] < 6:
            raise _bad(file, name, "shape", "(runs, frames, vertices, 3)", str(runs.shape))
        if not np.isfinite(runs).all():
            raise _bad(file, name, "positions", "finite numbers", "some that are not")
        runs.setflags(write=False)
    return RopeMotion(parts["train"], parts["eval"], cable)


def convert_rope_motion(source: str | Path, folder: str | Path) -> list[Path]:
    """Write DLO1.npz and DLO2.npz from the pickles of a clone of the upstream repository.

    Args:
        source: its folder `data_set`, with `DLO1/train/48.pkl` and so on.
        folder: where the files go.

    Raises:
        DataUnavailable: if there are no pickles of a cable.
        BadData: if a pickle holds anything but numbers in arrays and lists, or another shape.
    """
    written = []
    for cable in CABLES:
        arrays: dict[str, Array] = {}
        for part in ("train", "eval"):
            files = sorted((Path(source) / cable / part).glob("*.pkl"), key=lambda file: int(file.stem))
            if not files:
                raise DataUnavailable(f"expected pickles in {Path(source) / cable / part}, found none; give the folder data_set of a clone of roahmlab/DEFORM.")
            arrays[part] = np.stack([_read_pickle(file)[:FRAMES] for file in files]).astype(np.float32)
            arrays[f"{part}_ids"] = np.array([int(file.stem) for file in files])
        file = Path(folder) / f"{cable}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, **{name: arrays[name] for name in ("train", "train_ids", "eval", "eval_ids")})  # type: ignore[arg-type]
        written.append(file)
    return written


class _Plain(pickle.Unpickler):
    """Makes numpy arrays and plain containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return super().find_class(module, name)


def _read_pickle(file: Path) -> Array:
    """Positions (T, V, 3) of a run."""
    try:
        values = np.asarray(_Plain(io.BytesIO(file.read_bytes())).load(), dtype=np.float64)
    except Exception as error:
        raise _bad(file, "every record", "the whole file", "a pickled array of numbers", f"something else ({error})") from error
    if values.ndim != 3 or values.shape[1] != 3 or len(values) < FRAMES:
        raise _bad(file, "every record", "shape", f"(T, 3, V) with T of {FRAMES} or more", str(values.shape))
    return np.ascontiguousarray(values.swapaxes(1, 2))


def _bad(file: Path, record: int | str, field: str, expected: str, got: str) -> BadData:
    advice = "convert the set again with structwm.data.rope_motion.convert_rope_motion"
    return BadData.at(file=file, record=record, field=field, expected=expected, got=got, advice=advice)
