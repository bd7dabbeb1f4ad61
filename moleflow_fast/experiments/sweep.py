"""The runs of a plan, side by side on Ray: finished ones are skipped, interrupted ones go on, lost ones try again."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moleflow_fast.config.identity import identity
from moleflow_fast.config.options import RunOptions
from moleflow_fast.experiments.records import Record, Records
from moleflow_fast.experiments.sweep_plan import PlannedRun
from moleflow_fast.experiments.sweep_view import Progress, SweepView
from moleflow_fast.experiments.worker import Attempt, attempt_run
from moleflow_fast.run.directory import RunDirectory

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Share:
    """What a run takes of the cluster; a GPU may be shared (`gpus` below 1)."""

    cpus: float
    gpus: float


@dataclass
class _Job:
    """A planned run on its way: where it is written, and how often it has been tried."""

    run: PlannedRun
    options: RunOptions
    attempts: int = 0
    since: float = 0.0

    @property
    def path(self) -> Path:
        return Path(self.options.log_dir) / self.options.run_name


class Sweep:
    """A directory with `results.jsonl`, `runs/` (run directories) and `logs/`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.runs = self.directory / "runs"
        self.runs.mkdir(parents=True, exist_ok=True)
        self.records = Records(self.directory / "results.jsonl")
        self._known = _known_runs(self.runs)

    def is_finished(self, run: PlannedRun) -> bool:
        name = self._known.get(run.identity)
        return name is not None and RunDirectory(self.runs / name).is_finished

    def is_started(self, run: PlannedRun) -> bool:
        return run.identity in self._known

    def execute(
        self, runs: Sequence[PlannedRun], ray: Any, share: Share, retries: int, view: SweepView
    ) -> list[Record]:
        """Do what is not done; returns the record of every run, in the order of `runs`."""
        jobs = [self._job(run) for run in runs]
        for job in jobs:
            if self.is_finished(job.run) and not self._is_recorded(job.run):
                self._record(job, Attempt(0.0, None))
        waiting = [job for job in jobs if not self.is_finished(job.run)]
        view.skipped(len(jobs) - len(waiting))
        with view.shown():
            self._work(waiting, ray, share, retries, view)
        return [self.records.latest[run.identity] for run in runs]

    def _work(self, jobs: Sequence[_Job], ray: Any, share: Share, retries: int, view: SweepView) -> None:
        # Ray shall not start a lost task again by itself: the number of tries and their errors are ours to keep.
        task = ray.remote(attempt_run).options(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0)
        at_work = {self._submit(task, job, share): job for job in jobs}
        while at_work:
            ended, _ = ray.wait(list(at_work), timeout=_POLL_SECONDS)
            for reference in ended:
                job = at_work.pop(reference)
                if self._end(job, _outcome(ray, reference), retries, view):
                    at_work[self._submit(task, job, share)] = job
            view.tick([p for job in at_work.values() if (p := _progress(job)) is not None])

    def _submit(self, task: Any, job: _Job, share: Share) -> Any:
        job.attempts += 1
        job.since = time.time()
        log = self.directory / "logs" / f"{job.path.name}.log"
        return task.remote(job.options.to_json(), str(log), max(1, int(share.cpus)))

    def _end(self, job: _Job, attempt: Attempt, retries: int, view: SweepView) -> bool:
        """Write down how a try ended; whether to try again."""
        if attempt.error is None:
            record = self._record(job, attempt)
            view.finished(job.run.label, record["routed"], attempt.seconds)
            return False
        again = job.attempts <= retries
        if not again:
            self._record(job, attempt)
        view.lost(job.run.label, attempt.error, again)
        return again

    def _record(self, job: _Job, attempt: Attempt) -> Record:
        finished = attempt.error is None
        summary = json.loads((job.path / "summary.json").read_text()) if finished else {}
        record: Record = {
            "identity": job.run.identity,
            "name": job.run.names[0],
            "names": list(job.run.names),
            "seed": job.options.seed,
            "status": "finished" if finished else "failed",
            "error": attempt.error,
            "attempts": job.attempts,
            "seconds": round(attempt.seconds, 3) if job.attempts else None,
            "directory": str(job.path.relative_to(self.directory)),
            "options": job.options.to_json(),
            **{name: summary.get(name) for name in ("routed", "oracle", "forgetting")},
        }
        self.records.append(record)
        return record

    def _is_recorded(self, run: PlannedRun) -> bool:
        return self.records.latest.get(run.identity, {}).get("status") == "finished"

    def _job(self, run: PlannedRun) -> _Job:
        name = self._known.get(run.identity) or f"{_slug(run.label)}-{run.identity[:8]}"
        return _Job(run, dataclasses.replace(run.options, log_dir=str(self.runs), experiment_name=name))


def _known_runs(runs: Path) -> dict[str, str]:
    """Identity -> name of every directory that has been started, by the options it holds.

    Not by the hash in its name: an option that did not exist when the run was made has its default now.
    """
    known = {}
    for path in sorted(runs.iterdir()):
        if (path / "config.json").exists():
            known[identity(RunDirectory(path).options())] = path.name
    return known


def _outcome(ray: Any, reference: Any) -> Attempt:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0]
        return Attempt(0.0, f"its worker was lost ({type(error).__name__}: {first})")


def _progress(job: _Job) -> Progress | None:
    """From the last line of epochs.csv; None while nothing was written since the run was handed out."""
    file = job.path / "epochs.csv"
    if not file.exists() or file.stat().st_mtime < job.since:
        return None
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    if not rows:
        return None
    return Progress(job.run.label, int(rows[-1]["task_id"]), int(rows[-1]["epoch"]) + 1, int(rows[-1]["epochs"]))


def _slug(label: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", label)[:120]
