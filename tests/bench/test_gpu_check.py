"""What needs a GPU is run in parts: a part that fails, hangs or finds no time is told of, and the others still run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_check
import pytest
from gpu_check import PARTS, Part, run_parts

ROOT = Path(__file__).parents[2]
GOOD = "def test_good(): pass"
BAD = "def test_bad(): assert 1 == 2"
HANGS = "import time\ndef test_bad(): assert False\ndef test_hangs(): time.sleep(300)"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "RAW", tmp_path / "raw")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # a part is no worker of this run, where nothing is timed
    monkeypatch.setattr(gpu_check, "LAST_WORDS", 20.0)


def part(folder: Path, text: str, seconds: float = 60.0) -> Part:
    file = folder / f"test_{abs(hash(text))}.py"
    file.write_text(text)
    return Part((str(file), "-c", "/dev/null", "-p", "no:cacheprovider"), seconds)


def test_all_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_parts({"good": part(tmp_path, GOOD)}, tmp_path / "results", 60)
    assert "good: " in (said := capsys.readouterr().out) and "1 passed" in said


def test_what_fails_and_what_hangs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"bad": part(tmp_path, BAD), "slow": part(tmp_path, HANGS, 12), "good": part(tmp_path, GOOD)}
    assert not run_parts(parts, tmp_path / "results", 120)
    bad, why, slow, failed, good = capsys.readouterr().out.splitlines()
    assert "1 failed" in bad and "::test_bad - assert 1 == 2" in why
    assert slow.startswith("slow: ") and "interrupted" in slow and "::test_bad" in failed
    assert good.startswith("good: ") and "1 passed" in good
    assert "assert 1 == 2" in (tmp_path / "results" / "gpu-check.log").read_text()


def test_no_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not run_parts({"good": part(tmp_path, GOOD)}, tmp_path / "results", 1)
    assert "good: left out, the time is up" in capsys.readouterr().out


CONFTEST = """
def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json["machine"] = {machine}
"""
BENCHMARKS = """
import time
def test_quick(benchmark):
    benchmark.group = "quick"
    benchmark.extra_info["gmac"], benchmark.extra_info["gigabytes"] = 1.0, 1.0
    benchmark.pedantic(int, rounds=2)
def test_hangs(benchmark): time.sleep(300)
"""


def test_an_interrupted_part_keeps_what_it_has_measured(
    tmp_path: Path, raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "LAST_WORDS", 60.0)  # on a busy machine
    machine = {**raw["machine"], "gflops": {"fp32": {"batch": 50_000.0}}}
    (tmp_path / "conftest.py").write_text(CONFTEST.format(machine=machine))
    slow = replace(part(tmp_path, BENCHMARKS, 15), benchmarks=True)
    assert not run_parts({"kernels": slow}, tmp_path / "results", 120)
    assert "| quick | test_quick |" in (tmp_path / "results" / "summary.md").read_text()


def test_results_of_the_parts_so_far(tmp_path: Path, raw: dict[str, Any]) -> None:
    gpu_check.RAW.mkdir()
    (gpu_check.RAW / "kernels.json").write_text(json.dumps(raw))
    (gpu_check.RAW / "inference.json").write_text("")
    (gpu_check.RAW / "ops.json").write_text('{"machine": {')
    gpu_check.write_results(tmp_path / "results")
    (result,) = (tmp_path / "results").glob("*.json")
    assert len(json.loads(result.read_text())["benchmarks"]) == 3
    short = (tmp_path / "results" / "summary.md").read_text().splitlines()
    assert short[-1] == "| a step | triton-bf16 | 10 ms | 40.0x |  | 2.00x | 57% |"


@pytest.fixture
def raw() -> dict[str, Any]:
    medians = {"published-bf16": 0.4, "compile-bf16": 0.02, "triton-bf16": 0.01}
    work = {"gmac": 2000.0, "gigabytes": 2.0, "precision": "bf16"}
    rows = [
        {
            "group": "a step",
            "name": f"test_step[{backend}]",
            "params": {"backend": backend},
            "stats": {"median": median, "min": median, "rounds": 3},
            "extra_info": work,
        }
        for backend, median in medians.items()
    ]
    rates = {"gflops": {"bf16": {"batch": 700_000.0}}, "copy_gigabytes_per_s": 3000.0}
    words = {"cpu": "Some CPU", "threads": 2, "torch": "2.11.0", "python": "3.12.3", "date": "2026-01-02"}
    return {"machine_info": {}, "machine": {**words, **rates, "gpu": {"name": "NVIDIA H200"}}, "benchmarks": rows}


@pytest.mark.parametrize("name", PARTS)
def test_what_a_part_names_is_there(name: str) -> None:
    words = [word.removeprefix("--ignore=") for word in PARTS[name].arguments]
    files = [word for word in words if word.startswith(("tests/", "bench/"))]
    assert files and all((ROOT / file).exists() for file in files)
