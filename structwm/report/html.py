"""A self-contained HTML page: text, tables, figures and animations in one file that needs no network and no other file."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

from structwm.data.atomic import write_text

from .style import PAGE


class Block(ABC):
    """Something a page shows."""

    @abstractmethod
    def html(self) -> str:
        """Markup whose text is escaped."""


@dataclass(frozen=True)
class Text(Block):
    """A paragraph."""

    text: str
    small: bool = False  # for remarks

    def html(self) -> str:
        return f'<p class="small">{escape(self.text)}</p>' if self.small else f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Markup(Block):
    """Markup made by this package, for instance an inline SVG. Shown as it is: never text from elsewhere."""

    markup: str

    def html(self) -> str:
        return self.markup


@dataclass(frozen=True)
class Number:
    """A number with so many decimals, aligned right."""

    value: float
    decimals: int = 2


Cell = str | Number | Markup
SHORT = 26  # characters of a cell that stay on one line


@dataclass(frozen=True)
class Table(Block):
    """Rows under a header; numbers are aligned right.

    Raises:
        ValueError: if a row has not one cell per column.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    strong: Sequence[int] = ()  # rows to set off

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(f"Table row {number} has {len(row)} cells where the header has {len(self.header)}.")

    def html(self) -> str:
        numeric = [bool(self.rows) and all(isinstance(row[i], Number) for row in self.rows) for i in range(len(self.header))]
        head = "".join(f'<th scope="col"{" class=number" if right else ""}>{escape(name)}</th>' for name, right in zip(self.header, numeric, strict=True))
        body = "".join(
            f"<tr{' class=strong' if number in self.strong else ''}>{''.join(self._cell(cell) for cell in row)}</tr>" for number, row in enumerate(self.rows)
        )
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'

    def _cell(self, cell: Cell) -> str:
        if isinstance(cell, Number):
            return f'<td class="number">{cell.value:.{cell.decimals}f}</td>'
        if isinstance(cell, Markup):
            return f"<td>{cell.html()}</td>"
        return f"<td{' class=short' if len(cell) <= SHORT else ''}>{escape(cell)}</td>"


@dataclass(frozen=True)
class Figure(Block):
    """An image with a caption."""

    image: bytes
    caption: str
    alt: str  # what it shows, for those who cannot see it
    kind: Literal["svg+xml", "png", "gif"] = "svg+xml"

    def html(self) -> str:
        source = f"data:image/{self.kind};base64,{base64.b64encode(self.image).decode()}"
        return f'<figure><img src="{source}" alt="{escape(self.alt)}"><figcaption>{escape(self.caption)}</figcaption></figure>'


@dataclass(frozen=True)
class Tiles(Block):
    """Key numbers side by side: (value, what it is)."""

    tiles: Sequence[tuple[str, str]]

    def html(self) -> str:
        parts = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for value, label in self.tiles)
        return f'<div class="tiles">{parts}</div>'


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]

    def html(self) -> str:
        return f"<section><h2>{escape(self.title)}</h2>{''.join(block.html() for block in self.blocks)}</section>"


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    lead: str  # one or two sentences under the title
    top: Sequence[Block]  # before the first section
    sections: Sequence[Section]
    foot: str = ""

    def html(self) -> str:
        """The page as one document."""
        return (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{PAGE}</style></head><body><main>"
            f'<header><h1>{escape(self.title)}</h1><p class="lead">{escape(self.lead)}</p></header>'
            f"{''.join(block.html() for block in self.top)}{''.join(section.html() for section in self.sections)}"
            f"<footer>{escape(self.foot)}</footer></main></body></html>\n"
        )

    def write(self, file: Path) -> Path:
        """Write the page, whole or not at all."""
        write_text(file, self.html())
        return file
