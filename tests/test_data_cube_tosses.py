"""The cube's tosses: what the files hold, in which frames, and that damaged and hostile files are refused."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from structwm.data import BadData, DataUnavailable, Toss, read_cube_tosses, toss_split
from structwm.data.cube_tosses import GRAVITY, RATE, ROUNDING, SIDE
from structwm.data.registry import data_source


@pytest.fixture(scope="module")
def tosses(data_dir: Callable[[str], Path]) -> tuple[Toss, ...]:
    return read_cube_tosses(data_dir("contactnets_cube"))


def rows(steps: int = 5) -> torch.Tensor:
    """A toss as a file has it: a quarter turn about z, spinning about the body's x, which is the world's y."""
    state = torch.zeros(steps, 13, dtype=torch.float64)
    state[:, (0, 3)] = 0.5**0.5
    state[:, 6], state[:, 7], state[:, 12] = 0.1, 2.0, -1.0
    return state


def test_files_are_the_pinned_ones(data_dir: Callable[[str], Path]) -> None:
    source, folder = data_source("contactnets_cube"), data_dir("contactnets_cube")
    assert source.licence == "BSD-3-Clause" and len(source.files) == 552 and f"/{source.commit}/" in source.url
    assert dict(source.files) == {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in source.files}


def test_all_tosses_in_the_order_of_their_numbers(tosses: tuple[Toss, ...]) -> None:
    assert [toss.number for toss in tosses] == list(range(550)) and sum(len(toss.times) for toss in tosses) == 58362
    for toss in tosses:
        assert toss.poses.shape == (len(toss.times), 7) and toss.twists.shape == (len(toss.times), 6) and toss.poses.dtype == toss.twists.dtype == np.float64
        np.testing.assert_allclose(np.linalg.norm(toss.poses[:, 3:], axis=1), 1, rtol=0, atol=1e-12)
        assert not toss.poses.flags.writeable
        assert np.abs(toss.twists[-1]).max() < 0.06 and toss.poses[-1, 2] == pytest.approx(SIDE / 2, abs=0.004)  # at rest, on a face


def test_twists_are_the_differences_of_poses_in_the_world(tosses: tuple[Toss, ...]) -> None:
    """Both velocities, in the world frame, are those of the step that ends at their row; the bounds are what the estimator's smoothing leaves."""
    linear, angular, other = [], [], []
    for toss in tosses[::5]:
        turn = Rotation.from_quat(toss.poses[:, [4, 5, 6, 3]])
        rate = RATE * (turn[1:] * turn[:-1].inv()).as_rotvec()
        linear.append(RATE * np.diff(toss.poses[:, :3], axis=0) - toss.twists[1:, :3])
        angular.append(rate - toss.twists[1:, 3:])
        other.append(rate - turn[1:].inv().apply(toss.twists[1:, 3:].copy()))  # as if they were stored in the world frame
    middle = [np.median(np.linalg.norm(np.concatenate(parts), axis=1)) for parts in (linear, angular, other)]
    assert middle[0] < 0.006 and middle[1] < 0.05 and middle[2] > 1.0


def test_the_start_is_the_twist_at_the_first_row(tosses: tuple[Toss, ...]) -> None:
    """Free fall from it lands on the second row; from the recorded twist, which is half a step older, it lands half a step of gravity beside."""
    fall = np.array([0.0, 0.0, 0.5 * GRAVITY / RATE])
    moved = np.array([RATE * (toss.poses[1, :3] - toss.poses[0, :3]) for toss in tosses]) + fall
    beside = [(moved - np.array([twist[:3] for twist in twists])).mean(0) for twists in ([t.start for t in tosses], [t.twists[0] for t in tosses])]
    np.testing.assert_allclose(beside[0], 0, atol=2e-3)
    np.testing.assert_allclose(beside[1], -fall, atol=2e-3)
    np.testing.assert_array_equal(tosses[0].start[3:], tosses[0].twists[0, 3:])


def test_edges_and_corners_are_round(tosses: tuple[Toss, ...]) -> None:
    """Sliding on an edge or corner, a sharp one would lie below the floor by the radius times sum |u| - 1, of the vertical u in the body's frame."""
    sharp = np.array(np.meshgrid(*[(-SIDE / 2, SIDE / 2)] * 3)).reshape(3, 8)
    tilts, depths = [], []
    few = [tosses[i] for i in toss_split()[0]]
    rest = float(np.median([toss.poses[-1, 2] - SIDE / 2 for toss in few]))
    for toss in few:
        up = Rotation.from_quat(toss.poses[:, [4, 5, 6, 3]]).as_matrix()[:, 2]
        corners = up @ sharp + toss.poses[:, 2:3]
        lowest, middle = corners.argmin(1)[3:-3], np.arange(3, len(up) - 3)
        speed = RATE / 4 * (corners[middle + 2, lowest] - corners[middle - 2, lowest])
        pull = (RATE / 2) ** 2 * (toss.poses[middle + 2, 2] - 2 * toss.poses[middle, 2] + toss.poses[middle - 2, 2])
        tilt = np.abs(up[middle]).sum(1) - 1
        touched = np.minimum.accumulate(corners.min(1))[middle] < 1e-3
        slides = (np.abs(speed) < 0.05) & (pull > -4) & (pull < 6) & (tilt > 0.2) & touched
        tilts.append(tilt[slides])
        depths.append(rest - corners[middle, lowest][slides])
    radius = np.concatenate(depths) / np.concatenate(tilts)
    assert len(radius) > 200 and float(np.median(radius)) == pytest.approx(ROUNDING, abs=3e-4)


