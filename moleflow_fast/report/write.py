"""From runs to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moleflow_fast.errors import UserError
from moleflow_fast.report.configurations import group_runs
from moleflow_fast.report.context import Context
from moleflow_fast.report.document import Block, figures_of
from moleflow_fast.report.html import to_html
from moleflow_fast.report.markdown import to_markdown
from moleflow_fast.report.rivals import read_rivals
from moleflow_fast.report.runs import find_runs
from moleflow_fast.report.sections import SECTIONS
from moleflow_fast.report.words import Words
from moleflow_fast.system.files import replacing


def write_report(
    places: Sequence[str],
    directory: Path,
    language: str = "en",
    baseline: str | None = None,
    rival: Path | None = None,
) -> Path:
    """Write `report.md`, `figures/*.svg` and `report.html` to a directory; returns the last.

    Raises:
        UserError: nothing to analyse, an unknown baseline, no rows of a rival, or a directory that cannot be written.
    """
    blocks = build_report(places, language, baseline, rival)
    try:
        for figure in figures_of(blocks):
            _write(directory / "figures" / f"{figure.name}.svg", figure.svg)
        _write(directory / "report.md", to_markdown(blocks))
        _write(directory / "report.html", to_html(blocks, language))
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error.strerror or error}; choose another -o") from error
    return directory / "report.html"


def build_report(
    places: Sequence[str], language: str = "en", baseline: str | None = None, rival: Path | None = None
) -> list[Block]:
    """The report as blocks.

    Args:
        rival: file of `bench/patch_knn.py`, to compare the baseline with.

    Raises:
        UserError: nothing to analyse, an unknown baseline, or no rows of a rival.
    """
    found = find_runs(places)
    rivals = {} if rival is None else read_rivals(rival)
    context = Context(Words(language), found, group_runs(found.runs, baseline), rivals)
    return [block for section in SECTIONS for block in section(context)]


def _write(file: Path, text: str) -> None:
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
