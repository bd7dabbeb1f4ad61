"""From results to result files and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tables

MACHINE = {
    "cpu": "Some CPU",
    "threads": 2,
    "torch": "2.14.0",
    "python": "3.11.0",
    "date": "2026-01-02",
    "gflops": {"fp32": {"batch": 180.0, "image": 200.0}},
    "copy_gigabytes_per_s": 20.0,
}


GPU = {
    **MACHINE,
    "gflops": {"fp32": {"batch": 50_000.0}, "tf32": {"batch": 350_000.0}, "bf16": {"batch": 700_000.0}},
    "copy_gigabytes_per_s": 3000.0,
    "gpu": {"name": "NVIDIA H100 80GB HBM3", "driver": None, "capability": "9.0", "cuda": "13.0", "triton": "3.6.0"},
}


def row(backend: str, median: float, group: str = "a step", **extra: Any) -> dict[str, Any]:
    return {"group": group, "backend": backend, "median_s": median, "min_s": median / 2, "rounds": 3, **extra}


@pytest.fixture
def result() -> dict[str, Any]:
    work = {"gmac": 100.0, "gigabytes": 2.0}  # a second at 200 GFLOP/s
    return {
        "machine": MACHINE,
        "benchmarks": [row("published", 8.0, peak_mib=5000.0, **work), row("cpp", 2.0, peak_mib=1234.4, **work)],
    }


def test_table(result: dict[str, Any]) -> None:
    lines = tables.tables(result).splitlines()
    assert "### a step" in lines
    assert "| backend | median | against published | % of floor | peak memory |" in lines
    assert "| published | 8 s | 1.00x | 12% | 5,000 MiB |" in lines
    assert "| cpp | 2 s | 4.00x | 50% | 1,234 MiB |" in lines


def test_a_group_of_two_files_is_one_table(result: dict[str, Any], tmp_path: Path) -> None:
    other = {**result, "benchmarks": [row("else", 1.0, group="another"), row("compile", 3.0)]}
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, content in zip(files, (result, other), strict=True):
        file.write_text(json.dumps(content))
    groups = [one["group"] for one in tables.load(files)["benchmarks"]]
    assert groups == ["a step", "a step", "a step", "another"]
    assert tables.tables(tables.load(files)).count("### a step") == 1


def test_traffic_can_be_the_floor() -> None:
    row = {"gmac": 0.1, "gigabytes": 40.0}
    assert tables.floor_seconds(row, MACHINE) == pytest.approx(2.0)
    assert tables.floor_seconds({}, MACHINE) is None


def test_columns_without_values_are_left_out(result: dict[str, Any]) -> None:
    result["benchmarks"] = [row("reference", 2.0), row("compiled", 1e-3)]
    lines = tables.tables(result).splitlines()
    assert "| backend | median | against reference |" in lines
    assert "| compiled | 1 ms | 2000x |" in lines


def test_rows_of_images_have_their_rate(result: dict[str, Any]) -> None:
    times = {"published": 7.37, "triton": 0.002}
    result["benchmarks"] = [row(name, median, images=8) for name, median in times.items()]
    lines = tables.tables(result).splitlines()
    assert "| backend | median | images/s | against published |" in lines
    assert "| published | 7.37 s | 1.09 | 1.00x |" in lines
    assert "| triton | 2 ms | 4,000 | 3685x |" in lines


def test_rows_of_a_gpu_have_the_floor_and_the_baseline_of_their_precision(result: dict[str, Any]) -> None:
    work = {"gmac": 350.0, "gigabytes": 0.003}  # 1 ms in bf16
    times = {"published": 0.1, "published-bf16": 0.05, "compile-bf16": 0.01, "triton": 0.02, "triton-bf16": 0.002}
    rows = [row(name, t, precision=name.partition("-")[2] or "fp32", **work) for name, t in times.items()]
    text = tables.tables(result | {"machine": GPU, "benchmarks": rows})
    assert "NVIDIA H100 80GB HBM3 (capability 9.0, cuda 13.0, triton 3.6.0); Some CPU" in text
    assert "bf16 products 700,000 (batch)" in text
    assert "| triton | 20 ms | 5.00x |  | 70% |" in text.splitlines()
    assert "| triton-bf16 | 2 ms | 25.0x | 5.00x | 50% |" in text.splitlines()


def test_a_group_of_one_precision_needs_no_precision_in_its_names(result: dict[str, Any]) -> None:
    rows = [row(name, t, precision="bf16") for name, t in {"reference": 0.2, "triton": 0.1}.items()]
    text = tables.tables(result | {"machine": GPU, "benchmarks": rows})
    assert "| triton | 100 ms | 2.00x |" in text.splitlines()


def test_a_result_file_is_named_after_the_gpu() -> None:
    assert tables.file_name(MACHINE) == "2026-01-02.json"
    assert tables.file_name(GPU) == "2026-01-02-nvidia-h100-80gb-hbm3.json"


def test_small_runs_are_marked(result: dict[str, Any]) -> None:
    result["small"] = True
    assert "mean nothing" in tables.tables(result)


def test_command_writes_the_result(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"machine": result["machine"], "small": False}, *result["benchmarks"]]
    rows = "".join(json.dumps(line) + "\n" for line in lines)
    for name, text in {"rows": rows, "more": rows, "stopped": ""}.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    files = [str(tmp_path / f"{name}.jsonl") for name in ("rows", "more", "stopped")]
    monkeypatch.setattr("sys.argv", ["tables.py", *files, "--results", str(tmp_path / "results")])
    tables.main()
    assert "| cpp | 2 s" in capsys.readouterr().out
    written = json.loads((tmp_path / "results" / "2026-01-02.json").read_text())
    assert written == {**result, "benchmarks": 2 * result["benchmarks"]}


def test_files_without_a_row_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "stopped.jsonl").write_text("")
    with pytest.raises(ValueError, match="none of the files has a row"):
        tables.load([tmp_path / "stopped.jsonl"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(123.4, "123 s"), (12.34, "12.3 s"), (0.1234, "123 ms"), (0.0125, "12.5 ms"), (4.2e-5, "42 us")],
)
def test_seconds(value: float, text: str) -> None:
    assert tables.seconds(value) == text
