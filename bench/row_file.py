"""A run of benchmarks as it goes: a JSON object a line, so that one that is stopped keeps every row it has finished.

A line is a row of the result, or what the machine can do: `{"machine": ..., "small": ...}`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

Json = dict[str, Any]
VARIABLE = "MOLEFLOW_BENCH_ROWS"  # the file; unset: rows are not kept


def append(line: Json) -> None:
    """Written at once, to the end of the file."""
    if file := os.environ.get(VARIABLE):
        with Path(file).open("a") as stream:
            stream.write(json.dumps(line) + "\n")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Appends the row of a benchmark that has passed."""
    report = (yield).get_result()
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if report.when == "call" and report.passed and benchmark and benchmark.stats:
        append(row(benchmark.stats.as_dict(include_data=False)))


def row(benchmark: Json) -> Json:
    """What is worth keeping of pytest-benchmark's account."""
    stats, extra = benchmark["stats"], dict(benchmark["extra_info"])
    calls = extra.pop("calls", 1)
    if extra.get("precision") == "fp32":
        del extra["precision"]
    return {
        "group": benchmark["group"],
        "name": benchmark["name"],
        "backend": _backend(benchmark),
        "median_s": stats["median"] / calls,
        "min_s": stats["min"] / calls,
        "rounds": stats["rounds"],
        **extra,
    }


def _backend(benchmark: Json) -> str:
    """The parameter of that name; else all of them, which name the row as well as they can."""
    params = benchmark.get("params") or {}
    return str(params.get("backend") or ", ".join(map(str, params.values())) or benchmark["name"])


def result(text: str) -> Json | None:
    """A result of the lines, None without a row; the last one may be half of a line."""
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    machines = [line for line in lines if "machine" in line]
    rows = [line for line in lines if "machine" not in line]
    if not rows:
        return None
    small = {"small": True} if any(line["small"] for line in machines) else {}
    return {"machine": _fastest([line["machine"] for line in machines]), **small, "benchmarks": rows}


def _fastest(machines: list[Json]) -> Json:
    """The higher of each of their rates: a floor is what the machine can do, also where a neighbour was busy once."""
    gflops = {
        precision: {name: max(machine["gflops"][precision][name] for machine in machines) for name in rates}
        for precision, rates in machines[0]["gflops"].items()
    }
    copy = max(machine["copy_gigabytes_per_s"] for machine in machines)
    return {**machines[0], "gflops": gflops, "copy_gigabytes_per_s": copy}
