"""Finished runs, and what became of those that are not: from run directories and from a sweep's results.jsonl."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.class_result import ClassResult
from moleflow_fast.report.published_rows import PUBLISHED, published_results, without_options
from moleflow_fast.run.directory import RunDirectory, RunDirectoryError


@dataclass(frozen=True)
class Run:
    """One finished run, or one published row.

    Attributes:
        where: its directory as a reader knows it; the preset's name for a published row.
        names: names of presets that ask for this configuration, its own first.
        means: final metric -> mean under routed ids, fractions; NaN where there is none.
        classes: final result per class under routed ids; empty for a published row.
        tasks: classes of each task, in order.
        forgetting: forgetting measure and backward transfer per earlier task, of image AUROC under routed ids.
        confusion: images, row true task, column routed task.
        seconds: wall time by phase, see `moleflow_fast.system.phases`; empty where it was not counted.
    """

    where: str
    names: tuple[str, ...]
    options: RunOptions
    means: Mapping[str, float]
    oracle: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[ClassResult, ...] = ()
    tasks: tuple[tuple[str, ...], ...] = ()
    forgetting: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_published(self) -> bool:
        return not self.tasks


@dataclass(frozen=True)
class Trouble:
    """A run that is not analysed; `reason` is a key of the report's words or empty, `detail` comes from a file."""

    where: str
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Found:
    """Everything below the places that were given, in their order."""

    runs: tuple[Run, ...]
    failed: tuple[Trouble, ...]
    unfinished: tuple[Trouble, ...]
    damaged: tuple[Trouble, ...]
    without_options: tuple[str, ...]


def find_runs(places: Sequence[str]) -> Found:
    """Runs of each place: a run directory, a directory with run directories at any depth, or `published`.

    Raises:
        UserError: a place that does not exist, or no finished run in any of them.
    """
    runs: list[Run] = []
    troubles: dict[str, list[Trouble]] = {"failed": [], "unfinished": [], "damaged": []}
    seen: set[Path] = set()
    several = sum(place != PUBLISHED for place in places) > 1
    for place in dict.fromkeys(places):
        if place == PUBLISHED:
            runs += [Run(name, (name,), options, means) for name, options, means in published_results()]
            continue
        if not Path(place).is_dir():
            raise UserError(f"{place} is no directory: give run directories, a sweep directory, or {PUBLISHED!r}")
        _read_place(Path(place), several, seen, runs, troubles)
    if not runs:
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in troubles.items())
        raise UserError(
            f"no finished run in {', '.join(places)}: looked at any depth for directories with config.json and "
            f"summary.json ({counts}); wait for the runs to finish, or give {PUBLISHED!r} for the published figures"
        )
    unknown = without_options() if PUBLISHED in places else ()
    failed, unfinished, damaged = map(tuple, troubles.values())
    return Found(tuple(runs), failed, unfinished, damaged, unknown)


def _read_place(
    root: Path, several: bool, seen: set[Path], runs: list[Run], troubles: Mapping[str, list[Trouble]]
) -> None:
    records: dict[Path, Mapping[str, Any]] = {}
    directories, sweeps = _directories(root)
    for sweep in sweeps:
        records |= _records(sweep, _shown(sweep, root, several), troubles["damaged"])
    finished = {path.resolve() for path in directories if (path / "summary.json").exists()}
    for path, record in records.items():
        if record.get("status") == "failed" and path not in finished and path not in seen:
            seen.add(path)
            where = _shown(path, root.resolve(), several) if path.is_relative_to(root.resolve()) else path.name
            troubles["failed"].append(Trouble(where, "" if record.get("error") else "no_error", _line(record)))
    for path in directories:
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        where = _shown(path, root, several)
        try:
            run = _read_run(path, where, _names(records.get(path.resolve(), {})))
        except _Damaged as damage:
            troubles["damaged"].append(Trouble(where, damage.reason, damage.detail))
        else:
            (troubles["unfinished"].append(Trouble(where)) if run is None else runs.append(run))


