"""Which data sets `fetch` knows: where each comes from, under which licence, and the checksum of every file.

An entry is `sources/NAME.json`, with the fields of `DataSource`. To add a set, add such a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class DataSource:
    """A data set at a pinned commit of its upstream."""

    name: str
    title: str  # one line: what it is
    source: str  # upstream repository
    commit: str
    licence: str
    citation: str
    url: str  # prefix of every file's address
    files: Mapping[str, str]  # path below the url and below the local folder, to sha256


def data_names() -> tuple[str, ...]:
    """Names of the sets that can be fetched."""
    entries = (files("structwm.data") / "sources").iterdir()
    return tuple(sorted(entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json")))


def data_source(name: str) -> DataSource:
    """The entry of a set.

    Raises:
        ValueError: if there is no such set.
    """
    if name not in data_names():
        raise ValueError(f"expected one of the data sets {', '.join(data_names())}, got {name!r}.")
    return DataSource(**json.loads((files("structwm.data") / "sources" / f"{name}.json").read_text(encoding="utf-8")))
