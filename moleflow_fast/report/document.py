"""The blocks that a report is made of; `markdown.py` and `html.py` write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# A figure as the tables write it: with sign, deviation, interval, percent or the mark of the baseline.
_NUMBER = re.compile(r"([-+]?[\d.,]+(e[-+]?\d+)?%?( \u00b1 [\d.]+)?( [\[(].*[\])])?|\u2013|)")


class Strong(str):
    """A cell of a table to stand out."""


@dataclass(frozen=True)
class Heading:
    """Level 1 is the document's title, 2 a section."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Caution:
    """A sentence that must not be overlooked."""

    text: str


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as there are columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row has another number of cells than the columns {list(self.columns)}")

    def is_numeric(self, column: int) -> bool:
        """Whether every cell of a column is a figure; the first column holds labels, whatever they look like."""
        return column > 0 and all(_NUMBER.fullmatch(row[column]) for row in self.rows)


@dataclass(frozen=True)
class Figure:
    """`svg` is a whole SVG document without XML declaration; `name` is its file's, without suffix."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Details:
    """Blocks to unfold."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Text | Caution | Bullets | Code | Table | Figure | Details


def figures_of(blocks: Sequence[Block]) -> list[Figure]:
    """Every figure, also inside details."""
    found: list[Figure] = []
    for block in blocks:
        if isinstance(block, Figure):
            found.append(block)
        if isinstance(block, Details):
            found += figures_of(block.blocks)
    return found
