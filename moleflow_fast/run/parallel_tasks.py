"""Later tasks on Ray workers, several at a time: each depends on the frozen base alone, the checkpoint of task 0.

Workers and the run itself meet in the run directory: a worker adds its epochs to epochs.csv and writes its task's
checkpoint. It holds its task's lock while it does, so a second worker on the same task waits, and then finds it done.

A worker computes with as many threads as the run itself: products and sums over several threads are added up in
another order, and three tasks of the demo set differed in the last bits of nearly every weight between one thread and
two. It therefore takes that many CPUs of its machine; OMP_NUM_THREADS=1 lets as many tasks run as there are CPUs.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.extractors.weights import RANDOM
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.run import Run
from moleflow_fast.run.task_training import train_task, trainer_of
from moleflow_fast.run.ways import stored_ways
from moleflow_fast.trainer import checkpoint

RETRIES = 2  # of a task whose worker died


class TasksOnWorkers:
    """Tasks of a run in training on workers of a Ray session; nothing is left of them when the session ends."""

    def __init__(self, ray: Any, run: Run, directory: RunDirectory) -> None:
        resources = _resources(ray, run.device)
        self.description = _description(resources, torch.get_num_threads())
        self._ray = ray
        self._console = run.console
        self._logger = run.context.logger
        self._shared = (options_for_workers(run), str(directory.path.absolute()), torch.get_num_threads())
        self._remote = ray.remote(max_retries=0, **resources)(train_in_worker)
        self._references: dict[Any, int] = {}
        self._deaths: Counter[int] = Counter()

    @property
    def tasks(self) -> list[int]:
        """Those that wait for a worker or are on one."""
        return sorted(self._references.values())

    def start(self, task_id: int) -> None:
        self._references[self._remote.remote(task_id, *self._shared)] = task_id

    def finished(self, seconds: float) -> list[int]:
        """Tasks that end within so many seconds; one whose worker dies is started again.

        Raises:
            UserError: the one that ended a worker's training, or a task whose workers keep dying.
        """
        ended, _ = self._ray.wait(list(self._references), timeout=seconds)
        return [task_id for task_id in map(self._take, ended) if task_id is not None]

    def _take(self, reference: Any) -> int | None:
        errors = self._ray.exceptions
        task_id = self._references.pop(reference)
        try:
            warnings = self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            self._start_again(task_id, _cause(error))
            return None
        for message in warnings:
            self._logger.warning(message)
        return task_id

    def _start_again(self, task_id: int, cause: str) -> None:
        self._deaths[task_id] += 1
        if self._deaths[task_id] > RETRIES:
            raise UserError(
                f"task {task_id}: its worker died {self._deaths[task_id]} times, the last time so: {cause}; finished "
                "tasks are kept: mend that and run again with --resume, or without --parallel_tasks"
            )
        self._console.warn(
            f"task {task_id}: its worker died ({cause}); trained again ({self._deaths[task_id]} of {RETRIES})"
        )
        self.start(task_id)


def options_for_workers(run: Run) -> dict[str, Any]:
    """The options of a run in JSON's types, with all spelled out that another process might understand differently."""
    weights = run.options.backbone_weights
    return dataclasses.replace(
        run.options,
        data_path=os.path.abspath(run.tasks.data_root),
        cache_dir=os.path.abspath(run.context.cache.directory),
        backbone_weights=None if weights is None else os.path.abspath(weights),
        random_backbone=run.options.random_backbone or run.extractor.weights_origin == RANDOM,
        device=run.device.type,  # Ray shows each worker its own GPU as the only one
        quiet=True,
    ).to_json()


def train_in_worker(task_id: int, options: dict[str, Any], directory: str, threads: int) -> list[str]:
    """Train one later task of a run, given its directory with task 0 in it; returns the warnings on the way."""
    torch.set_num_threads(threads)  # Ray asks for one a CPU
    where = RunDirectory(Path(directory))
    context = RunContext(RunOptions.from_json(options), RunConsole(quiet=True))
    run = Run(context, weights_of=where)
    ways = stored_ways(where, run.device)
    with context.as_chosen(), ways, _warnings(context.logger) as warnings, closing(context), where.task_held(task_id):
        if not checkpoint.is_complete(where.checkpoints, task_id):
            checkpoint.load_tasks(where.checkpoints, run.moleflow, run.checkpoint_options, tasks=1)
            train_task(run, trainer_of(run), where, task_id, run.features.loader(task_id))
    return warnings


def _resources(ray: Any, device: torch.device) -> dict[str, int]:
    """What Ray sets aside for a worker."""
    if device.type == "cuda":
        if ray.cluster_resources().get("GPU", 0) < 1:
            raise UserError("--parallel_tasks ray: no machine of Ray's has a GPU; add one, or --device cpu")
        return {"num_gpus": 1, "num_cpus": 1}
    most = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return {"num_cpus": max(1, min(torch.get_num_threads(), most))}


def _description(resources: dict[str, int], threads: int) -> str:
    if "num_gpus" in resources:
        return "a GPU each"
    hint = "; OMP_NUM_THREADS=1 lets more run at a time" if threads > 1 else ""
    return f"{threads} {'threads' if threads > 1 else 'thread'} each{hint}"


def _cause(error: Exception) -> str:
    if "OutOfMemory" in type(error).__name__:
        return "its machine ran out of memory"
    return str(error).strip().splitlines()[0]


@contextmanager
def _warnings(logger: logging.Logger) -> Iterator[list[str]]:
    """The messages that are logged in the block: a worker's own log is not seen."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
