"""The cables' motion: what the files hold, and that damaged and hostile ones are refused."""

from __future__ import annotations

import hashlib
import pickle
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from structwm.data import BadData, DataUnavailable, convert_rope_motion, read_rope_motion
from structwm.data.registry import data_source
from structwm.data.rope_motion import CABLES, FRAMES


@pytest.mark.parametrize(("cable", "vertices", "length"), [("DLO1", 13, 1.03), ("DLO2", 12, 0.91)])
def test_what_the_files_hold(data_dir: Callable[[str], Path], cable: str, vertices: int, length: float) -> None:
    folder = data_dir("deform_rope")
    motion = read_rope_motion(cable, folder)
    assert motion.train.shape == (56, 500, vertices, 3) and motion.test.shape == (14, 500, vertices, 3)
    assert motion.driven == (0, 1, vertices - 2, vertices - 1) and not motion.train.flags.writeable
    edges = np.linalg.norm(np.diff(motion.train, axis=2), axis=-1)
    assert np.median(edges, axis=(0, 1)).sum() == pytest.approx(length, abs=0.03)  # [m]
    sag = motion.train[:, :, vertices // 2] - (motion.train[:, :, 0] + motion.train[:, :, -1]) / 2
    assert sag.mean((0, 1))[2] < -0.2  # z is up
    file = folder / f"{cable}.npz"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == data_source("deform_rope").files[file.name]


@pytest.mark.slow
def test_example(data_dir: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Calibrated on two runs, the twin predicts five seconds of others to a fifth of what moves."""
    data_dir("deform_rope")
    pytest.importorskip("matplotlib")
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "calibrate_rope.py"))
    example["main"](example["Options"](cable="DLO2", runs=3, evaluations=16, iterations=2, folder=tmp_path))
    shown = capsys.readouterr().out
    assert float(shown.split("calibrated: mean absolute error of a coordinate over five seconds ")[1].split()[0]) < 0.015  # held still: 0.077
    assert "The weakest direction is" in shown and (tmp_path / "report.html").exists()


def pickles(folder: Path, content: Any = None) -> Path:
    """A clone of the upstream repository with two runs in each part."""
    draw = np.random.default_rng(0)
    for cable, vertices in zip(CABLES, (13, 12), strict=True):
        for part in ("train", "eval"):
            (folder / cable / part).mkdir(parents=True)
            for number in (10, 9):
                values = draw.normal(size=(FRAMES + 3, 3, vertices)) if content is None else content
                (folder / cable / part / f"{number}.pkl").write_bytes(pickle.dumps(values))
    return folder


def test_upstream_s_pickles_are_converted(tmp_path: Path) -> None:
    source = pickles(tmp_path / "data_set")
    assert [file.name for file in convert_rope_motion(source, tmp_path / "set")] == ["DLO1.npz", "DLO2.npz"]
    motion = read_rope_motion("DLO2", tmp_path / "set")
    first = pickle.loads((source / "DLO2" / "train" / "9.pkl").read_bytes())  # runs come in the order of their numbers
    np.testing.assert_allclose(motion.train[0, :, 3], first[:FRAMES, :, 3], rtol=1e-6)


class Hostile:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("gone",)


@pytest.mark.parametrize("content", [Hostile(), "text", np.zeros((FRAMES, 2, 13)), np.zeros((5, 3, 13))])
def test_other_pickles_are_refused(tmp_path: Path, content: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadData, match=r"9\.pkl"):
        convert_rope_motion(pickles(tmp_path / "data_set", content), tmp_path / "set")
    assert "gone" not in capsys.readouterr().out


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="structwm fetch deform_rope"):
        read_rope_motion("DLO1", tmp_path)
    with pytest.raises(DataUnavailable, match="data_set of a clone"):
        convert_rope_motion(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="DLO1, DLO2"):
        read_rope_motion("DLO9", tmp_path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "DLO1.npz").write_bytes(b"not an archive")
    with pytest.raises(BadData, match="arrays train and eval"):
        read_rope_motion("DLO1", tmp_path)
    np.savez(tmp_path / "DLO1.npz", train=np.zeros((2, 5, 8, 2)), eval=np.zeros((2, 5, 8, 3)))
    with pytest.raises(BadData, match="runs, frames, vertices, 3"):
        read_rope_motion("DLO1", tmp_path)
    np.savez(tmp_path / "DLO1.npz", train=np.zeros((2, 5, 8, 3)), eval=np.full((2, 5, 8, 3), np.nan))
    with pytest.raises(BadData, match="finite numbers"):
        read_rope_motion("DLO1", tmp_path)
