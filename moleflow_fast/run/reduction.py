"""Fewer products for a finished run: it routes no image to those that are taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moleflow_fast.detector.calibrate import calibrate_new
from moleflow_fast.detector.calibration import Calibration
from moleflow_fast.detector.calibration_file import read_calibration, write_calibration
from moleflow_fast.run.change_course import ChangeCourse, of_active, say_rescaled
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.restoring import load
from moleflow_fast.run.run import Run
from moleflow_fast.trainer import checkpoint, partial_state

if TYPE_CHECKING:
    from moleflow_fast.run.session import ContinualRun, RunResult


class ReductionCourse(ChangeCourse):
    """An extension that was not finished is given up."""

    def fill(self, session: ContinualRun, directory: RunDirectory) -> RunResult:
        run = session.run
        session.announce(directory)
        calibration = read_calibration(directory)
        if calibration is not None:
            kept = of_active(run, directory, calibration)
            if len(kept.tasks) < len(calibration.tasks):
                say_rescaled(run, kept)
            write_calibration(directory, kept)
        self._give_up(directory)
        directory.write_options(self.options)
        last = load(run, directory)[-1]
        if not run.features.tests_until(last):
            run.console.warn(f"no images are there: the tables in {directory.path} are those of before")
            return session.result_of(directory, last)
        evaluating = session.evaluating(directory)
        evaluating.after(last)
        return session.finish(directory, evaluating)

    def _give_up(self, directory: RunDirectory) -> None:
        """Delete what there is of an extension that is not to be finished."""
        begun = self.before.options.extensions[len(self.options.extensions) :]
        first = len(self.tasks)
        tasks = range(first, first + sum(len(extension.task_classes) for extension in begun))
        checkpoint.remove(directory.checkpoints, tasks)
        partial_state.remove(directory.checkpoints, tasks)
        directory.forget_evaluations_of(tasks)
        directory.keep_epochs_of(range(first))

    def calibration(self, run: Run, directory: RunDirectory) -> Calibration:
        known = read_calibration(directory)
        if known is None:
            return super().calibration(run, directory)
        if not run.moleflow.router.compares_distances:
            return known
        return calibrate_new(run, [], known)
