"""Episodes on disk: a folder with one plain `.npy` per field, opened by memory mapping, so that a big set opens at no cost.

    SET/index.json         the format's version, and of every field its file, dtype and shape of a step
    SET/episodes.jsonl     one line an episode: name, first row, steps, language, metadata, checksum of every field's rows
    SET/metadata.jsonl     the distinct metadata, which episodes refer to by line
    SET/action.npy ...     the steps of all episodes one after the other

A line in `episodes.jsonl` is written after its rows are on the disk. Rows without a line, left by a writer that was killed, are not part of the set, and the
next writer overwrites them.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, overload
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from structwm.data.atomic import append_lines, finish_lines, lock_folder, read_lines, write_json
from structwm.data.episode import PER_STEP, Episode
from structwm.data.errors import BadData
from structwm.data.metadata import EpisodeMetadata

VERSION = 1
Array = NDArray[Any]
Fields = dict[str, dict[str, Any]]


class EpisodeSet(Sequence[Episode]):
    """The episodes in a folder, as they were when it was opened. An episode's arrays are read-only views into the files.

    Raises:
        FileNotFoundError: if the folder holds no episodes.
        BadData: if a file is missing, truncated or not what the index says; it names file, record and field.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._fields = _read_index(self.path)
        self._episodes = list(read_lines(self.path / "episodes.jsonl"))
        self._metadata = [EpisodeMetadata.from_json(line) for line in read_lines(self.path / "metadata.jsonl")]
        self.steps = _check_lines(self.path, self._episodes, len(self._metadata))  # steps in all episodes
        self._arrays = {name: _open_rows(self.path, name, spec, self.steps) for name, spec in self._fields.items()}

    def __len__(self) -> int:
        return len(self._episodes)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> list[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | list[Episode]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        line = self._episodes[index]
        rows = {name: values[line["start"] : line["start"] + line["steps"]] for name, values in self._arrays.items()}
        return Episode.trusted(
            observation={name.partition("/")[2]: values for name, values in rows.items() if name.startswith("observation/")},
            language=line["language"],
            metadata=self._metadata[line["metadata"]],
            name=line["name"],
            **{name: rows[name] for name in ("action", *PER_STEP)},
        )

    def array(self, field: str) -> Array:
        """A field's rows of all episodes one after the other, (steps, ...), for instance of `observation/pose`."""
        return self._arrays[field]

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(self._fields)

    @property
    def lengths(self) -> Array:
        """Steps of every episode, int64 (episodes,)."""
        return np.array([line["steps"] for line in self._episodes], dtype=np.int64)

    def verify(self) -> None:
        """Read everything and compare checksums.

        Raises:
            BadData: at the first episode and field whose rows changed since they were written.
        """
        for line in self._episodes:
            for name, values in self._arrays.items():
                if _checksum(values[line["start"] : line["start"] + line["steps"]]) != line["crc32"][name]:
                    file = self.path / self._fields[name]["file"]
                    raise BadData.at(
                        file=file,
                        record=line["name"],
                        field=name,
                        expected="the rows as written",
                        got="another checksum",
                        advice="restore the file from a copy",
                    )


class EpisodeWriter:
    """Appends episodes to a folder, new or existing. Close it or use it in a `with` block.

    The first episode sets the fields, their dtypes and shapes. What `append` or `extend` returned from survives a kill.

    Raises:
        BlockingIOError: if another writer has the folder open.
        BadData: if an episode's fields differ from the set's.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.path, "writing episodes")
        try:
            for file in ("episodes.jsonl", "metadata.jsonl"):
                finish_lines(self.path / file)
            existing = EpisodeSet(self.path) if (self.path / "index.json").exists() else None
        except BaseException:
            self._lock.close()
            raise
        self._fields: Fields | None = existing._fields if existing else None
        self._rows = existing.steps if existing else 0
        self._metadata = {json.dumps(line, sort_keys=True): number for number, line in enumerate(read_lines(self.path / "metadata.jsonl"))}

    def append(self, episode: Episode) -> None:
        """Add one episode."""
        self.extend([episode])

    def extend(self, episodes: Iterable[Episode]) -> None:
        """Add several with one flush to the disk, which is much faster for short ones. Either all are added or, after a kill or an error, none."""
        if self._lock.closed:
            raise RuntimeError(f"expected the writer of {self.path} to be open, but it was closed; make a new one, it appends.")
        batch = list(episodes)
        if not batch:
            return
        if self._fields is None:
            self._fields = _fields_of(batch[0])
        for episode in batch:
            _check_fields(self.path, episode, self._fields)
        if not (self.path / "index.json").exists():
            write_json(self.path / "index.json", {"format": "structwm-episodes", "version": VERSION, "fields": self._fields})
        arrays = [episode.arrays() for episode in batch]
        for name, spec in self._fields.items():
            _write_rows(self.path / spec["file"], spec, self._rows, [rows[name] for rows in arrays])
        append_lines(self.path / "episodes.jsonl", self._lines(batch, arrays))
        self._rows += sum(map(len, batch))

    def close(self) -> None:
        """Let other writers in."""
        self._lock.close()

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _lines(self, batch: list[Episode], arrays: list[dict[str, Array]]) -> list[dict[str, Any]]:
        lines, start = [], self._rows
        for episode, rows in zip(batch, arrays, strict=True):
            lines.append(
                {
                    "name": episode.name,
                    "start": start,
                    "steps": len(episode),
                    "language": episode.language,
                    "metadata": self._metadata_line(episode.metadata),
                    "crc32": {name: _checksum(rows[name]) for name in self._fields or {}},
                }
            )
            start += len(episode)
        return lines

    def _metadata_line(self, metadata: EpisodeMetadata) -> int:
        content = json.loads(json.dumps(metadata.to_json()))
        text = json.dumps(content, sort_keys=True)
        if text not in self._metadata:
            append_lines(self.path / "metadata.jsonl", [content])
            self._metadata[text] = len(self._metadata)
        return self._metadata[text]


def _fields_of(episode: Episode) -> Fields:
    return {
        name: {"file": f"{quote(name, safe='').replace('%2F', '.', 1)}.npy", "dtype": values.dtype.str, "shape": list(values.shape[1:])}
        for name, values in episode.arrays().items()
    }


def _check_fields(path: Path, episode: Episode, fields: Fields) -> None:
    own = _fields_of(episode)
    for name in sorted({*own, *fields}):
        if own.get(name) != fields.get(name):
            expected, got = (f"{x[name]['dtype']} rows of shape {tuple(x[name]['shape'])}" if name in x else "no such field" for x in (fields, own))
            raise BadData.at(file=path, record=episode.name, field=name, expected=expected, got=got, advice="keep episodes of different make in different sets")


def _read_index(path: Path) -> Fields:
    file = path / "index.json"
    if not file.exists():
        raise FileNotFoundError(f"expected episodes in {path}, found no index.json there; give the folder an EpisodeWriter or EpisodeRecorder wrote.")
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        version, fields = index["version"], dict(index["fields"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadData.at(file=file, record="the whole file", field="fields", expected="an index", got=repr(error), advice="restore it from a copy") from error
    if version != VERSION:
        raise BadData.at(
            file=file, record="the whole file", field="version", expected=str(VERSION), got=str(version), advice="open it with the release that wrote it"
        )
    return fields


def _check_lines(path: Path, lines: list[dict[str, Any]], metadata: int) -> int:
    """Steps in all; episodes must follow each other without a gap."""
    start = 0
    for number, line in enumerate(lines):
        missing = {"name", "start", "steps", "language", "metadata", "crc32"} - line.keys()
        if missing or line["start"] != start or not 0 <= line["metadata"] < metadata:
            got = f"a line without {sorted(missing)}" if missing else f"first row {line['start']}, metadata line {line['metadata']} of {metadata}"
            where = path / "episodes.jsonl"
            raise BadData.at(file=where, record=number, field="start", expected=f"an episode from row {start}", got=got, advice="restore the file from a copy")
        start += line["steps"]
    return start


def _header(spec: dict[str, Any], rows: int) -> bytes:
    """An npy header of 256 bytes, so that it can be rewritten in place while rows are added."""
    text = repr({"descr": spec["dtype"], "fortran_order": False, "shape": (rows, *spec["shape"])}).encode()
    return b"\x93NUMPY\x01\x00" + (246).to_bytes(2, "little") + text.ljust(245) + b"\n"


def _row_bytes(spec: dict[str, Any]) -> int:
    return int(np.dtype(spec["dtype"]).itemsize * np.prod(spec["shape"], dtype=np.int64))


def _write_rows(file: Path, spec: dict[str, Any], start: int, arrays: list[Array]) -> None:
    """Put rows behind the first `start` ones: data, then header."""
    with open(file, "r+b" if file.exists() else "w+b") as stream:
        offset = len(_header(spec, 0)) + start * _row_bytes(spec)
        stream.truncate(offset)
        stream.seek(offset)
        for values in arrays:
            stream.write(np.ascontiguousarray(values).tobytes())
        stream.flush()
        os.pwrite(stream.fileno(), _header(spec, start + sum(map(len, arrays))), 0)
        os.fsync(stream.fileno())


def _open_rows(path: Path, name: str, spec: dict[str, Any], rows: int) -> Array:
    """The first `rows` rows of a field, mapped."""
    file = path / Path(spec["file"]).name
    shape, dtype = tuple(spec["shape"]), np.dtype(spec["dtype"])
    expected = f"at least {rows} rows of {dtype} {shape}"
    size = file.stat().st_size if file.exists() else 0
    try:
        with open(file, "rb") as stream:
            header = BytesIO(stream.read(256))
        np.lib.format.read_magic(header)
        found, fortran, found_dtype = np.lib.format.read_array_header_1_0(header)
    except (OSError, ValueError):
        if rows == 0:
            return np.zeros((0, *shape), dtype)
        got = f"{size} bytes without an npy header" if file.exists() else "no file"
        raise BadData.at(file=file, record="every record", field=name, expected=expected, got=got, advice="restore it from a copy") from None
    if found[1:] != shape or found_dtype != dtype or fortran:
        got = f"rows of {found_dtype} {found[1:]}"
        raise BadData.at(file=file, record="every record", field=name, expected=expected, got=got, advice="restore it from a copy, or repair index.json")
    if rows * _row_bytes(spec) == 0:
        return np.zeros((rows, *shape), dtype)
    there = (size - header.tell()) // _row_bytes(spec)
    if there < rows:
        raise BadData.at(
            file=file, record=f"row {there}", field=name, expected=expected, got=f"{there} rows", advice="the file is truncated, restore it from a copy"
        )
    return np.memmap(file, dtype=dtype, mode="r", offset=header.tell(), shape=(rows, *shape))


def _checksum(values: Array) -> int:
    return zlib.crc32(np.ascontiguousarray(values).tobytes())
