"""What the data layer raises: bad data, named by file, record and field, and data that is not there."""

from __future__ import annotations

from pathlib import Path


class BadData(ValueError):
    """Data that cannot be right. The message is one sentence: where, what was expected, what was found, what to do."""

    file: str = ""
    record: str = ""
    field: str = ""

    @classmethod
    def at(cls, *, file: str | Path, record: int | str, field: str, expected: str, got: str, advice: str) -> BadData:
        """The error for one place: a `record` is an index or says which ones, `field` is the name used in that file."""
        which = f"record {record}" if isinstance(record, int) else record
        error = cls(f"{file}, {which}, field {field}: expected {expected}, got {got}; {advice}.")
        error.file, error.record, error.field = str(file), which, field
        return error


class DataUnavailable(RuntimeError):
    """A data set that is neither on this machine nor to be had from its source now."""
