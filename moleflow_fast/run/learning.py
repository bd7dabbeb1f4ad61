"""The tasks of a run learned one after another, here or on workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property

from moleflow_fast.loggers.curves import Curves
from moleflow_fast.precompile.background import Precompilation
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.kernels import precompilation
from moleflow_fast.run.parallel_tasks import TasksOnWorkers
from moleflow_fast.run.ray_session import ray_session
from moleflow_fast.run.restoring import load_one
from moleflow_fast.run.run import Run
from moleflow_fast.run.task_training import train_task
from moleflow_fast.system.phases import phase
from moleflow_fast.trainer import checkpoint
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.feature_loader import FeatureLoader
from moleflow_fast.trainer.task_state import BatchRecord, EpochRecord

_SECONDS_BETWEEN_LOOKS = 0.5


class Learning:
    """
    Args:
        learned: told of each task that has been learned, in order.
        first_loader: of task 0, where its features were made beforehand.
    """

    def __init__(
        self,
        run: Run,
        trainer: MoLEContinualTrainer,
        directory: RunDirectory,
        curves: Curves | None,
        learned: Callable[[int], None],
        first_loader: FeatureLoader | None = None,
    ) -> None:
        self._run = run
        self._trainer = trainer
        self._directory = directory
        self._curves = curves
        self._learned = learned
        self._first_loader = first_loader

    def learn(self, first: int) -> None:
        """Train the tasks from `first` on that are not complete, and take in the others."""
        run = self._run
        later = [t for t in missing_tasks(run, self._directory, first) if t > 0]
        if run.options.parallel_tasks == "off" or not later:
            return self._learn_here(range(first, len(run.tasks)))
        with ray_session(run.options.ray_address) as ray:
            self._learn_here(range(first, 1))
            self._learn_on_workers(TasksOnWorkers(ray, run, self._directory), max(first, 1))
        return None

    def _learn_here(self, tasks: range) -> None:
        missing = missing_tasks(self._run, self._directory, tasks.start)
        for task_id in tasks:
            if task_id in missing:
                self._train(task_id)
            else:
                self._take_in(task_id)
            self._learned(task_id)

    def _learn_on_workers(self, workers: TasksOnWorkers, first: int) -> None:
        for task_id in missing_tasks(self._run, self._directory, first):
            workers.start(task_id)
        self._run.console.say(f"workers        for tasks {listed(workers.tasks)}, {workers.description}")
        for task_id in range(first, len(self._run.tasks)):
            self._wait_for(workers, task_id)
            self._take_in(task_id)  # now and not before: routing knows the tasks so far
            self._learned(task_id)

    def _wait_for(self, workers: TasksOnWorkers, task_id: int) -> None:
        if task_id not in workers.tasks:
            return
        titles = {t: self._run.tasks.title(t) for t in workers.tasks}
        with phase("idle"), self._run.console.training_elsewhere(titles) as show:
            while task_id in workers.tasks:
                for done in workers.finished(_SECONDS_BETWEEN_LOOKS):
                    self._say_trained(done)
                for last in (records[-1] for t in workers.tasks if (records := self._directory.epochs_of(t))):
                    show(last)

    @cached_property
    def _kernels(self) -> Precompilation | None:
        """Compiled from the first call on."""
        return precompilation(self._run, self._trainer)

    def _train(self, task_id: int) -> None:
        run, kernels = self._run, self._kernels  # compiled while features are made
        loader = self._first_loader or run.features.loader(task_id)
        self._first_loader = None
        if run.options.parallel_tasks == "off":
            following = missing_tasks(run, self._directory, task_id + 1)
            run.features.read_ahead(run.tasks[task_id], next(iter(following), None))
        if kernels is not None:
            with phase("compiling"):
                kernels.wait()
        with self._directory.task_held(task_id), run.console.training(run.tasks.title(task_id)) as show:

            def listen(record: EpochRecord | BatchRecord) -> None:
                show(record)
                if isinstance(record, EpochRecord) and self._curves:
                    self._curves.epoch(record)

            started = time.perf_counter()
            train_task(run, self._trainer, self._directory, task_id, loader, listen)
        self._say_trained(task_id, time.perf_counter() - started)

    def _take_in(self, task_id: int) -> None:
        load_one(self._run, self._directory, task_id)
        if self._curves:
            for record in self._directory.epochs_of(task_id):
                self._curves.epoch(record)

    def _say_trained(self, task_id: int, total: float | None = None) -> None:
        """Args: total: seconds from cached features to the checkpoint, where they were measured here."""
        console, title = self._run.console, self._run.tasks.title(task_id)
        records = self._directory.epochs_of(task_id)
        taken = "" if total is None else f", {total:.1f} s"
        if not records:
            console.say(f"{title}: its Gaussian front alone, no epochs{taken}")
            return
        seconds = sum(r.seconds for r in records)
        rate = sum(r.images for r in records) / max(seconds, 1e-9)
        skipped = sum(r.skipped_batches for r in records)
        note = f", {skipped} batches skipped" if skipped else ""
        measured = total is not None and self._run.options.ablation.has_front
        front = f", with its Gaussian front {total:.1f} s" if measured else ""
        console.say(f"{title}: loss {records[-1].loss:.2f}, {seconds:.1f} s, {rate:.0f} images/s{front}{note}")


def missing_tasks(run: Run, directory: RunDirectory, first: int) -> list[int]:
    """The tasks from `first` on that are not complete."""
    return [t for t in range(first, len(run.tasks)) if not checkpoint.is_complete(directory.checkpoints, t)]


def listed(tasks: Sequence[int]) -> str:
    return ", ".join(map(str, tasks))
