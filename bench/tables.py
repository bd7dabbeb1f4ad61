"""From the rows of a run (row_file.py) to a result file and the Markdown tables of docs/performance.md.

python bench/tables.py ROWS.jsonl ... [--results FOLDER]   prints the tables; writes FOLDER/<date>[-<gpu>].json
python bench/tables.py FOLDER/<date>.json                  prints the tables of a result file
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import row_file  # noqa: E402

Result = dict[str, Any]
BASELINES = ("published", "reference", "compile")  # what a group's rows are compared with, at equal precision


def load(files: Iterable[Path]) -> Result:
    """One result of several files from the same machine; its rates are those measured for the first.

    Rows of one group stand together, where the first of them stood. ValueError where no file has a row.
    """
    results = [result for file in files if (result := _read(file)) is not None]
    if not results:
        raise ValueError("none of the files has a row: did the run end before its first benchmark?")
    rows = [row for result in results for row in result["benchmarks"]]
    first = {row["group"]: place for place, row in reversed(list(enumerate(rows)))}
    return {**results[0], "benchmarks": sorted(rows, key=lambda row: first[row["group"]])}


def _read(file: Path) -> Result | None:
    text = file.read_text()
    return row_file.result(text) if file.suffix == ".jsonl" else json.loads(text)


def write(result: Result, folder: Path) -> None:
    """The result file of its machine and date."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file_name(result["machine"])).write_text(json.dumps(result, indent=2) + "\n")


def tables(result: Result) -> str:
    """A heading line on the machine, then a table per group, in the order of the file."""
    parts = [_machine_line(result["machine"])]
    if result.get("small"):
        parts.append("**MOLEFLOW_BENCH_SMALL was set: these times mean nothing.**")
    parts += [f"### {group}\n\n{_table(rows, result['machine'])}" for group, rows in groups(result).items()]
    return "\n\n".join(parts) + "\n"


def groups(result: Result) -> dict[str, list[Result]]:
    """Rows that are compared with each other, by group."""
    found: dict[str, list[Result]] = {}
    for row in result["benchmarks"]:
        found.setdefault(row["group"], []).append(row)
    return found


def _machine_line(machine: Result) -> str:
    rates = "; ".join(
        f"{precision} products " + ", ".join(f"{value:,.0f} ({name})" for name, value in rates.items())
        for precision, rates in machine["gflops"].items()
    )
    return (
        f"{_gpu_words(machine)}{machine['cpu']}, {machine['threads']} threads; Python {machine['python']}, "
        f"torch {machine['torch']}; {machine['date']}. {rates} GFLOP/s, "
        f"copy {machine['copy_gigabytes_per_s']:,.1f} GB/s."
    )


def _gpu_words(machine: Result) -> str:
    gpu = machine.get("gpu")
    if gpu is None:
        return ""
    known = [(name, gpu.get(name)) for name in ("driver", "capability", "cuda", "triton")]
    return f"{gpu['name']} ({', '.join(f'{name} {value}' for name, value in known if value)}); "


def _table(rows: list[Result], machine: Result) -> str:
    columns = [
        ("backend", [row["backend"] for row in rows]),
        ("median", [seconds(row["median_s"]) for row in rows]),
        ("images/s", [rate(row["images"] / row["median_s"]) if "images" in row else "" for row in rows]),
        *_comparisons(rows, machine),
        ("% of floor", [percent_of_floor(row, machine) for row in rows]),
        ("peak memory", [f"{row['peak_mib']:,.0f} MiB" if "peak_mib" in row else "" for row in rows]),
    ]
    used = [column for column in columns if any(column[1])]
    return markdown([title for title, _ in used], zip(*(cells for _, cells in used), strict=True))


def markdown(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table without its last line break."""
    heading, *others = (f"| {' | '.join(cells)} |" for cells in (titles, *lines))
    return "\n".join([heading, "|" + "---|" * len(titles), *others])


def _comparisons(rows: list[Result], machine: Result) -> list[tuple[str, list[str]]]:
    """A column for the first of `BASELINES` among the rows, else for the first row; on a GPU one for each of them."""
    if len(rows) == 1:
        return []
    kinds = [kind(row)[0] for row in rows]
    there = [name for name in BASELINES if name in kinds] or kinds[:1]
    return [(f"against {name}", _ratios(rows, name)) for name in there[: None if "gpu" in machine else 1]]


def _ratios(rows: list[Result], baseline: str) -> list[str]:
    """Each row's against the baseline at its precision; empty where that was not run."""
    medians = {kind(row): row["median_s"] for row in rows}
    bases = [medians.get((baseline, kind(row)[1])) for row in rows]
    return [ratio(base / row["median_s"]) if base else "" for base, row in zip(bases, rows, strict=True)]


def kind(row: Result) -> tuple[str, str]:
    """The backend without the precision that its name may carry, and the precision."""
    precision = row.get("precision", "fp32")
    return row["backend"].removesuffix(f"-{precision}"), precision


def floor_seconds(row: Result, machine: Result) -> float | None:
    """The longer of the needed multiply-adds at the machine's best rate and the needed bytes at its copy rate.

    The rate is that of products in the row's precision.
    """
    if "gmac" not in row:
        return None
    arithmetic = 2 * row["gmac"] / max(machine["gflops"][row.get("precision", "fp32")].values())
    return max(arithmetic, row["gigabytes"] / machine["copy_gigabytes_per_s"])


def percent_of_floor(row: Result, machine: Result) -> str:
    """100% would be a run at the floor."""
    floor = floor_seconds(row, machine)
    return "" if floor is None else f"{100 * floor / row['median_s']:.0f}%"


def file_name(machine: Result) -> str:
    """<date>.json, with the GPU's name where there is one."""
    gpu = machine.get("gpu")
    words = [machine["date"], *(re.findall("[a-z0-9]+", gpu["name"].lower()) if gpu else [])]
    return "-".join(words) + ".json"


def ratio(value: float) -> str:
    """Two decimals up to 10, then three figures."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}x"


def rate(value: float) -> str:
    """Three figures, all of them from 100 on."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def seconds(value: float) -> str:
    """Three figures, in s, ms or us."""
    if value >= 1:
        return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
    scale, unit = (1e3, "ms") if value >= 1e-3 else (1e6, "us")
    return f"{value * scale:.3g} {unit}" if value * scale < 100 else f"{value * scale:.0f} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="rows of a run (.jsonl), or a result file")
    parser.add_argument("--results", type=Path, help="folder for the result file")
    options = parser.parse_args()
    result = load(options.files)
    if options.results is not None:
        write(result, options.results)
    print(tables(result), end="")


if __name__ == "__main__":
    main()
