"""The end of a run: forgetting, routing, pictures, calibration, and the summary that marks it as finished."""

from __future__ import annotations

from collections.abc import Sequence

from moleflow_fast.detector.calibration_file import write_calibration
from moleflow_fast.evaluation.class_result import Evaluation
from moleflow_fast.evaluation.forgetting import Forgetting, forgetting
from moleflow_fast.run.course import Course
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.evaluating import Evaluating
from moleflow_fast.run.run import Run
from moleflow_fast.run.summary import summary_of
from moleflow_fast.system.phases import Phases, phase


def finish(
    run: Run, course: Course, directory: RunDirectory, evaluating: Evaluating, phases: Phases
) -> tuple[Evaluation, Evaluation]:
    """Write what is left of a run whose tasks are learned and evaluated; returns the last evaluation.

    Raises:
        UserError: what the course requires is not so; the run is not marked as finished.
        WriteFailed: names the file.
    """
    course.before_finish(run, directory)
    tasks = list(run.tasks)[: len(run.moleflow.task_classes)]
    history = [directory.read_evaluation(t) for t in range(len(tasks))]
    assert history[-1] is not None
    routed, oracle = history[-1]
    under = {
        "routed": _forgetting([pair and pair[0] for pair in history]),
        "oracle": _forgetting([pair and pair[1] for pair in history]),
    }
    if len(tasks) > 1:
        run.console.forgetting(tasks, under)
    confusion = evaluating.routing(tasks)
    with phase("pictures"):
        evaluating.draw(tasks, confusion)
    if run.options.published_csv:
        evaluating.published.final(routed, run.options.ablation)
    with phase("calibration"):
        _calibrate(run, course, directory)
    with phase("pictures"):
        evaluating.finish_drawing()
    with phase("cache"):
        run.context.cache.settle()
    summary = summary_of(run, tasks, confusion, (routed, oracle), under, course.notes(), phases.seconds())
    directory.write_summary(summary)
    run.console.phases(phases.seconds())
    run.console.say(f"written to     {directory.path} (tables, checkpoints, heatmaps/, routing_confusion.png)")
    course.after_finish(run, summary)
    return routed, oracle


def _calibrate(run: Run, course: Course, directory: RunDirectory) -> None:
    """What a detector needs to know, while maps and images are there."""
    calibration = course.calibration(run, directory)
    for warning in calibration.warnings:
        run.console.warn(warning)
    write_calibration(directory, calibration)


def _forgetting(evaluations: Sequence[Evaluation | None]) -> Forgetting:
    """Of image AUROC; tasks that came from a loaded checkpoint have no evaluation of their own."""
    history = [
        [] if e is None else [e.of_task(j, "image_auroc") for j in range(t + 1)] for t, e in enumerate(evaluations)
    ]
    return forgetting(history)
