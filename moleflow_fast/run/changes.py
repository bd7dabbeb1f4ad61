"""Runs that make a finished run one with more products, or with fewer.

A detector knows the tasks that are in calibration.json. When products are added it comes last but for the summary, so
that all of them are seen or none; config.json, which says what the run is to be, comes first, and an interrupted change
goes on from there. When products are taken out it is the other way round.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from moleflow_fast.config.change import Change, learned_again
from moleflow_fast.config.options import RunOptions
from moleflow_fast.console import RunConsole
from moleflow_fast.detector.calibrate import calibrate_new, rescaled
from moleflow_fast.detector.calibration import Calibration
from moleflow_fast.errors import UserError
from moleflow_fast.models.routing import PrototypeRouter
from moleflow_fast.run.changed_options import extended, first_classes, reduced
from moleflow_fast.run.context import RunParts
from moleflow_fast.run.directory import RunDirectory, RunDirectoryError
from moleflow_fast.run.session import ContinualRun, RunResult
from moleflow_fast.trainer import checkpoint, partial_state

_PROBES = 8  # test images of a class that old and new outputs are compared on


def changed_run(change: Change, console: RunConsole | None = None) -> ChangedRun:
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
    if change.removes:
        return ReducedRun(directory, stored, reduced(options, change, tasks), summary, console)
    return ExtendedRun(directory, stored, extended(options, change, tasks), summary, console)


class ChangedRun(ContinualRun):
    """A finished run whose products change.

    Args:
        directory: where it is.
        stored: its options so far.
        options: those it gets.
        summary: what its summary said before.
    """

    def __init__(
        self,
        directory: RunDirectory,
        stored: RunOptions,
        options: RunOptions,
        summary: dict[str, Any],
        console: RunConsole | None,
    ) -> None:
        super().__init__(options, console)
        self.weights_of = self._place = directory
        self._stored = stored
        self._before = summary

    @property
    def way_on(self) -> str:
        return "give the same command again"

    def _execute(self) -> RunResult:
        self._check()
        with self._place.held():
            if self._place.options() != self._stored:
                raise RunDirectoryError(f"{self._place.path} was changed by another process: look, and try again")
            self.directory = self._place
            with self._drawing(self._place):
                return self._fill(self._place)

    def _finish(self, directory: RunDirectory) -> RunResult:
        result = super()._finish(directory)
        after = directory.read_summary() or {}
        self.console.routing(self.tasks, self._before.get("routing_confusion", []), after["routing_confusion"])
        return result

    def _loaded_apart(self, directory: RunDirectory, tasks: int) -> RunParts:
        """Other parts, with the first so many tasks, removed ones included."""
        parts = RunParts(self.options, RunConsole(quiet=True))
        parts.extractor = self.extractor
        checkpoint.load_tasks(directory.checkpoints, parts.trainer, self.checkpoint_options, tasks)
        return parts

    def _of_active(self, directory: RunDirectory, calibration: Calibration) -> Calibration:
        """Without the tasks that are taken out or learned again, whose part in a shared covariance goes with them."""
        kept = calibration.of(self.active_tasks)
        if len(kept.tasks) == len(calibration.tasks) or not self.trainer.router.compares_distances:
            return kept
        before = self._loaded_apart(directory, max(calibration.tasks) + 1)
        return rescaled(before.trainer.router, calibration, kept.tasks)

    def _say_rescaled(self, known: Calibration) -> None:
        """Of which tasks the limits are not measured among the products that there are now."""
        absent = [t for t in known.tasks if not self.has_images(t)]
        if absent and self.trainer.router.compares_distances:
            self.console.say(
                f"limits         of {self._names(absent)} are scaled to the new covariance, not measured: their images "
                "are not there; put them back and measure anew: moleflow calibrate"
            )


class ExtendedRun(ChangedRun):
    """It learns more products; what it has learned stays as it is."""

    def _fill(self, directory: RunDirectory) -> RunResult:
        directory.write_options(self.options)
        return super()._fill(directory)

    def _check(self) -> None:
        last = self.options.extensions[-1]
        for name in last.task_classes if last.again else ():
            gone = [str(root / name) for _, root in self.sources_of(name) if not (root / name).is_dir()]
            if gone:
                raise UserError(
                    f"{name} is to be learned again, but images that it was learned from are not there: "
                    f"{', '.join(gone)}; put them back, or learn it from the new ones alone: --remove it, then "
                    "--extend without --again"
                )
        super()._check()

    @property
    def _learned(self) -> range:
        return range(len(self._before["tasks"]))

    def has_images(self, task_id: int) -> bool:
        """Those of new products have to be there."""
        return task_id not in self._learned or super().has_images(task_id)

    def _finish(self, directory: RunDirectory) -> RunResult:
        self._images_compared = self._require_unchanged(directory)
        if others := [t for t in self._learned if t in self.active_tasks]:
            self.console.say(
                f"unchanged      {self._names(others)}: {self._images_compared} maps are equal to the bit, prototypes "
                "too"
            )
        return super()._finish(directory)

    def _calibration(self, directory: RunDirectory) -> Calibration:
        known = directory.read_calibration()
        if known is None:
            return super()._calibration(directory)
        active = self.active_tasks
        if known.tasks.keys() == set(active):  # written before the run was killed
            return known
        new = [t for t in active if t not in self._learned]
        old = self._of_active(directory, known.of(self._learned))
        calibration = calibrate_new(self, new, old)
        self._say_limits(known, calibration)
        self._say_rescaled(old)
        return calibration

    def _say_limits(self, before: Calibration, after: Calibration) -> None:
        shared = self.trainer.router.compares_distances
        why = "distances are of another covariance" if shared else "a new product comes nearer"
        for t, task in before.of(after.tasks).tasks.items():
            now = after.tasks[t].distance_limit
            if now != task.distance_limit:
                self.console.say(
                    f"limit          of {self._names([t])}: {why}, images farther than {now:.4g} "
                    f"are unknown (before: {task.distance_limit:.4g})"
                )

    def _notes(self) -> dict[str, Any]:
        others = [t for t in self._learned if t not in learned_again(self.options.extensions, self.tasks)]
        return {"unchanged": {"tasks": others, "images": self._images_compared}}

    def _require_unchanged(self, directory: RunDirectory) -> int:
        """Compare the outputs of the tasks learned before with those of their checkpoints alone, to the bit.

        On test images of the new products, and of their own where those are there; returns how many maps that were.

        Raises:
            UserError: they differ. Detectors go on with the tasks learned before.
        """
        before = self._loaded_apart(directory, len(self._learned))
        before.retire()
        self._say_routes(before.trainer.router)
        compared = 0
        for task_id in self._learned:
            patches = self._probes(task_id)
            ids = torch.full((len(patches),), task_id, device=patches.device)
            old, new = (parts.trainer.anomaly_maps(patches, ids) for parts in (before, self))
            if not (torch.equal(old, new) and self._same_prototype(before, task_id)):
                raise UserError(
                    f"outputs of task {task_id} ({self._names([task_id])}) are not what they were before: the new "
                    "products are not handed over to detectors; look for what wrote to this run besides, or for "
                    "faulty memory"
                )
            compared += len(patches)
        return compared

    def _say_routes(self, before: PrototypeRouter) -> None:
        """How many images are nearest to another of the old products, now that the new ones share the covariance."""
        router = self.trainer.router
        if not (router.compares_distances and before.prototypes):
            return
        tests = self.tests_until(len(self.tasks) - 1)
        tested = [t for t in tests if len(t)]
        chosen = [t for t in tested if t.task_id in self._learned] or tested
        if not chosen:
            return
        features = torch.cat([t.image_features for t in chosen])
        old = [list(router.prototypes).index(t) for t in before.prototypes]
        moved = int((before.distances(features).argmin(1) != router.distances(features)[:, old].argmin(1)).sum())
        self.console.say(
            f"router         its covariance is of all products now: {moved} of {len(features)} test images of "
            f"{', '.join(t.name for t in chosen)} lie nearest to another of the old products than before"
        )

    def _probes(self, task_id: int) -> torch.Tensor:
        """Patches (n, H, W, D) to compare a task's outputs on."""
        tests = [t for t in self.tests_until(len(self.tasks) - 1) if len(t)]
        chosen = [t.source for t in tests if t.task_id == task_id or t.task_id not in self._learned]
        if not chosen:
            chosen = [self.training_features(self.tasks[t]) for t in range(len(self._learned), len(self.tasks))]
        first = [next(iter(source.batches([torch.arange(min(_PROBES, len(source)))])))[0] for source in chosen]
        return torch.cat(first)

    def _same_prototype(self, before: RunParts, task_id: int) -> bool:
        if task_id not in self.active_tasks:
            return True
        old, new = (parts.trainer.router.prototypes[task_id].state_dict() for parts in (before, self))
        return all(torch.equal(old[name], new[name]) for name in old)


