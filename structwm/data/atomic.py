"""Files that are there whole or not at all, and folders that only one process writes to."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any


def sync_path(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Replace the file's content in one step: a reader, or whoever comes after a kill, sees the old bytes or the new ones.

    Raises:
        FileNotFoundError: if there is no folder to write to.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: expected a folder to write to, found none; make it first.")
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(draft, "wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_path(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text."""
    write_bytes(path, [text.encode()])


def write_json(path: Path, value: Any) -> None:
    """`write_text` of strict JSON (NaN and infinity are refused)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def append_lines(path: Path, values: list[dict[str, Any]], *, sync: bool = True) -> None:
    """Append JSON objects, one a line. A kill may leave the last line unfinished; `read_lines` leaves such a line out.

    Without `sync` the lines survive a kill but perhaps not a power cut.
    """
    text = "".join(json.dumps(value, allow_nan=False) + "\n" for value in values)
    with open(path, "ab", buffering=0) as stream:
        data = text.encode()
        while data:
            data = data[stream.write(data) :]
        if sync:
            os.fsync(stream.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete JSON objects of a file of lines; nothing if the file is absent.

    Raises:
        ValueError: if a finished line is not a JSON object.
    """
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1]):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ValueError(f"{path}, line {number + 1}: expected a JSON object, got {line[:60]!r}; the file was edited or damaged, restore it from a copy.")
        yield value


def finish_lines(path: Path) -> None:
    """Cut an unfinished last line off, so that the file may be appended to."""
    if path.exists():
        content = path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            os.truncate(path, complete)


def lock_folder(path: Path, purpose: str) -> IO[bytes]:
    """Hold the folder for writing until the returned file is closed or the process ends.

    Raises:
        BlockingIOError: if another process (or this one) holds it.
    """
    stream = open(path / ".lock", "ab")  # noqa: SIM115 - the caller holds it
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise BlockingIOError(f"expected {path} to be free for {purpose}, but another writer has it open; wait for it or use another folder.") from None
    return stream
