"""The recorded pushes: what the files hold, and the published figures on the strict split."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from structwm.data import Pushes, read_mit_push, split
from structwm.data.mit_push import POLYGONS, SEMI_AXES, shape_outline
from structwm.data.registry import data_source


@pytest.fixture(scope="module")
def folder() -> Path:
    root = os.environ.get("STRUCTWM_DATA")
    if not root or not (Path(root) / "mit_push").is_dir():
        pytest.skip("needs the set mit_push: run `structwm fetch mit_push`, or set STRUCTWM_DATA to a folder that contains mit_push/")
    return Path(root) / "mit_push"


@pytest.fixture(scope="module")
def cells(folder: Path) -> tuple[Pushes, ...]:
    return read_mit_push(folder)


def test_files_are_the_pinned_ones(folder: Path) -> None:
    files = data_source("mit_push").files
    assert files == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


def test_all_pushes_are_read(cells: tuple[Pushes, ...]) -> None:
    assert len(cells) == 16 and sum(map(len, cells)) == 4536
    assert [cell.name for cell in cells][:3] == ["abs/ellip1", "abs/ellip2", "abs/ellip3"]
    for cell in cells:
        length = np.linalg.norm(cell.final_tip - cell.init_tip, axis=1)
        assert ((length > 0.041) & (length < 0.047)).all()
        assert (np.abs(cell.init_pose[:, 2]) <= np.pi).all()
        assert (np.abs(cell.final_pose[:, 2] - cell.init_pose[:, 2]) < 1.6).all()
        assert all((np.abs(pose[:, 2] - cell.init_pose[:, 2]) < 0.8).all() for pose in cell.published.values())
        assert cell.tip_speed == pytest.approx(0.010) and set(cell.published) == {"poly4", "quadratic"}


def test_published_figures_on_the_test_split(cells: tuple[Pushes, ...]) -> None:
    """Means over the 3,628 test pushes, as known from elsewhere for these files."""
    parts = [split(cell) for cell in cells]
    assert (sum(len(few) for few, _ in parts), sum(len(rest) for _, rest in parts)) == (908, 3628)
    tests = [cell[rest] for cell, (_, rest) in zip(cells, parts, strict=True)]
    wanted = {"hold": (19.55, 0.202), "quadratic": (2.82, 0.0650), "poly4": (2.71, 0.0587)}
    for name, (millimetres, radians) in wanted.items():
        errors = [cell.errors(cell.init_pose if name == "hold" else cell.published[name]) for cell in tests]
        assert 1e3 * np.concatenate([e[0] for e in errors]).mean() == pytest.approx(millimetres, abs=0.006)
        assert np.concatenate([e[1] for e in errors]).mean() == pytest.approx(radians, abs=0.0006)


def test_corrupt_records_are_kept_and_flagged(cells: tuple[Pushes, ...]) -> None:
    flagged = {cell.name: np.flatnonzero(cell.suspect()).tolist() for cell in cells if cell.suspect().any()}
    assert flagged == {"plywood/tri2": [14, 30, 31, 144]}
    gaps = next(cell for cell in cells if cell.name == "plywood/tri2").start_gap
    assert gaps.max() == pytest.approx(0.0542, abs=1e-4)
    assert all(np.abs(np.median(cell.start_gap)) < 0.0015 for cell in cells)


def test_a_folder_of_some_cells_is_enough(folder: Path, tmp_path: Path, cells: tuple[Pushes, ...]) -> None:
    for file in folder.glob("*plywood_rect1_*.mat"):
        (tmp_path / file.name).symlink_to(file)
    (one,) = read_mit_push(tmp_path)
    assert one.name == "plywood/rect1"
    np.testing.assert_array_equal(one.final_pose, next(cell for cell in cells if cell.name == one.name).final_pose)


def test_pushes_become_episodes(cells: tuple[Pushes, ...]) -> None:
    cell = cells[3][np.arange(5)]
    episodes = cell.to_episodes()
    assert [episode.name for episode in episodes] == [f"abs/rect1/{i}" for i in range(5)]
    moves = episodes[2].transitions()
    np.testing.assert_array_equal(moves.observation["slider_pose"][0], cell.init_pose[2])
    np.testing.assert_array_equal(moves.next_observation["slider_pose"][0], cell.final_pose[2])
    np.testing.assert_allclose(moves.action[0], cell.final_tip[2] - cell.init_tip[2])
    assert moves.duration[0] == pytest.approx(4.4, abs=0.1)
    assert episodes[2].metadata.units["observation/slider_pose"] == "m, m, rad"


@pytest.mark.parametrize("shape", [*POLYGONS, *SEMI_AXES])
def test_outlines_are_convex_and_counter_clockwise(shape: str) -> None:
    outline = shape_outline(shape)
    x, y = outline.T
    area = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
    expected = np.pi * np.prod(SEMI_AXES[shape]) if shape in SEMI_AXES else area
    assert area > 0.004 and area == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match="expected one of the shapes ellip1.*got 'hex'"):
        shape_outline("hex")


def test_split_is_the_permutation_of_seed_zero() -> None:
    few, rest = split(314)
    order = np.random.default_rng(0).permutation(314)
    np.testing.assert_array_equal(np.concatenate([few, rest]), order)
    assert len(few) == 63 and [len(split(n)[0]) for n in (234, 286, 314)] == [47, 57, 63]
