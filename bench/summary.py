"""The shortest account of a result: a line per group, its fastest row of ours beside what it is compared with."""

from __future__ import annotations

from tables import BASELINES, Result, groups, kind, markdown, percent_of_floor, ratio, seconds

TITLES = ("group", "fastest", "median", *(f"against {name}" for name in BASELINES), "% of floor")


def summary(result: Result) -> str:
    """Markdown; a baseline counts at the precision of the row."""
    lines = [_line(rows, result["machine"]) for _, rows in sorted(groups(result).items())]
    return markdown(TITLES, lines) + "\n"


def _line(rows: list[Result], machine: Result) -> tuple[str, ...]:
    ours = [row for row in rows if kind(row)[0] not in BASELINES] or rows
    best = min(ours, key=lambda row: row["median_s"])
    medians = {kind(row): row["median_s"] for row in rows}
    bases = [medians.get((name, kind(best)[1])) for name in BASELINES]
    against = [ratio(base / best["median_s"]) if base else "" for base in bases]
    return best["group"], best["backend"], seconds(best["median_s"]), *against, percent_of_floor(best, machine)
