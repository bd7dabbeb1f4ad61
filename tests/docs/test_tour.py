"""docs/tour.md as it stands: its commands run in an empty folder, and the files that it names are there."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
from docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "tour.md"
_WRITTEN = ("images/", "runs/", "out/", "strict/", "report/")


@pytest.mark.slow
def test_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOLEFLOW_CACHE", str(tmp_path / "cache"))
    for language, commands in blocks(text):
        if language == "sh":
            for line in commands.replace("\\\n", " ").splitlines():
                assert _run(shlex.split(line)) == 0, line
    named = {name for name in re.findall(r"`([^`\n]+)`", text) if name.startswith(_WRITTEN)}
    assert len(named) >= 6
    assert sorted(name for name in named if not (tmp_path / name).exists()) == []


def _run(words: list[str]) -> int:
    """In this process: torch is imported once."""
    if words[0] == "moleflow":
        module, arguments = f"moleflow_fast.cli.{words[1]}", words[2:]
    else:
        assert words[:2] == ["python", "-m"]
        module, arguments = words[2], words[3:]
    return int(importlib.import_module(module).main(arguments))
