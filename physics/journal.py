"""What a calibration has computed so far, on disk, so that it goes on after it was killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from structwm.data.atomic import append_lines, finish_lines, lock_folder, read_lines, write_json

LOG, INPUTS = "journal.jsonl", "inputs.json"


class Journal:
    """Results in the order in which they were computed: `once` gives a kept result if there is one, and else computes and keeps it.

    Everything between two results is computed again, so it must depend on nothing but inputs, seeds and earlier results.

    Args:
        folder: where to keep it; None keeps nothing.
        inputs: what the results depend on, as plain JSON.

    Raises:
        ValueError: if the folder holds the results of other inputs.
        BlockingIOError: if another process writes there.
    """

    def __init__(self, folder: Path | None, inputs: Mapping[str, Any]) -> None:
        self.folder, self.kept, self.at = folder, [], 0  # type: ignore[var-annotated]
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(folder, "calibrate")
        known = folder / INPUTS
        if known.exists():
            before = json.loads(known.read_text(encoding="utf-8"))
            differs = sorted(name for name in {*before, *inputs} if before.get(name) != inputs.get(name))
            if differs:
                raise ValueError(f"{folder} holds a calibration with another {', '.join(differs)}; give another folder, or remove this one.")
            if (folder / LOG).exists():
                finish_lines(folder / LOG)
                self.kept = list(read_lines(folder / LOG))
        else:
            write_json(known, dict(inputs))

    def once(self, label: str, compute: Any) -> Any:
        """The next result, plain JSON, kept or computed."""
        if self.at < len(self.kept):
            entry = self.kept[self.at]
            if entry["label"] != label:
                raise ValueError(f"{self.folder} holds a calibration that went another way ({entry['label']} instead of {label}); remove it.")
            self.at += 1
            return entry["value"]
        value = compute()
        self.at += 1
        if self.folder is not None:
            append_lines(self.folder / LOG, [{"label": label, "value": value}])
            self.kept.append({"label": label, "value": value})
        return value

    def close(self) -> None:
        """Let other processes write to the folder."""
        if self.folder is not None:
            self._lock.close()


def fingerprint(value: Any) -> str:
    """Changes with any number or text in a value made of mappings, sequences, dataclasses, arrays and plain values; of other objects only the class counts."""

    def plain(part: Any) -> Any:
        if isinstance(part, Tensor | np.ndarray | np.generic):
            return part.tolist()
        if isinstance(part, Mapping):
            return {str(name): plain(inner) for name, inner in part.items()}
        if isinstance(part, list | tuple):
            return [plain(inner) for inner in part]
        if is_dataclass(part) and not isinstance(part, type):
            return [type(part).__name__, *(plain(getattr(part, item.name)) for item in fields(part))]
        return part if part is None or isinstance(part, str | int | float) else type(part).__name__

    return hashlib.sha256(json.dumps(plain(value)).encode()).hexdigest()[:16]


def digest(*tensors: Tensor | None) -> str:
    """Changes with any number in the tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            found.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
