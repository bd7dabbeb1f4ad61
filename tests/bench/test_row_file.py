"""Rows are kept as benchmarks are finished, and a file of them is a result however it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import row_file

WORDS = {"cpu": "Some CPU", "date": "2026-01-02"}
ONE = {**WORDS, "gflops": {"fp32": {"batch": 180.0, "image": 150.0}}, "copy_gigabytes_per_s": 20.0}
OTHER = {**WORDS, "gflops": {"fp32": {"batch": 170.0, "image": 200.0}}, "copy_gigabytes_per_s": 30.0}


def benchmark(**extra: Any) -> dict[str, Any]:
    return {
        "group": "a step",
        "name": "test_step[x-cpp]",
        "params": {"case": "x", "backend": "cpp"},
        "stats": {"median": 2.0, "min": 1.0, "rounds": 3},
        "extra_info": extra,
    }


def text(*lines: dict[str, Any]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_a_row() -> None:
    row = row_file.row(benchmark(calls=10, precision="fp32", peak_mib=5.0))
    assert (row["backend"], row["median_s"], row["min_s"], row["rounds"]) == ("cpp", 0.2, 0.1, 3)
    assert row["peak_mib"] == 5.0 and "precision" not in row and "calls" not in row
    assert row_file.row(benchmark(precision="bf16"))["precision"] == "bf16"


def test_the_higher_of_each_rate() -> None:
    found = row_file.result(text({"machine": ONE, "small": False}, {"group": "a"}, {"machine": OTHER, "small": False}))
    best = {"gflops": {"fp32": {"batch": 180.0, "image": 200.0}}, "copy_gigabytes_per_s": 30.0}
    assert found == {"machine": {**WORDS, **best}, "benchmarks": [{"group": "a"}]}


def test_a_file_that_ends_within_a_line() -> None:
    whole = text({"machine": ONE, "small": True}, {"group": "a"})
    assert row_file.result(whole + '{"group": "b", "na') == {
        "machine": ONE,
        "small": True,
        "benchmarks": [{"group": "a"}],
    }


@pytest.mark.parametrize("content", ["", '{"mach', text({"machine": ONE, "small": False})])
def test_no_rows_are_no_result(content: str) -> None:
    assert row_file.result(content) is None


def test_lines_are_added_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(row_file.VARIABLE, raising=False)
    row_file.append({"group": "nowhere"})
    monkeypatch.setenv(row_file.VARIABLE, str(tmp_path / "rows.jsonl"))
    row_file.append({"group": "a"})
    row_file.append({"group": "b"})
    assert (tmp_path / "rows.jsonl").read_text() == text({"group": "a"}, {"group": "b"})
