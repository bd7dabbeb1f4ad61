"""A report as one HTML file: styles and figures inside, nothing fetched, for wide and narrow screens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

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

_LONG = 14

STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #d5dae0; --shade: #f4f6f8; --link: #0b57d0;
  --alert: #fff4d6; --edge: #b97700 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --paper: #14171b; --line: #3a414a; --shade: #1e2329; --link: #8ab4f8; --alert: #3a2f12;
    --edge: #e0a82e } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans KR", "Apple SD Gothic Neo", "Malgun Gothic",
  sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.7rem; line-height: 1.25 }
h2 { margin-top: 2.6rem; padding-top: .6rem; border-top: 1px solid var(--line) }
h3 { margin-top: 1.8rem } a { color: var(--link) }
nav ul { columns: 16rem; padding-left: 1.2rem }
.scroll { overflow-x: auto; margin: .8rem 0; border: 1px solid var(--line); border-radius: 6px }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .6rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: top }
td.long { white-space: normal; min-width: 10rem; max-width: 26rem }
:lang(ko) { word-break: keep-all }
th { background: var(--shade); white-space: normal; vertical-align: bottom } .number { text-align: right }
tr:last-child td { border-bottom: 0 }
p.warning { background: var(--alert); border-left: 4px solid var(--edge); padding: .6rem .8rem }
pre { overflow-x: auto; padding: .7rem; background: var(--shade); border-radius: 6px; font-size: .86rem;
  white-space: pre-wrap; overflow-wrap: anywhere }
figure { margin: 1rem 0 } figure div { background: #fff; border: 1px solid var(--line); border-radius: 6px;
  padding: .3rem }
figure svg { display: block; max-width: 100%; height: auto; margin: 0 auto }
figcaption { font-size: .88rem; margin-top: .3rem }
summary { cursor: pointer; color: var(--link); padding: .3rem 0 }
"""


def to_html(blocks: Sequence[Block], language: str) -> str:
    """The whole document; the first block is its title.

    Args:
        language: code of the language it is written in, for browsers and screen readers.
    """
    title = next(block.text for block in blocks if isinstance(block, Heading))
    sections = [block for block in blocks if isinstance(block, Heading) and block.level == 2]
    links = "".join(f'<li><a href="#{_anchor(i)}">{escape(h.text)}</a></li>' for i, h in enumerate(sections))
    anchors = {id(heading): _anchor(i) for i, heading in enumerate(sections)}
    first, *rest = blocks
    body = "\n".join(_block(block, anchors) for block in rest)
    return (
        f'<!DOCTYPE html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f"{_block(first, anchors)}\n<nav><ul>{links}</ul></nav>\n{body}\n</body>\n</html>\n"
    )


def _anchor(number: int) -> str:
    return f"section-{number + 1}"


def _block(block: Block, anchors: dict[int, str]) -> str:
    match block:
        case Heading(text, level):
            anchor = f' id="{anchors[id(block)]}"' if id(block) in anchors else ""
            return f"<h{level}{anchor}>{escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Caution(text):
            return f'<p class="warning">{escape(text)}</p>'
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Table():
            return _table(block)
        case Figure(name, svg, caption):
            return f"<figure><div>{_own_ids(svg, name)}</div><figcaption>{escape(caption)}</figcaption></figure>"
        case Details(summary, inner):
            inside = "\n".join(_block(one, anchors) for one in inner)
            return f"<details><summary>{escape(summary)}</summary>\n{inside}\n</details>"


def _table(table: Table) -> str:
    kinds = [_kind(table, i) for i in range(len(table.columns))]
    head = "".join(f'<th class="{kind}">{escape(text)}</th>' for kind, text in zip(kinds, table.columns, strict=True))
    rows = ("".join(map(_cell, kinds, row)) for row in table.rows)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _kind(table: Table, column: int) -> str:
    """Classes of a column's cells; long texts wrap, but never to a word a line."""
    if table.is_numeric(column):
        return "number"
    return "text long" if any(len(row[column]) > _LONG for row in table.rows) else "text"


def _cell(kind: str, text: str) -> str:
    shown = f"<strong>{escape(text)}</strong>" if isinstance(text, Strong) else escape(text)
    return f'<td class="{kind}">{shown}</td>'


def _own_ids(svg: str, name: str) -> str:
    """Several figures share one page: the ids of each get its name, and so do the places that use them."""
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
