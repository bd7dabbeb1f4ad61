"""What all changes of a finished run's products have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moleflow_fast.config.options import RunOptions
from moleflow_fast.detector.calibrate import rescaled
from moleflow_fast.detector.calibration import Calibration
from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.run.building import build_moleflow
from moleflow_fast.run.course import Course
from moleflow_fast.run.directory import RunDirectory, RunDirectoryError
from moleflow_fast.run.run import Run
from moleflow_fast.trainer import checkpoint

if TYPE_CHECKING:
    from moleflow_fast.run.session import ContinualRun


@dataclass(frozen=True)
class Finished:
    """A finished run before it is changed: where it is, its options so far, and what its summary said."""

    directory: RunDirectory
    options: RunOptions
    summary: dict[str, Any]


class ChangeCourse(Course):
    """Of a finished run whose products change.

    Args:
        options: those it gets.
    """

    def __init__(self, options: RunOptions, before: Finished) -> None:
        super().__init__(options)
        self.before = before
        self.weights_of = before.directory

    def way_on(self, directory: RunDirectory | None) -> str:
        return "give the same command again"

    @contextmanager
    def opened(self, session: ContinualRun) -> Iterator[RunDirectory]:
        place = self.before.directory
        with place.held():
            if place.options() != self.before.options:
                raise RunDirectoryError(f"{place.path} was changed by another process: look, and try again")
            session.directory = place
            yield place

    def after_finish(self, run: Run, summary: Mapping[str, Any]) -> None:
        before = self.before.summary.get("routing_confusion", [])
        run.console.routing(list(run.tasks), before, summary["routing_confusion"])


def loaded_apart(run: Run, directory: RunDirectory, tasks: int) -> MoLEFlow:
    """Another one, with the first so many tasks of the run, removed ones included."""
    apart = build_moleflow(run.options, run.extractor, run.device)
    checkpoint.load_tasks(directory.checkpoints, apart, run.checkpoint_options, tasks)
    return apart


def of_active(run: Run, directory: RunDirectory, calibration: Calibration) -> Calibration:
    """Without the tasks that are taken out or learned again, whose part in a shared covariance goes with them."""
    kept = calibration.of(run.tasks.active)
    if len(kept.tasks) == len(calibration.tasks) or not run.moleflow.router.compares_distances:
        return kept
    before = loaded_apart(run, directory, max(calibration.tasks) + 1)
    return rescaled(before.router, calibration, kept.tasks)


def say_rescaled(run: Run, known: Calibration) -> None:
    """Of which tasks the limits are not measured among the products that there are now."""
    absent = [t for t in known.tasks if not run.tasks.have_images(t)]
    if absent and run.moleflow.router.compares_distances:
        run.console.say(
            f"limits         of {run.tasks.names(absent)} are scaled to the new covariance, not measured: their images "
            "are not there; put them back and measure anew: moleflow calibrate"
        )