def test_the_split_is_a_permutation_of_seed_zero() -> None:
    order = np.random.default_rng(0).permutation(550)
    few, test = toss_split()
    np.testing.assert_array_equal(few, order[:64])
    np.testing.assert_array_equal(test, order[450:])
    assert len(set(few) | set(test)) == 164
    with pytest.raises(ValueError, match="expected at least 164 tosses, 64 for calibration and 100 for test, got 163"):
        toss_split(163)


def test_a_folder_of_some_files_is_enough(tmp_path: Path) -> None:
    for name in ("10.pt", "9.pt", "2.pt"):
        torch.save(rows().float() if name == "9.pt" else rows(), tmp_path / name)
    torch.save(rows(), tmp_path / "notes.pt")
    tosses = read_cube_tosses(tmp_path)
    assert [toss.number for toss in tosses] == [2, 9, 10]
    np.testing.assert_allclose(tosses[0].poses[0], [0, 0, 0.1, 0.5**0.5, 0, 0, 0.5**0.5])
    np.testing.assert_allclose(tosses[0].twists[0], [0, 0, -1, 0, 2, 0], atol=1e-15)
    np.testing.assert_allclose(tosses[0].times, np.arange(5) / 148)


def test_quaternions_are_made_unit(tmp_path: Path) -> None:
    state = rows()
    state[:, :4] *= 1.0005
    torch.save(state, tmp_path / "0.pt")
    (toss,) = read_cube_tosses(tmp_path)
    np.testing.assert_allclose(np.linalg.norm(toss.poses[:, 3:], axis=1), 1, rtol=0, atol=1e-12)


def changed(place: tuple[int, int], value: float) -> torch.Tensor:
    state = rows()
    state[place] = value
    return state


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (rows()[:, :12], r"every record, field shape: expected \(T, 13\) with T of 2 or more, got \(5, 12\)"),
        (rows(1), r"field shape: .*got \(1, 13\)"),
        (rows()[0], r"field shape: .*got \(13,\)"),
        (rows().long(), "field the whole file: expected a tensor of floating point numbers, got a tensor of torch.int64"),
        (rows().to_sparse(), "expected a tensor of floating point numbers"),
        ([1.0, 2.0], "expected a tensor of floating point numbers, got an object of type list"),
        (changed((3, 8), float("nan")), "record 3, field state: expected 13 finite numbers"),
        (changed((2, 1), 0.1), r"record 2, field quaternion: expected a length within 0.001 of 1, got 1.00499; fetch it again with `structwm fetch contact"),
    ],
)
def test_bad_tosses(tmp_path: Path, content: Any, text: str) -> None:
    torch.save(content, tmp_path / "0.pt")
    with pytest.raises(BadData, match=f"0.pt, .*{text}") as caught:
        read_cube_tosses(tmp_path)
    assert "\n" not in str(caught.value)


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (self.command,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_a_hostile_file_is_refused_and_not_run(tmp_path: Path, save: str) -> None:
    trace, file = tmp_path / "trace", tmp_path / "0.pt"
    hostile = Hostile(f"touch {trace}")
    if save == "torch":
        torch.save(hostile, file)
    else:
        file.write_bytes(pickle.dumps(hostile))
    with pytest.raises(BadData, match=r"expected a tensor that torch saved, got something else \(UnpicklingError\)") as caught:
        read_cube_tosses(tmp_path)
    assert not trace.exists() and "\n" not in str(caught.value)
    _ = torch.load(file, weights_only=False) if save == "torch" else pickle.loads(file.read_bytes())  # here it runs
    assert trace.exists()


def test_cut_and_absent_files(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match=re.escape("run `structwm fetch contactnets_cube` or give its folder")):
        read_cube_tosses(tmp_path)
    torch.save(rows(), tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for content in (b"", whole[:300], whole[: len(whole) // 2], b"no tensor at all"):
        (tmp_path / "0.pt").write_bytes(content)
        with pytest.raises(BadData, match="expected a tensor that torch saved") as caught:
            read_cube_tosses(tmp_path)
        assert "\n" not in str(caught.value)
