"""A run evaluated: after each of its tasks, at its end, and again later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

import torch

from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.by_class import Evaluation, evaluate_all_tasks, evaluate_routing_performance
from moleflow_fast.evaluation.class_heatmap import ClassSheets
from moleflow_fast.evaluation.confusion import draw_confusion
from moleflow_fast.evaluation.scorer import TestClass
from moleflow_fast.evaluation.twins import twins
from moleflow_fast.loggers.curves import Curves
from moleflow_fast.run.checks import data_checked, flow_in_words
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.published_tables import PublishedTables
from moleflow_fast.run.restoring import load
from moleflow_fast.run.run import Run
from moleflow_fast.run.task_training import trainer_of
from moleflow_fast.run.tasks import Tasks
from moleflow_fast.run.ways import stored_ways
from moleflow_fast.system.callers_state import as_at_start
from moleflow_fast.system.phases import phase
from moleflow_fast.trainer import checkpoint


class Evaluating:
    """Tables and pictures of a run.

    Args:
        base_is_frozen: whether maps of earlier tasks cannot change any more.
        sheets: draws classes; None where that is not wanted.
    """

    def __init__(
        self, run: Run, directory: RunDirectory, base_is_frozen: bool, curves: Curves | None, sheets: ClassSheets | None
    ) -> None:
        self._run = run
        self._directory = directory
        self._base_is_frozen = base_is_frozen
        self._curves = curves
        self._sheets = sheets
        self.published = PublishedTables(directory.path, list(run.tasks), run.options.num_epochs)

    def after_if_wanted(self, task_id: int) -> None:
        """`after`, but for the last task alone with `--final_eval_only`."""
        if task_id == len(self._run.tasks) - 1 or not self._run.options.final_eval_only:
            self.after(task_id)

    def after(self, task_id: int) -> None:
        """All tasks so far evaluated, and those of the last one drawn."""
        run = self._run
        tests = run.features.tests_until(task_id)
        if not self._base_is_frozen:
            run.scorer.forget_maps(tests)
        routed, oracle = evaluate_all_tasks(run.scorer, tests)
        with phase("tables"):
            self._directory.write_evaluation(task_id, (routed, oracle))
            if run.options.published_csv:
                self.published.after_task(task_id, routed)
        if self._curves:
            self._curves.evaluation(task_id, routed)
            self._curves.evaluation(task_id, oracle)
        run.console.evaluation(f"after task {task_id}", routed, oracle)
        with phase("pictures"):  # drawn while the next task trains
            self._draw_classes([test for test in tests if test.task_id == task_id])

    def routing(self, tasks: list[list[str]]) -> torch.Tensor:
        """The confusion matrix of the last evaluation; products that routing cannot tell apart are said."""
        run = self._run
        _, confusion = evaluate_routing_performance(run.scorer, run.features.tests_until(len(tasks) - 1))
        for warning in twins(confusion, tasks):
            run.console.warn(warning)
        return confusion

    def draw(self, tasks: list[list[str]], confusion: torch.Tensor) -> None:
        """The confusion matrix, and every class."""
        draw_confusion(self._directory.path / "routing_confusion.png", confusion.numpy(), tasks)
        self._draw_classes(self._run.features.tests_until(len(tasks) - 1))

    def finish_drawing(self) -> None:
        """Wait until all classes are drawn."""
        if self._sheets is not None:
            self._sheets.finish()

    def _draw_classes(self, tests: Sequence[TestClass]) -> None:
        if self._sheets is not None:
            for test in filter(len, tests):
                self._sheets.draw(test)


@contextmanager
def drawing(run: Run, directory: RunDirectory) -> Iterator[ClassSheets | None]:
    """Sheets that are ordered inside are drawn, also when the run ends early; None with `--heatmaps 0`."""
    count = run.options.heatmaps
    if count == 0:
        yield None
        return
    with ClassSheets(run.scorer, directory.heatmaps, count, run.images.test, run.context.decoder) as sheets:
        yield sheets


def evaluate_again(
    directory: RunDirectory, options: RunOptions, console: RunConsole | None = None
) -> tuple[Evaluation, Evaluation]:
    """Routed and oracle evaluation of a finished or interrupted run's last complete task.

    Raises:
        UserError: no complete checkpoint, or no images.
    """
    with as_at_start(options.device):
        context = RunContext(_without_unfinished(options, directory), console)
        with context.as_chosen(), closing(context), stored_ways(directory, context.device):
            return _evaluate_again(Run(context, weights_of=directory), directory)


def _evaluate_again(run: Run, directory: RunDirectory) -> tuple[Evaluation, Evaluation]:
    with data_checked(run):
        trainer = trainer_of(run)
    run.console.say(f"flow           {flow_in_words(run, trainer)}")
    tests = run.features.tests_until(load(run, directory, len(run.tasks))[-1])
    if not tests:
        raise UserError(f"images of {directory.path} are not where they were: give their folder with --data_path")
    return evaluate_all_tasks(run.scorer, tests)


def _without_unfinished(options: RunOptions, directory: RunDirectory) -> RunOptions:
    """Products that are being learned again count as they were learned before."""
    *before, last = options.extensions or (None,)
    if last is not None and last.again:
        complete = len(checkpoint.completed_tasks(directory.checkpoints))
        if complete < len(Tasks(options)):
            return replace(options, extensions=tuple(before))
    return options
