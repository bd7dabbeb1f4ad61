"""What needs a GPU is run in parts: a part that fails, hangs or finds no time is told of, and the others still run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import gpu_check
import pytest
from gpu_check import PARTS, RESULTS, Part, run_parts, write_results

from moleflow_fast.cli import tune

ROOT = Path(__file__).parents[2]
GOOD = "def test_good(): pass"
BAD = "def test_bad(): assert 1 == 2"
HANGS = "import time\ndef test_bad(): assert False\ndef test_hangs(): time.sleep(300)"


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # a part is no worker of this run, where nothing is timed


def part(folder: Path, text: str, seconds: float = 60.0) -> Part:
    file = folder / f"test_{abs(hash(text))}.py"
    file.write_text(text)
    return Part(("-m", "pytest", "-q", "-rfE", str(file), "-c", "/dev/null", "-p", "no:cacheprovider"), seconds)


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


def test_what_follows_a_slow_part_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "LAST_WORDS", 5.0)
    wait = Part(("-c", "import time; time.sleep(2); print('done')"), 30)
    sleep = Part(("-c", "import time; time.sleep(60)"), 30)
    assert not run_parts({"one": wait, "two": sleep, "three": wait}, tmp_path / "results", 12)
    one, two, three = capsys.readouterr().out.splitlines()
    assert one.startswith("one: ") and one.endswith("; done")
    assert "interrupted" in two and three == "three: left out, the time is up"


def test_no_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not run_parts({"good": part(tmp_path, GOOD)}, tmp_path / "results", 1)
    assert "good: left out, the time is up" in capsys.readouterr().out


CONFTEST = """
import sys
sys.path.insert(0, {bench!r})
from row_file import append, pytest_runtest_makereport
append({machine!r})
"""
BENCHMARKS = """
import os, signal, time
def quick(benchmark, group):
    benchmark.group = group
    benchmark.extra_info["gmac"], benchmark.extra_info["gigabytes"] = 1.0, 1.0
    benchmark.pedantic(int, rounds=2)
def test_first(benchmark): quick(benchmark, "first")
def test_wrong(benchmark):
    quick(benchmark, "wrong")
    assert False
def test_second(benchmark): quick(benchmark, "second")
def test_stops(benchmark): benchmark.pedantic({stop})
"""
HANG, DIE = "time.sleep, (300,)", "os.kill, (os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(("stop", "seconds"), [(HANG, 15.0), (DIE, 60.0)], ids=["interrupted", "killed"])
def test_a_part_that_is_stopped_within_a_benchmark_keeps_its_rows(
    stop: str, seconds: float, machine: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"machine": machine, "small": False}
    (tmp_path / "conftest.py").write_text(CONFTEST.format(bench=str(ROOT / "bench"), machine=line))
    stopped = part(tmp_path, BENCHMARKS.format(stop=stop), seconds)
    assert not run_parts({"kernels": stopped}, tmp_path / "results", 120)
    short = (tmp_path / "results" / "summary.md").read_text()
    assert "| first | test_first |" in short and "| second | test_second |" in short and "wrong" not in short
    if stop == HANG:
        assert "::test_wrong - assert False" in capsys.readouterr().out


def test_rows_of_the_parts_so_far(machine: dict[str, Any], tmp_path: Path) -> None:
    medians = {"published-bf16": 0.4, "compile-bf16": 0.02, "triton-bf16": 0.01}
    work = {"gmac": 2000.0, "gigabytes": 2.0, "precision": "bf16"}
    rows = [{"group": "a step", "backend": name, "median_s": value, **work} for name, value in medians.items()]
    lines = "".join(json.dumps(line) + "\n" for line in ({"machine": machine, "small": False}, *rows))
    (tmp_path / "rows").mkdir()
    write_results(tmp_path)
    assert not list(tmp_path.glob("*.json"))
    for name, content in {"kernels": lines, "inference": "", "ops": '{"machine": {'}.items():
        (tmp_path / "rows" / f"{name}.jsonl").write_text(content)
    write_results(tmp_path)
    (result,) = tmp_path.glob("*.json")
    assert json.loads(result.read_text())["benchmarks"] == rows
    short = (tmp_path / "summary.md").read_text().splitlines()
    assert short[-1] == "| a step | triton-bf16 | 10 ms | 40.0x |  | 2.00x | 57% |"


@pytest.fixture
def machine() -> dict[str, Any]:
    rates = {"gflops": {"fp32": {"batch": 50_000.0}, "bf16": {"batch": 700_000.0}}, "copy_gigabytes_per_s": 3000.0}
    words = {"cpu": "Some CPU", "threads": 2, "torch": "2.11.0", "python": "3.12.3", "date": "2026-01-02"}
    return {**words, **rates, "gpu": {"name": "NVIDIA H200"}}


def test_a_part_gets_the_folder_and_what_it_asks_for(tmp_path: Path) -> None:
    leave = "import os, sys, pathlib; pathlib.Path(sys.argv[1], 'left').write_text(os.environ['THREADS'])"
    assert run_parts({"one": Part(("-c", leave, RESULTS), 30, (("THREADS", "3"),))}, tmp_path / "results", 60)
    assert (tmp_path / "results" / "left").read_text() == "3"


def test_what_matters_most_comes_first() -> None:
    names = list(PARTS)
    assert names[:2] == ["compile", "smoke"] and names[-1] == "torch_compile"
    assert names.index("training_step") < names.index("inference") < names.index("kernels") < names.index("whole_run")
    assert names.index("whole_run") < names.index("quality") < names.index("tests")


def test_half_of_the_parts_fit_five_minutes_and_all_but_the_last_twelve() -> None:
    seconds = [part.seconds for part in PARTS.values()]
    assert sum(seconds[: len(seconds) // 2]) <= 300 and sum(seconds[:-1]) <= 720


def test_measuring_ways_ends_before_it_is_interrupted() -> None:
    """Only at its end it writes what it has."""
    assert PARTS["ways"].seconds >= tune.SECONDS + 15


@pytest.mark.parametrize("name", PARTS)
def test_what_a_part_names_is_there(name: str) -> None:
    words = [word.removeprefix("--ignore=") for word in PARTS[name].arguments]
    files = [word for word in words if word.startswith(("tests/", "bench/"))]
    module = words[1] if words[0] == "-m" else None
    assert files or module
    assert all((ROOT / file).exists() for file in files)
    assert module is None or importlib.util.find_spec(module)
