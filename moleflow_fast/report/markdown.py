"""A report as Markdown (GitHub's), figures as files beside it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from moleflow_fast.report.document import (
    Block,
    Bullets,
    Caution,
    Code,
    Details,
    Figure,
    Heading,
    Strong,
    Table,
    Text,
)

# An underscore inside a word is no emphasis in GitHub's Markdown, and brackets around figures alone are no link: names
# of options and intervals stay readable without escape.
_SPECIAL = re.compile(r"[\\`*|~]|(?<!\w)_|_(?!\w)|\[(?![-+]?\d)|\](?=[(\[:])")


def to_markdown(blocks: Sequence[Block]) -> str:
    """The whole document."""
    return "\n\n".join(map(_block, blocks)) + "\n"


def escape(text: str) -> str:
    """Text on one line that Markdown and its HTML show as it is."""
    return html.escape(_SPECIAL.sub(lambda found: "\\" + found[0], " ".join(text.split())), quote=False)


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {escape(text)}"
        case Text(text):
            return escape(text)
        case Caution(text):
            return f"> **{escape(text)}**"
        case Bullets(items):
            return "\n".join(f"- {escape(item)}" for item in items)
        case Code(text):
            return f"```\n{text.replace('```', '')}\n```"
        case Table():
            return _table(block)
        case Figure(name, _, caption):
            return f"![{escape(caption)}](figures/{name}.svg)"
        case Details(summary, blocks):
            inside = "\n\n".join(map(_block, blocks))
            return f"<details>\n<summary>{escape(summary)}</summary>\n\n{inside}\n\n</details>"


def _table(table: Table) -> str:
    rules = ["--:" if table.is_numeric(i) else ":--" for i in range(len(table.columns))]
    lines = [_row(map(escape, table.columns)), "|" + "|".join(rules) + "|"]
    return "\n".join(lines + [_row(map(_cell, row)) for row in table.rows])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    return f"**{escape(text)}**" if isinstance(text, Strong) else escape(text)
