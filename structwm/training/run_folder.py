"""A job's folder: configuration, seeds, versions, figures and checkpoints, such that a job killed at any moment resumes.

RUN/config.json                     the configuration and seeds; a job with another one is refused
RUN/starts.jsonl                    one line a start: time, step resumed from, versions, commit
RUN/figures.jsonl                   one line a call of `log`: step and named numbers
RUN/checkpoint-000003-step-120/     the third: arrays.safetensors and state.json; renamed into place when complete
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from structwm.data.atomic import append_lines, finish_lines, lock_folder, read_lines, sync_path, write_json, write_text

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a job needs to go on after a step."""

    step: int
    arrays: dict[str, Array]
    state: dict[str, Any]  # plain JSON values, for instance a generator's state


class RunFolder:
    """The folder of one job. Use `open_or_resume`, in a `with` block or with `close`.

    with RunFolder.open_or_resume("runs/cube", config, seeds=(0,)) as run:
        last = run.latest()
        for step in range(last.step if last else 0, config.steps):
            ...
            run.log(step + 1, loss=loss)
            run.save(step + 1, {"weights": weights}, {"rng": rng.bit_generator.state})
    """

    def __init__(self, path: Path, config: dict[str, Any], lock: Any, keep: int) -> None:
        self.path = path
        self.config = config  # as in config.json
        self._lock = lock
        self._keep = keep
        newest = self._newest_complete()
        self.resumed_from = newest[1]["step"] if newest else 0  # steps done before this start
        self._drop_unfinished()

    @classmethod
    def open_or_resume(cls, path: str | Path, config: Any, *, seeds: tuple[int, ...] = (), keep: int = 2) -> RunFolder:
        """Open a new folder, or one that the same configuration and seeds began.

        Figures logged after the last complete checkpoint are dropped: the job that resumes there logs them again.

        Args:
            path: the folder, made if absent.
            config: a dataclass, best a frozen one.
            seeds: the seeds of the job.
            keep: how many checkpoints stay.

        Raises:
            ValueError: if the folder belongs to a job with another configuration, or `keep` is below 1.
            BlockingIOError: if another process has it open.
        """
        if keep < 1:
            raise ValueError(f"expected to keep at least 1 checkpoint, got keep={keep}.")
        folder = Path(path)
        content = {"config": _plain(config), "seeds": [int(seed) for seed in seeds]}
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder, "this run")
        try:
            _check_config(folder, content)
            run = cls(folder, content["config"], lock, keep)
            append_lines(folder / "starts.jsonl", [{"step": run.resumed_from} | _versions()])
        except BaseException:
            lock.close()
            raise
        return run

    def latest(self) -> Checkpoint | None:
        """The last complete checkpoint, none in a new folder."""
        from safetensors.numpy import load_file

        newest = self._newest_complete()
        if newest is None:
            return None
        path, content = newest
        return Checkpoint(content["step"], load_file(path / "arrays.safetensors"), content["state"])

    def log(self, step: int, **figures: float) -> None:
        """Add named numbers of a step to `figures.jsonl`; those that are not finite are written as text ("nan", "inf")."""
        values = {name: value if np.isfinite(value) else str(value) for name, value in ((name, float(value)) for name, value in figures.items())}
        append_lines(self.path / "figures.jsonl", [{"step": int(step)} | values], sync=False)

    def figures(self) -> list[dict[str, Any]]:
        """All figures so far, in order."""
        return [{name: float(value) if isinstance(value, str) else value for name, value in line.items()} for line in read_lines(self.path / "figures.jsonl")]

    def save(self, step: int, arrays: Mapping[str, ArrayLike], state: Mapping[str, Any] | None = None) -> Path:
        """Write a checkpoint and remove those beyond `keep`. On return it is on the disk; before, the last one stays in force.

        Args:
            step: steps done so far.
            arrays: by name, anything `numpy.asarray` takes.
            state: plain JSON values.
        """
        from safetensors.numpy import save_file

        former = self._checkpoints()
        number = int(former[-1].name.split("-")[1]) + 1 if former else 1
        final = self.path / f"checkpoint-{number:06d}-step-{step}"
        draft = self.path / f"{final.name}.tmp"
        draft.mkdir()
        file = draft / "arrays.safetensors"
        save_file({name: np.asarray(values, order="C") for name, values in arrays.items()}, file)
        sync_path(file)
        write_json(draft / "state.json", {"step": int(step), "sha256": _sha256(file), "state": dict(state or {})})
        os.rename(draft, final)
        sync_path(self.path)
        for old in [*former, final][: -self._keep]:
            shutil.rmtree(old)
        return final

    def close(self) -> None:
        """Let other processes in."""
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _checkpoints(self) -> list[Path]:
        return sorted(path for path in self.path.glob("checkpoint-*") if path.suffix != ".tmp")

    def _newest_complete(self) -> tuple[Path, dict[str, Any]] | None:
        """The last checkpoint whose arrays are those that were written, and its state."""
        for path in reversed(self._checkpoints()):
            try:
                content: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
                if _sha256(path / "arrays.safetensors") == content["sha256"]:
                    return path, content
            except (OSError, ValueError, KeyError):
                pass
            warnings.warn(f"expected a complete checkpoint in {path}, found it damaged; resuming from the one before.", stacklevel=4)
        return None

    def _drop_unfinished(self) -> None:
        """Remove what a killed job left: drafts, an unfinished line, figures later than the checkpoint."""
        for path in self.path.glob("*.tmp"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        finish_lines(self.path / "starts.jsonl")
        file = self.path / "figures.jsonl"
        kept = [line for line in read_lines(file) if line["step"] <= self.resumed_from]
        if file.exists():
            write_text(file, "".join(json.dumps(line) + "\n" for line in kept))


def _check_config(folder: Path, content: dict[str, Any]) -> None:
    file = folder / "config.json"
    if not file.exists():
        write_json(file, content)
        return
    former = json.loads(file.read_text(encoding="utf-8"))
    before, now = ({"seeds": x["seeds"]} | _leaves(x["config"]) for x in (former, content))
    names = [name for name in before | now if before.get(name) != now.get(name)]
    if names:
        changed = ", ".join(f"{name}={now.get(name, 'absent')!r} where it had {before.get(name, 'absent')!r}" for name in names)
        raise ValueError(f"expected the configuration that began {folder}, got {changed}; use another folder, or resume with the former one.")


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    if not isinstance(value, dict) or not value:
        return {prefix.rstrip("."): value}
    return {name: leaf for key, part in value.items() for name, leaf in _leaves(part, f"{prefix}{key}.").items()}


def _plain(value: Any) -> Any:
    """A configuration as JSON values; numbers that are not finite become text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(part) for part in value), key=repr)
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"expected a configuration of numbers, text, paths, enums, sequences and dataclasses, got a {type(value).__name__}; name it by a string.")


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _versions() -> dict[str, Any]:
    try:
        own = metadata.version("structwm")
    except metadata.PackageNotFoundError:
        own = None
    torch = getattr(sys.modules.get("torch"), "__version__", None)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": None if torch is None else str(torch),
        "structwm": own,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the checkout this code runs from, with `-dirty` where files differ from it; none outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        described = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
