"""`moleflow --version`: what would run here."""

import re

import pytest
import torch

from moleflow_fast.cli import version
from moleflow_fast.cli.main import main


def test_it_says_what_would_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOLEFLOW_BACKEND", raising=False)
    assert main(["--version"]) == 0
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["moleflow_fast", "torch", "compiled part", "GPU", "backend"]
    assert lines["torch"].startswith(torch.__version__.partition("+")[0]) and "Triton" in lines["torch"]
    assert "OpenMP" in lines["compiled part"]
    if torch.cuda.is_available():
        assert lines["backend"].startswith("triton on cuda")
    else:
        assert lines["GPU"].startswith("none, so Triton kernels cannot run")
        assert lines["backend"].startswith("cpp on cpu")


def test_a_backend_that_was_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLEFLOW_BACKEND", "eager")
    assert main(["--version"]) == 0
    assert "eager, as MOLEFLOW_BACKEND says" in capsys.readouterr().out
    monkeypatch.setenv("MOLEFLOW_BACKEND", "eagr")
    assert main(["--version"]) == 1
    assert "error: unknown backend 'eagr'" in capsys.readouterr().err


def test_a_part_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "moleflow_fast._compiled", None)
    assert version._compiled().startswith("missing: ")
