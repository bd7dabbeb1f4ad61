"""README and docs: lines that fit, links that lead somewhere, commands, options and files that are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs.pages import CHECKS, ROOT, broken_links, long_lines, missing_files, pages, unknown_commands, unknown_options


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_page(check, page: Path) -> None:
    assert list(check(page)) == []


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (long_lines, "word " * 30),
        (broken_links, "[gone](gone.md)"),
        (broken_links, "# Here\n\n[there](#there)"),
        (unknown_commands, "```\nmoleflow trian --dataset folder\n```"),
        (unknown_commands, "```\npython -m moleflow_fast.trian\n```"),
        (unknown_commands, "```bash\nmake demoo\n```"),
        (unknown_options, "```\nmoleflow predict RUN \\\n  --treshold 0.5\n```"),
        (unknown_options, "give `--treshold 0.5`"),
        (missing_files, "`moleflow_fast/gone.py` is not there"),
        (missing_files, "```\npython bench/gone.py\n```"),
    ],
)
def test_a_fault_is_found(check, text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert len(list(check(page))) == 1


def test_what_is_right_is_not_a_fault(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading: `x`\n\n[up](#a-heading-x)\n\n```\nmoleflow predict RUN --threshold 0.5  # no --word\n```\n"
    )
    assert [fault for check in CHECKS for fault in check(page)] == []


def test_every_page_is_in_the_list_of_questions() -> None:
    listed = (ROOT / "docs" / "README.md").read_text()
    names = [page.name for page in pages() if page.parent == ROOT / "docs"]
    assert [name for name in names if f"({name})" not in listed] == ["README.md"]
