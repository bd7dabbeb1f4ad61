"""A report as one HTML file: styles and figures inside, nothing fetched, for wide and narrow screens."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

from moleflow_fast.pages.templates import template
from moleflow_fast.report.document import Block, Figure, Heading, Strong, Table

_LONG = 14


def to_html(blocks: Sequence[Block], language: str) -> str:
    """The whole document; the first block is its title.

    Args:
        language: code of the language it is written in, for browsers and screen readers.
    """
    title = next(block.text for block in blocks if isinstance(block, Heading))
    sections = [place for place, block in enumerate(blocks) if isinstance(block, Heading) and block.level == 2]
    anchors = {place: f"section-{number}" for number, place in enumerate(sections, 1)}
    return template("moleflow_fast.report", "report.html").render(
        language=language, title=title, blocks=blocks, anchors=anchors,
        kind_of=_kind, classes_of=_classes, svg_of=_svg, is_strong=_is_strong,
    )  # fmt: skip


def _kind(block: Block) -> str:
    return type(block).__name__


def _is_strong(text: str) -> bool:
    return isinstance(text, Strong)


def _classes(table: Table) -> list[str]:
    """Of a column's cells; long texts wrap, but never to a word a line."""
    return [_class(table, column) for column in range(len(table.columns))]


def _class(table: Table, column: int) -> str:
    if table.is_numeric(column):
        return "number"
    return "text long" if any(len(row[column]) > _LONG for row in table.rows) else "text"


def _svg(figure: Figure) -> Markup:
    """Several figures share one page: the ids of each get its name, and so do the places that use them."""
    return Markup(re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{figure.name}-", figure.svg))
