"""What a run leaves behind: configuration, per-epoch and per-task tables, checkpoints, pictures.

config.json                     every option, versions, machine
epochs.csv                      one row per epoch
evaluation/after_task_<t>.csv   one row per class and kind of id (routed, oracle)
checkpoints/                    see moleflow_fast.trainer.checkpoint
summary.json                    final means, forgetting, routing confusion; its presence marks a finished run
backbone.safetensors            of a random backbone its weights: see moleflow_fast.run.backbone
calibration.json                what is normal for each task: see moleflow_fast.detector.calibration_file
ways.json                       on Triton kernels, how products are done: see moleflow_fast.run.ways
routing_confusion.png, heatmaps/*.png
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from moleflow_fast.config.identity import result_options
from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.class_result import ClassResult, Evaluation
from moleflow_fast.system.files import WriteFailed, reading, remove_leftovers, replacing, write_json, writing
from moleflow_fast.system.locks import alone, lock_file
from moleflow_fast.trainer.task_state import EpochRecord

logger = logging.getLogger(__name__)

_MOST_THREADS = 1024


class RunDirectoryError(UserError):
    """The run directory cannot be used as asked."""


class DamagedRunFile(UserError, ValueError):
    """A file of a run that is not what a run writes."""


class RunDirectory:
    """Paths and tables of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.heatmaps = path / "heatmaps"
        self.ways = path / "ways.json"
        self.backbone = path / "backbone.safetensors"
        self.calibration = path / "calibration.json"

    @classmethod
    def create(cls, options: RunOptions) -> RunDirectory:
        """A new directory, or the interrupted one with `--resume`; an unnamed run gets the next free name."""
        path = Path(options.log_dir) / options.run_name
        if options.resume:
            return cls._resumed(path, options)
        if _started(path) and options.experiment_name:
            remedy = "add --resume to go on with it, or choose another --experiment_name"
            raise RunDirectoryError(f"{path} exists: {remedy}")
        number = 2
        while _started(path):
            path = path.with_name(f"{options.run_name}-{number}")
            number += 1
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        directory = cls(path)
        write_json(path / "config.json", {"options": options.in_full().to_json(), "environment": environment()})
        return directory

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run directory."""
        with reading(path):
            there = (path / "config.json").exists()
        if not there:
            raise RunDirectoryError(f"{path} is no run directory: it has no config.json")
        return cls(path)

    @classmethod
    def _resumed(cls, path: Path, options: RunOptions) -> RunDirectory:
        if not path.exists():
            raise RunDirectoryError(f"nothing to resume: {path} does not exist (check --experiment_name, --log_dir)")
        directory = cls.open(path)
        stored = directory.options()
        if stored.extensions or stored.removed_tasks:
            raise RunDirectoryError(f"{path} has been changed since it was trained: give its last --extend again")
        from moleflow_fast.run.resumed import require_alike  # not at the top: it builds on this module

        require_alike(path, *(_flat(result_options(some)) for some in (stored, options)))
        return directory

    def options(self) -> RunOptions:
        """Those it was started with.

        Raises:
            DamagedRunFile: config.json is not one of ours.
        """
        file = self.path / "config.json"
        try:
            with reading(file):
                return RunOptions.from_json(json.loads(file.read_bytes())["options"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DamagedRunFile(
                f"{file} is damaged ({error or type(error).__name__}): put back a copy of it, or start anew under "
                "another --experiment_name"
            ) from error

    @property
    def threads(self) -> int | None:
        """How many torch computed with where the run was started; None where it does not say."""
        try:
            threads = json.loads((self.path / "config.json").read_bytes())["environment"]["threads"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return threads if type(threads) is int and 0 < threads <= _MOST_THREADS else None

    def write_options(self, options: RunOptions) -> None:
        """Replace its options: of a finished run, when its products change."""
        file = self.path / "config.json"
        write_json(file, {**json.loads(file.read_bytes()), "options": options.to_json()})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out while a run writes here; workers of a run that was killed may end first.

        Raises:
            RunDirectoryError: the block could not write something.
        """
        try:
            with alone(self.path / ".lock", f"run directory {self.path}"):
                for file in self.path.glob(".task_*.lock"):
                    with alone(file, f"{file}, of a worker,", patience=math.inf):
                        pass
                remove_leftovers(self.path)
                yield
        except WriteFailed as error:
            raise RunDirectoryError(
                f"{error}; finished tasks are kept: free some space or make the place writable, and go on with "
                "--resume (with --extend or --remove: the same command)"
            ) from error

    @contextmanager
    def task_held(self, task_id: int) -> Iterator[None]:
        """For the training of a task: wait until nobody else trains it, and keep others waiting."""
        with alone(self.path / f".task_{task_id}.lock", f"task {task_id} of {self.path}", patience=math.inf):
            yield

    @property
    def is_finished(self) -> bool:
        return (self.path / "summary.json").exists()

    # -- tables --------------------------------------------------------------------------------------

    def keep_epochs_of(self, tasks: Iterable[int]) -> None:
        """Forget epochs of tasks that will be trained again, and of workers that died; bring the others in order."""
        kept = set(tasks)
        found = self._all_epochs()
        damaged = len(_read_rows(self._epochs)) - len(found)
        if damaged:
            logger.warning("%s: %d damaged %s left out", self._epochs, damaged, "row" if damaged == 1 else "rows")
        records = {(record.task_id, record.epoch): record for record in found}
        in_order = [asdict(record) for (task_id, _), record in sorted(records.items()) if task_id in kept]
        _write_rows(self._epochs, [f.name for f in fields(EpochRecord)], in_order)

    def forget_evaluations_of(self, tasks: Iterable[int]) -> None:
        """Delete the tables of evaluations after these tasks."""
        for task_id in tasks:
            self._evaluation(task_id).unlink(missing_ok=True)

    def append_epoch(self, record: EpochRecord) -> None:
        """Add a row, in one piece: several workers may do so at a time."""
        names = [f.name for f in fields(EpochRecord)]
        # Appending is atomic by itself on local disks, but not on NFS.
        with (
            writing(self._epochs),
            lock_file(self.path / ".epochs.lock"),
            self._epochs.open("a", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, names)
            if os.fstat(file.fileno()).st_size == 0:
                writer.writeheader()
            writer.writerow(asdict(record))

    def epochs_of(self, task_id: int) -> list[EpochRecord]:
        """The epochs of a task as they were written, in order, those of a worker that died left out."""
        records: list[EpochRecord] = []
        for record in self._all_epochs():
            if record.task_id == task_id:
                records = [*records[: record.epoch], record]  # a task that starts again overwrites
        return records

    def _all_epochs(self) -> list[EpochRecord]:
        """In the order of writing; a row that was torn, by a full disk or a cut of power, is left out."""
        records = []
        rows = _read_rows(self._epochs)
        for row in rows[:-1] if _is_torn(self._epochs) else rows:
            with suppress(ValueError, TypeError, KeyError):
                records.append(_epoch_record(row))
        return records

    def write_evaluation(self, after_task: int, evaluations: Sequence[Evaluation]) -> None:
        _write_evaluations(self._evaluation(after_task), evaluations)

    def write_again(self, evaluations: Sequence[Evaluation]) -> Path:
        """A repeated evaluation, beside the run's own; returns its file."""
        file = self.path / "evaluation" / "again.csv"
        _write_evaluations(file, evaluations)
        return file

    def read_evaluation(self, after_task: int) -> tuple[Evaluation, Evaluation] | None:
        """(routed, oracle) as they were written, or None.

        Raises:
            DamagedRunFile: a table that is not what was written.
        """
        file = self._evaluation(after_task)
        if not file.exists():
            return None
        try:
            with reading(file):
                routed, oracle = (_of_ids(ids, _read_rows(file)) for ids in ("routed", "oracle"))
            if _is_torn(file) or len(routed.classes) != len(oracle.classes):
                raise ValueError("cut short")
        except (ValueError, TypeError, KeyError, csv.Error) as error:
            raise DamagedRunFile(f"{file} is damaged ({error}): go on with --resume to make it again") from error
        return routed, oracle

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)

    def read_summary(self) -> dict[str, Any] | None:
        """As it was written, None in a run that is not finished.

        Raises:
            DamagedRunFile: the file is damaged.
        """
        file = self.path / "summary.json"
        if not file.exists():
            return None
        try:
            with reading(file):
                summary = json.loads(file.read_bytes())
            if not all(isinstance(name, str) for task in summary["tasks"] for name in task):
                raise TypeError("tasks are not lists of names")
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedRunFile(f"{file} is damaged ({error}): delete it, and make it again with --resume") from error
        return summary

    def first_to_evaluate(self, tasks: int) -> int:
        """Of so many tasks the first whose evaluation is damaged, or missing although an earlier one's is there.

        Else `tasks`. Tasks that came from a loaded checkpoint have no evaluation of their own: these lie before the
        first.
        """
        there = [self._evaluation(task_id).exists() for task_id in range(tasks)]
        first = there.index(True) if True in there else tasks
        return next((task_id for task_id in range(first, tasks) if not self._is_evaluated(task_id)), tasks)

    def _is_evaluated(self, after_task: int) -> bool:
        try:
            return self.read_evaluation(after_task) is not None
        except DamagedRunFile:
            return False

    @property
    def _epochs(self) -> Path:
        return self.path / "epochs.csv"

    def _evaluation(self, after_task: int) -> Path:
        return self.path / "evaluation" / f"after_task_{after_task}.csv"


