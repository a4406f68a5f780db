"""PLY files as tables: the header's elements, and their records as structured arrays. Text and binary, of either byte order; nothing is taken on trust."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structwm.data.atomic import write_bytes
from structwm.data.errors import BadData

Array = NDArray[Any]

ADVICE = "write or download the file again"
_HEADER_LIMIT = 1 << 20  # [bytes]
_END = re.compile(rb"\nend_header[ \t]*\r?\n")
_BYTE_ORDERS = {"ascii": "<", "binary_little_endian": "<", "binary_big_endian": ">"}
_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"}
_TYPES |= {f"{kind}{8 * size}": f"{kind[0]}{size}" for kind, sizes in (("int", (1, 2, 4)), ("uint", (1, 2, 4)), ("float", (4, 8))) for size in sizes}


@dataclass(frozen=True)
class PlyElement:
    """One table of a header."""

    name: str
    count: int  # records
    types: Mapping[str, str]  # by property, the numpy type without byte order
    lists: frozenset[str]  # properties of varying length, which are not read


def read_ply(path: Path) -> dict[str, Array]:
    """The tables of a file by name, each a structured array (records,), up to the first one that has lists (faces, for example).

    Raises:
        BadData: in one sentence, if the file is not a complete PLY file: its header is damaged, a count does not agree with what follows, or a number is none.
    """
    with open_data(path) as stream:
        head = stream.read(_HEADER_LIMIT)
        elements, style, start = _parse_header(head, path)
        stream.seek(start)
        body = stream.read()
    return _read_text(body, elements, path) if style == "ascii" else _read_binary(body, elements, _BYTE_ORDERS[style], path)


def open_data(path: Path) -> Any:
    """The file, opened for reading bytes.

    Raises:
        BadData: if there is none, or it is a folder, or may not be read.
    """
    try:
        return open(path, "rb")
    except OSError as error:
        raise bad(path, "the whole file", "path", "a file that can be read", type(error).__name__, "give the path of a file") from error


def bad(path: Path, record: int | str, field: str, expected: str, got: str, advice: str = ADVICE) -> BadData:
    """`BadData.at` for a file of records."""
    return BadData.at(file=path, record=record, field=field, expected=expected, got=got, advice=advice)


def table_of(tables: Mapping[str, Array], element: str, path: Path) -> Array:
    """One table of a file.

    Raises:
        BadData: if the file has no such table, or it cannot be read.
    """
    if element not in tables:
        raise bad(path, "the header", element, f"an element {element} of single numbers", f"elements {', '.join(tables) or 'none'} that can be read")
    return tables[element]


def columns_of(table: Array, names: Sequence[str], path: Path, *, advice: str = ADVICE) -> Array:
    """Properties of a table side by side, (records, len(names)), in native byte order and the widest of their types.

    Raises:
        BadData: if one is missing, or holds NaN or infinity, naming it and the record.
    """
    have = table.dtype.names or ()
    for name in names:
        if name not in have:
            raise bad(path, "the header", name, f"a property {name}", f"properties {_shortened(have)}", advice)
    kinds = {table.dtype[name] for name in have}
    if len(kinds) == 1:  # one rectangle of numbers, from which neighboring columns come out in one stride
        kind = kinds.pop()
        places = [have.index(name) for name in names]
        whole = table.view(kind).reshape(len(table), len(have))
        consecutive = places == list(range(places[0], places[0] + len(places)))
        values = whole[:, places[0] : places[0] + len(places)] if consecutive else whole[:, places]
        values = values.astype(kind.newbyteorder("="))
    else:
        values = np.stack([table[name].astype(table.dtype[name].newbyteorder("=")) for name in names], -1)
    check_finite(values, names, path)
    return values


def check_finite(values: Array, names: Sequence[str], path: Path) -> None:
    """Refuses NaN and infinity in columns (records, len(names)), naming the first record and column."""
    if values.dtype.kind == "f" and not (fine := np.isfinite(values)).all():
        record, column = np.argwhere(~fine)[0]
        advice = "remove the record or write the file again"
        raise bad(path, int(record), names[column], "a finite number", str(values[record, column]), advice)


def check_last_line(text: bytes, path: Path) -> None:
    """Refuses text without an end of line after its last number, which may be cut."""
    if not text.endswith(b"\n"):
        got, advice = "none, so that number may be cut", "add one if the file is complete"
        raise bad(path, "the whole file", "last line", "an end of line after the last number", got, advice)


def text_numbers(text: bytes, path: Path, expected: str = "numbers separated by spaces") -> Array:
    """The numbers of a text, float64 (n,).

    Raises:
        BadData: if it holds anything else.
    """
    try:
        return np.fromstring(text.decode("latin-1"), np.float64, sep=" ") if text.strip() else np.empty(0)
    except ValueError as error:
        raise bad(path, "the whole file", "values", expected, str(error)) from error


def write_ply(path: Path, tables: Mapping[str, tuple[Sequence[str], Array]]) -> None:
    """Write tables, each named properties and numbers (records, properties) of one type, as a little-endian binary file, whole or not at all."""
    names = {numpy: ply for ply, numpy in reversed(_TYPES.items())}
    header = ["ply", "format binary_little_endian 1.0"]
    for element, (properties, values) in tables.items():
        header += [f"element {element} {len(values)}", *(f"property {names[values.dtype.str[1:]]} {name}" for name in properties)]
    parts = [np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False)) for _, values in tables.values()]
    write_bytes(path, ["\n".join([*header, "end_header\n"]).encode(), *(part.reshape(-1).view(np.uint8).data for part in parts)])


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") if names else "none"


def _parse_header(head: bytes, path: Path) -> tuple[list[PlyElement], str, int]:
    """The elements, the format, and where the header ends."""
    if not head:
        raise bad(path, "the whole file", "header", "a PLY file", "0 bytes")
    if not re.match(rb"ply[ \t]*\r?\n", head):
        raise bad(path, "the header", "ply", "a PLY file, which begins with a line `ply`", repr(head[:12]), "give a PLY file or the right suffix")
    end = _END.search(head)
    if end is None:
        got = f"none in the first {len(head)} bytes"
        raise bad(path, "the header", "end_header", "a header that ends with a line `end_header`", got)
    style, elements = "", list[PlyElement]()
    for number, line in enumerate(head[: end.start()].decode("latin-1").split("\n")[1:], start=2):
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in _BYTE_ORDERS and not style:
            style = words[1]
        elif words[0] == "element" and len(words) == 3 and re.fullmatch(r"\d{1,12}", words[2], re.ASCII) and words[1] not in {one.name for one in elements}:
            elements.append(PlyElement(words[1], int(words[2]), {}, frozenset()))
        elif words[0] == "property" and elements and _add_property(elements, words[1:]):
            continue
        else:
            expected = "a format, an element with a count and a new name, or a property with a known type and a new name"
            raise bad(path, "the header", f"line {number}", expected, repr(line[:60]))
    if not style:
        raise bad(path, "the header", "format", f"one of {', '.join(_BYTE_ORDERS)}", "no line that says so")
    if bare := [element.name for element in elements if not element.types and not element.lists]:
        raise bad(path, "the header", bare[0], "properties of every element", "none")
    return elements, style, end.end()


def _add_property(elements: list[PlyElement], words: Sequence[str]) -> bool:
    """Put a property into the last element; False if its line cannot be understood."""
    last = elements[-1]
    types, lists = dict(last.types), last.lists
    if not words or words[-1] in types or words[-1] in lists:
        return False
    if len(words) == 2 and words[0] in _TYPES:
        types[words[1]] = _TYPES[words[0]]
    elif len(words) == 4 and words[0] == "list" and words[1] in _TYPES and words[2] in _TYPES:
        lists = lists | {words[3]}
    else:
        return False
    elements[-1] = PlyElement(last.name, last.count, types, lists)
    return True


def _read_binary(body: bytes, elements: Sequence[PlyElement], order: str, path: Path) -> dict[str, Array]:
    tables: dict[str, Array] = {}
    place = 0
    for element in elements:
        if element.lists:
            return tables
        kind = np.dtype([(name, order + code) for name, code in element.types.items()])
        if place + element.count * kind.itemsize > len(body):
            expected = f"{element.count} records of {kind.itemsize} bytes, as the header says"
            raise bad(path, f"element {element.name}", "count", expected, f"{len(body) - place} bytes, so the file ends early")
        tables[element.name] = np.frombuffer(body, kind, element.count, place)
        place += element.count * kind.itemsize
    if place != len(body):
        raise bad(path, "the whole file", "length", f"{place} bytes after the header, as it says", f"{len(body)}")
    return tables


def _read_text(body: bytes, elements: Sequence[PlyElement], path: Path) -> dict[str, Array]:
    if body:
        check_last_line(body, path)
    read = list(elements)
    if any(element.lists for element in elements):  # what follows the tables is cut off, by lines
        read = read[: next(index for index, element in enumerate(elements) if element.lists)]
        body = b"\n".join(body.split(b"\n", sum(element.count for element in read))[: sum(element.count for element in read)])
    wanted = sum(element.count * len(element.types) for element in read)
    values = text_numbers(body, path, f"{wanted} numbers separated by spaces, as the header says")
    if len(values) != wanted:
        raise bad(path, "the whole file", "count", f"{wanted} numbers, as the header says", f"{len(values)}")
    tables, place = {}, 0
    for element in read:
        block = values[place : place + element.count * len(element.types)].reshape(element.count, len(element.types))
        table = np.empty(element.count, np.dtype([(name, "<" + code) for name, code in element.types.items()]))
        for column, (name, code) in enumerate(element.types.items()):
            with np.errstate(invalid="ignore", over="ignore"):
                table[name] = block[:, column]
            if code[0] != "f" and (wrong := table[name] != block[:, column]).any():
                record = int(np.argmax(wrong))
                raise bad(path, record, name, f"a whole number of {8 * int(code[1])} bits", str(block[record, column]))
        tables[element.name] = table
        place += block.size
    return tables