class ReducedRun(ChangedRun):
    """It routes no image to the products that are taken out; an extension that was not finished is given up."""

    def _fill(self, directory: RunDirectory) -> RunResult:
        self._announce(directory)
        calibration = directory.read_calibration()
        if calibration is not None:
            kept = self._of_active(directory, calibration)
            if len(kept.tasks) < len(calibration.tasks):
                self._say_rescaled(kept)
            directory.write_calibration(kept)
        self._give_up(directory)
        directory.write_options(self.options)
        last = self._load(directory)[-1]
        if not self.tests_until(last):
            self.console.warn(f"no images are there: the tables in {directory.path} are those of before")
            before = directory.read_evaluation(last)
            assert before is not None
            return RunResult(directory, *before)
        self._evaluate(directory, last)
        return self._finish(directory)

    def _give_up(self, directory: RunDirectory) -> None:
        """Delete what there is of an extension that is not to be finished."""
        begun = self._stored.extensions[len(self.options.extensions) :]
        first = len(self.tasks)
        tasks = range(first, first + sum(len(extension.task_classes) for extension in begun))
        checkpoint.remove(directory.checkpoints, tasks)
        partial_state.remove(directory.checkpoints, tasks)
        directory.forget_evaluations_of(tasks)
        directory.keep_epochs_of(range(first))

    def _calibration(self, directory: RunDirectory) -> Calibration:
        known = directory.read_calibration()
        if known is None:
            return super()._calibration(directory)
        if not self.trainer.router.compares_distances:
            return known
        return calibrate_new(self, [], known)
