"""Episodes on disk: round trips, killed writers, damaged files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from structwm.data import BadData, Episode, EpisodeMetadata, EpisodeSet, EpisodeWriter


def make(number: int, *, steps: int = 4, width: int = 2) -> Episode:
    """Episode `number`, filled with its number."""
    return Episode.from_steps(
        {"pose": np.full((steps, width), float(number)), "camera/rgb": np.full((steps, 2, 3), number, np.uint8)},
        np.full((steps - 1, 1), number, np.float32),
        dt=0.1,
        terminated=number % 2 == 1,
        language=f"push {number}",
        metadata=EpisodeMetadata(units={"observation/pose": "m"}, source="test"),
        name=f"episode_{number}",
    )


def write(path: Path, count: int = 3) -> list[Episode]:
    episodes = [make(number, steps=number + 2) for number in range(count)]
    with EpisodeWriter(path) as writer:
        writer.extend(episodes)
    return episodes


def assert_same(got: Episode, wanted: Episode) -> None:
    assert (got.name, got.language, got.metadata) == (wanted.name, wanted.language, wanted.metadata)
    assert got.arrays().keys() == wanted.arrays().keys()
    for name, values in wanted.arrays().items():
        np.testing.assert_array_equal(got.arrays()[name], values, err_msg=name)
        assert got.arrays()[name].dtype == values.dtype


def test_round_trip(tmp_path: Path) -> None:
    episodes = write(tmp_path)
    held = EpisodeSet(tmp_path)
    assert len(held) == 3 and held.steps == 9 and held.lengths.tolist() == [2, 3, 4]
    for got, wanted in zip(held, episodes, strict=True):
        assert_same(got, wanted)
    assert_same(held[-1], episodes[-1])
    assert [episode.name for episode in held[1:]] == ["episode_1", "episode_2"]
    held.verify()
    with pytest.raises(IndexError):
        held[3]


def test_files_are_plain_and_mapped(tmp_path: Path) -> None:
    write(tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "observation.pose.npy")[:, 0], [0, 0, 1, 1, 1, 2, 2, 2, 2])
    assert np.load(tmp_path / "observation.camera%2Frgb.npy").shape == (9, 2, 3)
    held = EpisodeSet(tmp_path)
    assert isinstance(held.array("observation/pose"), np.memmap)
    values = held[2].observation["pose"]
    assert np.shares_memory(values, held.array("observation/pose")) and not values.flags.writeable


def test_opening_reads_no_rows(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "observation.pose.npy"
    with open(file, "r+b") as stream:
        stream.truncate(256)
        stream.truncate(256 + 9 * 16)  # a hole in place of the rows
    assert EpisodeSet(tmp_path)[2].observation["pose"][0, 0] == 0


def test_a_writer_appends(tmp_path: Path) -> None:
    episodes = write(tmp_path, 2)
    snapshot = EpisodeSet(tmp_path)
    with EpisodeWriter(tmp_path) as writer:
        writer.append(make(7))
        writer.append(make(8))
    assert [episode.name for episode in EpisodeSet(tmp_path)] == ["episode_0", "episode_1", "episode_7", "episode_8"]
    assert len(snapshot) == 2
    assert_same(snapshot[1], episodes[1])
    assert len((tmp_path / "metadata.jsonl").read_text().splitlines()) == 1
    with pytest.raises(RuntimeError, match="it was closed"):
        writer.append(make(9))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path) as writer:
        with pytest.raises(BlockingIOError, match="another writer has it open"):
            EpisodeWriter(tmp_path)
        writer.append(make(1))
    EpisodeWriter(tmp_path).close()


def test_other_fields_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path)
    with EpisodeWriter(tmp_path) as writer:
        with pytest.raises(BadData, match=r"episode_5, field observation/pose: expected <f8 rows of shape \(2,\), got <f8 rows of shape \(3,\)"):
            writer.extend([make(4), make(5, width=3)])
        writer.append(make(6))
    assert [episode.name for episode in EpisodeSet(tmp_path)][3:] == ["episode_6"]


def test_empty_sets(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no index.json"):
        EpisodeSet(tmp_path)
    with EpisodeWriter(tmp_path) as writer:
        writer.extend([])
    write(tmp_path)
    (tmp_path / "episodes.jsonl").unlink()
    assert len(EpisodeSet(tmp_path)) == 0


def test_what_a_killed_writer_leaves(tmp_path: Path) -> None:
    """Rows without a line, and an unfinished line, are no episodes; the next writer goes over them."""
    episodes = write(tmp_path, 2)
    with open(tmp_path / "observation.pose.npy", "ab") as stream:
        stream.write(b"\x01" * 23)
    with open(tmp_path / "episodes.jsonl", "ab") as stream:
        stream.write(b'{"name": "episode_2", "sta')
    assert len(EpisodeSet(tmp_path)) == 2
    with EpisodeWriter(tmp_path) as writer:
        writer.append(make(5))
    held = EpisodeSet(tmp_path)
    for got, wanted in zip(held, [*episodes, make(5)], strict=True):
        assert_same(got, wanted)
    held.verify()


ROOT = Path(__file__).parents[1]
WRITER = """
import sys
from structwm.data import EpisodeWriter
from tests.test_data_store import make
with EpisodeWriter(sys.argv[1]) as writer:
    for number in range(int(sys.argv[2]), 10**6):
        writer.append(make(number))
        print(number, flush=True)
