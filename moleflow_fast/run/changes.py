"""Runs that make a finished run one with more products, or with fewer.

A detector knows the tasks that are in calibration.json. When products are added it comes last but for the summary, so
that all of them are seen or none; config.json, which says what the run is to be, comes first, and an interrupted change
goes on from there. When products are taken out it is the other way round.
"""

from __future__ import annotations

from dataclasses import replace

from moleflow_fast.config.change import Change
from moleflow_fast.run.change_course import Finished
from moleflow_fast.run.changed_options import extended, first_classes, reduced
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.directory import RunDirectory, RunDirectoryError
from moleflow_fast.run.extension import ExtensionCourse
from moleflow_fast.run.reduction import ReductionCourse
from moleflow_fast.run.session import ContinualRun


def changed_run(change: Change, console: RunConsole | None = None) -> ContinualRun:
    """The run that `execute` makes of a finished one.

    Raises:
        UserError: no finished run, or a change that does not fit it; nothing was written.
    """
    directory = RunDirectory.open(change.run)
    stored = directory.options()
    summary = directory.read_summary()
    if summary is None:
        raise RunDirectoryError(
            f"{directory.path} is not finished: go on with it first (--resume --experiment_name {directory.path.name})"
        )
    tasks: list[list[str]] = summary["tasks"]
    machine = {**change.machine, "resume": True, "final_eval_only": False}
    options = replace(stored, **machine, task_classes=first_classes(stored, tasks))
    before = Finished(directory, stored, summary)
    if change.removes:
        options = reduced(options, change, tasks)
        return ContinualRun(options, console, course=ReductionCourse(options, before))
    options = extended(options, change, tasks)
    return ContinualRun(options, console, course=ExtensionCourse(options, before))
