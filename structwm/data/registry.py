"""Which data sets `fetch` knows: where each comes from, under which licence, and the checksum of every file.

An entry is `sources/NAME.json`, with the fields of `DataSource`. To add a set, add such a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files


@dataclass(frozen=True)
class DataSource:
    """A data set at pinned commits of its upstream. A file is had from `url` and its path, or from its own address, or by hand."""

    name: str
    title: str  # one line: what it is
    source: str  # upstream repository
    commit: str  # that the url pins; short where the full hash is not known
    licence: str
    citation: str
    url: str  # prefix of a file's address
    files: Mapping[str, str]  # path below the url and below the local folder, to sha256
    addresses: Mapping[str, str] = field(default_factory=dict)  # of files that lie elsewhere, by local path: the whole URL
    by_hand: Mapping[str, str] = field(default_factory=dict)  # files that cannot be downloaded, by local path: what to do, in a clause

    def __post_init__(self) -> None:
        odd = sorted({*self.addresses, *self.by_hand} - set(self.files)) + sorted({*self.addresses} & {*self.by_hand})
        if odd:
            raise ValueError(f"expected addresses and by_hand of {self.name} to name files of it, no file in both, got {odd[0]!r}.")


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
