"""The shortest account of a result: a line per group, its fastest row of ours beside what it is compared with."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from tables import BASELINES, Result, floor_seconds, ratio, seconds

TITLES = ("group", "fastest", "median", *(f"against {name}" for name in BASELINES), "% of floor")


def summary(result: Result) -> str:
    """Markdown; a baseline counts at the precision of the row."""
    rows = sorted(result["benchmarks"], key=lambda row: row["group"])
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row["group"])]
    lines = [_line(group, result["machine"]) for group in groups]
    return "\n".join([_cells(TITLES), "|" + "---|" * len(TITLES), *lines]) + "\n"


def _line(rows: list[Result], machine: Result) -> str:
    ours = [row for row in rows if row["backend"].partition("-")[0] not in BASELINES] or rows
    best = min(ours, key=lambda row: row["median_s"])
    floor = floor_seconds(best, machine)
    share = "" if floor is None else f"{floor / best['median_s']:.0%}"
    against = [_against(name, best, rows) for name in BASELINES]
    return _cells((best["group"], best["backend"], seconds(best["median_s"]), *against, share))


def _against(baseline: str, best: Result, rows: list[Result]) -> str:
    precision = best.get("precision", "fp32")
    for row in rows:
        if row["backend"].partition("-")[0] == baseline and row.get("precision", "fp32") == precision:
            return ratio(row["median_s"] / best["median_s"])
    return ""


def _cells(values: Any) -> str:
    return f"| {' | '.join(values)} |"