"""


def test_finished_episodes_survive_a_kill(tmp_path: Path) -> None:
    done = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(done)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(5)]
            time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            said += process.stdout.readlines()
        reported = int([line for line in said if line.endswith("\n")][-1]) + 1
        held = EpisodeSet(tmp_path)
        held.verify()
        assert len(held) in (reported, reported + 1)
        assert [episode.name for episode in held] == [f"episode_{number}" for number in range(len(held))]
        done = len(held)
    assert_same(held[done - 1], make(done - 1))


def _edit_index(path: Path, field: str, **changes: object) -> None:
    index = json.loads((path / "index.json").read_text())
    index["fields"][field] |= changes
    (path / "index.json").write_text(json.dumps(index))


def test_damage_is_named_by_file_record_and_field(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "observation.pose.npy"
    content = file.read_bytes()

    os.truncate(file, 256 + 7 * 16 + 3)
    with pytest.raises(BadData, match=r"observation.pose.npy, row 7, field observation/pose: expected at least 9 rows.*got 7 rows; the file is truncated"):
        EpisodeSet(tmp_path)
    os.truncate(file, 40)
    with pytest.raises(BadData, match="got 40 bytes without an npy header"):
        EpisodeSet(tmp_path)
    file.unlink()
    with pytest.raises(BadData, match=r"field observation/pose.*got no file"):
        EpisodeSet(tmp_path)
    np.save(file, np.zeros((9, 3)))
    with pytest.raises(BadData, match=r"expected at least 9 rows of float64 \(2,\), got rows of float64 \(3,\)"):
        EpisodeSet(tmp_path)

    file.write_bytes(content[:-1] + b"\x00")
    with pytest.raises(BadData, match=r"observation.pose.npy, episode_2, field observation/pose: expected the rows as written"):
        EpisodeSet(tmp_path).verify()

    file.write_bytes(content)
    _edit_index(tmp_path, "action", dtype="<f8")
    with pytest.raises(BadData, match=r"action.npy, every record, field action: expected at least 9 rows of float64 \(1,\), got rows of float32"):
        EpisodeSet(tmp_path)


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    index, lines = (tmp_path / "index.json").read_text(), (tmp_path / "episodes.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "index.json").write_text(index.replace('"version": 1', '"version": 9'))
    with pytest.raises(BadData, match="field version: expected 1, got 9; open it with the release that wrote it"):
        EpisodeSet(tmp_path)
    (tmp_path / "index.json").write_text(index[:50])
    with pytest.raises(BadData, match=r"index.json.*restore it from a copy"):
        EpisodeSet(tmp_path)
    (tmp_path / "index.json").write_text(index)
    (tmp_path / "episodes.jsonl").write_text(lines[0] + lines[2])
    with pytest.raises(BadData, match=r"episodes.jsonl, record 1, field start: expected an episode from row 2, got first row 5"):
        EpisodeSet(tmp_path)
    (tmp_path / "episodes.jsonl").write_text(lines[0] + "oops\n")
    with pytest.raises(ValueError, match="line 2: expected a JSON object"):
        EpisodeSet(tmp_path)