def _line(record: Mapping[str, Any]) -> str:
    """The error of a failed run on one line."""
    return " ".join(str(record.get("error") or "").split())


def _names(record: Mapping[str, Any]) -> tuple[str, ...]:
    names = record.get("names")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _directories(root: Path) -> tuple[list[Path], list[Path]]:
    """(run directories, results.jsonl files) at any depth; nothing is looked for inside a run directory."""
    found, sweeps = [], []
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if "results.jsonl" in files:
            sweeps.append(Path(folder) / "results.jsonl")
        if {"config.json", "summary.json"} & set(files):
            found.append(Path(folder))
            below.clear()
    return found, sweeps


def _shown(path: Path, root: Path, several: bool) -> str:
    relative = path.relative_to(root).as_posix()
    name = root.resolve().name
    if relative == ".":
        return name
    return f"{name}/{relative}" if several else relative


def _records(file: Path, where: str, damaged: list[Trouble]) -> dict[Path, Mapping[str, Any]]:
    """Directory -> last record of each identity; a torn last line is what a kill leaves and no damage."""
    lines = file.read_text(errors="replace").splitlines()
    last: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            path = (file.parent / str(record.get("directory") or record["identity"])).resolve()
            last[str(record["identity"])] = path, record
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            if number < len(lines):
                damaged.append(Trouble(f"{where}:{number}", "bad_line"))
    return dict(last.values())


class _Damaged(Exception):
    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail


def _read_run(path: Path, where: str, names: Sequence[str]) -> Run | None:
    """The run, or None if it has not finished."""
    directory = _of_file("config.json", lambda: RunDirectory.open(path))
    options = _of_file("config.json", directory.options)
    if not directory.is_finished:
        return None
    return _of_file("summary.json", lambda: _finished(directory, options, where, names))


def _of_file(name: str, read: Any) -> Any:
    try:
        return read()
    except RunDirectoryError as error:
        raise _Damaged("missing_file", name) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, csv.Error) as error:
        cause = error.__cause__ or error  # the report has a place and a remedy of its own
        raise _Damaged("unreadable", f"{name}: {type(cause).__name__}: {cause}") from error


def _finished(directory: RunDirectory, options: RunOptions, where: str, names: Sequence[str]) -> Run:
    summary = json.loads((directory.path / "summary.json").read_text())
    tasks = tuple(tuple(map(str, classes)) for classes in summary["tasks"])
    table = f"evaluation/after_task_{len(tasks) - 1}.csv"
    pair = _of_file(table, lambda: directory.read_evaluation(len(tasks) - 1))
    if pair is None or not pair[0].classes:
        raise _Damaged("missing_file", table)
    own = (options.preset,) if options.preset else ()
    lost = summary["forgetting"]["routed"]
    # Older runs have no matrix in their summary.
    confusion = tuple(tuple(map(int, row)) for row in summary.get("routing_confusion", ()))
    if len(lost["per_task"]) != len(tasks) - 1 or {len(confusion), *map(len, confusion)} - {0, len(tasks)}:
        raise ValueError(f"forgetting or routing_confusion is not of {len(tasks)} tasks")
    return Run(
        where=where,
        names=tuple(dict.fromkeys([*own, *names])),
        options=options,
        means=_figures(summary["routed"]),
        oracle=_figures(summary["oracle"]),
        classes=tuple(pair[0].classes),
        tasks=tasks,
        forgetting={key: tuple(map(_figure, lost[key])) for key in ("per_task", "bwt_per_task")},
        confusion=confusion,
        seconds=_figures(summary.get("seconds", {})),
    )


def _figures(found: Mapping[str, float | None]) -> dict[str, float]:
    return {name: _figure(value) for name, value in found.items()}


def _figure(value: float | None) -> float:
    return math.nan if value is None else float(value)
