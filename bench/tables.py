"""From pytest-benchmark's JSON to a small result file and the Markdown tables of docs/performance.md.

python bench/tables.py RAW.json [--results FOLDER]    prints the tables; writes FOLDER/<date>.json
python bench/tables.py FOLDER/<date>.json             prints the tables of a result file
"""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from pathlib import Path
from typing import Any

Result = dict[str, Any]
BASELINES = ("published", "reference")  # backends that a group's other rows are compared with


def compact(raw: Result) -> Result:
    """What is worth keeping of a raw file; a result file passes through."""
    if "machine_info" not in raw:
        return raw
    return {
        "machine": raw["machine"],
        **({"small": True} if raw.get("small") else {}),
        "benchmarks": [_row(benchmark) for benchmark in raw["benchmarks"]],
    }


def _row(benchmark: Result) -> Result:
    stats = benchmark["stats"]
    return {
        "group": benchmark["group"],
        "name": benchmark["name"],
        "backend": _backend(benchmark),
        "median_s": stats["median"],
        "min_s": stats["min"],
        "rounds": stats["rounds"],
        **benchmark["extra_info"],
    }


def _backend(benchmark: Result) -> str:
    """The parameter of that name; else all of them, which name the row as well as they can."""
    params = benchmark.get("params") or {}
    return str(params.get("backend") or ", ".join(map(str, params.values())) or benchmark["name"])


def tables(result: Result) -> str:
    """A heading line on the machine, then a table per group, in the order of the file."""
    parts = [_machine_line(result["machine"])]
    if result.get("small"):
        parts.append("**MOLEFLOW_BENCH_SMALL was set: these times mean nothing.**")
    for group, rows in groupby(result["benchmarks"], key=lambda row: row["group"]):
        parts.append(f"### {group}\n\n{_table(list(rows), result['machine'])}")
    return "\n\n".join(parts) + "\n"


def _machine_line(machine: Result) -> str:
    rates = ", ".join(f"{value:.0f} ({name})" for name, value in machine["gflops"].items())
    return (
        f"{machine['cpu']}, {machine['threads']} threads; Python {machine['python']}, torch {machine['torch']}; "
        f"{machine['date']}. fp32 products {rates} GFLOP/s, copy {machine['copy_gigabytes_per_s']:.1f} GB/s."
    )


def _table(rows: list[Result], machine: Result) -> str:
    baseline = next((row for row in rows if row["backend"] in BASELINES), rows[0])
    titles = ["backend", "median", f"against {baseline['backend']}", "% of floor", "peak memory"]
    columns = [titles] + [
        [
            row["backend"],
            seconds(row["median_s"]),
            ratio(baseline["median_s"] / row["median_s"]),
            _percent_of_floor(row, machine),
            f"{row['peak_mib']:,.0f} MiB" if "peak_mib" in row else "",
        ]
        for row in rows
    ]
    used = [i for i in range(len(titles)) if i < 2 or any(line[i] for line in columns[1:])]
    if len(rows) == 1:
        used.remove(2)
    lines = ["| " + " | ".join(line[i] for i in used) + " |" for line in columns]
    return "\n".join([lines[0], "|" + "---|" * len(used), *lines[1:]])


def floor_seconds(row: Result, machine: Result) -> float | None:
    """The longer of the needed multiply-adds at the machine's best rate and the needed bytes at its copy rate."""
    if "gmac" not in row:
        return None
    arithmetic = 2 * row["gmac"] / max(machine["gflops"].values())
    return max(arithmetic, row["gigabytes"] / machine["copy_gigabytes_per_s"])


def _percent_of_floor(row: Result, machine: Result) -> str:
    """100% would be a run at the floor."""
    floor = floor_seconds(row, machine)
    return "" if floor is None else f"{100 * floor / row['median_s']:.0f}%"


def ratio(value: float) -> str:
    """Two decimals up to 10, then three figures."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}x"


def seconds(value: float) -> str:
    """Three figures, in s, ms or us."""
    if value >= 1:
        return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
    scale, unit = (1e3, "ms") if value >= 1e-3 else (1e6, "us")
    return f"{value * scale:.3g} {unit}" if value * scale < 100 else f"{value * scale:.0f} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSON of pytest-benchmark, or a result file")
    parser.add_argument("--results", type=Path, help="folder for <date>.json")
    options = parser.parse_args()
    result = compact(json.loads(options.file.read_text()))
    if options.results is not None:
        options.results.mkdir(parents=True, exist_ok=True)
        target = options.results / f"{result['machine']['date']}.json"
        target.write_text(json.dumps(result, indent=2) + "\n")
    print(tables(result), end="")


if __name__ == "__main__":
    main()