def _started(path: Path) -> bool:
    """Whether a directory holds anything but what a run that died at its start leaves: temporary and lock files."""
    return path.exists() and any(not file.name.startswith(".") for file in path.iterdir())


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, **values["ablation"], "ablation": None}


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    # Not at the top: commands say their --help without them.
    from importlib.metadata import PackageNotFoundError, version

    import torch

    packages = {}
    for name in ("moleflow_fast", "torch", "timm", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "source tree"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "packages": packages,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": device,
    }


def _write_evaluations(file: Path, evaluations: Sequence[Evaluation]) -> None:
    names = ["ids", *(f.name for f in fields(ClassResult))]
    rows = [{"ids": e.ids, **asdict(result)} for e in evaluations for result in e.classes]
    _write_rows(file, names, rows)


def _class_result(row: Mapping[str, str]) -> ClassResult:
    kinds = {"class_name": str, "task_id": int, "images": int}
    return ClassResult(**{f.name: kinds.get(f.name, float)(row[f.name]) for f in fields(ClassResult)})


def _of_ids(ids: str, rows: Sequence[Mapping[str, str]]) -> Evaluation:
    classes = [_class_result(row) for row in rows if row["ids"] == ids]
    if not classes:
        raise ValueError(f"no {ids} rows")
    return Evaluation(ids, classes)


def _epoch_record(row: Mapping[str, str]) -> EpochRecord:
    if None in row:
        raise ValueError("two rows in one")
    kinds = {"stage": str, "loss": float, "learning_rate": float, "seconds": float}
    return EpochRecord(**{f.name: kinds.get(f.name, int)(row[f.name]) for f in fields(EpochRecord)})


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return list(csv.DictReader(file))


def _is_torn(path: Path) -> bool:
    """Whether the last row was not written to its end."""
    return path.exists() and not path.read_bytes().endswith(b"\n")


def _write_rows(path: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
