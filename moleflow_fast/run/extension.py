"""More products for a finished run; what it has learned stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moleflow_fast.config.change import learned_again
from moleflow_fast.config.options import RunOptions
from moleflow_fast.detector.calibrate import calibrate_new
from moleflow_fast.detector.calibration import Calibration
from moleflow_fast.detector.calibration_file import read_calibration
from moleflow_fast.errors import UserError
from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.models.routing import PrototypeRouter
from moleflow_fast.run.change_course import ChangeCourse, Finished, loaded_apart, of_active, say_rescaled
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.run import Run
from moleflow_fast.run.tasks import Tasks

if TYPE_CHECKING:
    from moleflow_fast.run.session import ContinualRun, RunResult

_PROBES = 8  # test images of a class that old and new outputs are compared on


class ExtensionCourse(ChangeCourse):
    def __init__(self, options: RunOptions, before: Finished) -> None:
        super().__init__(options, before)
        self._learned = range(len(before.summary["tasks"]))
        self.tasks = Tasks(options, needed_from=len(self._learned))

    def check(self, run: Run) -> None:
        last = self.options.extensions[-1]
        for name in last.task_classes if last.again else ():
            gone = [str(root / name) for _, root in run.tasks.sources_of(name) if not (root / name).is_dir()]
            if gone:
                raise UserError(
                    f"{name} is to be learned again, but images that it was learned from are not there: "
                    f"{', '.join(gone)}; put them back, or learn it from the new ones alone: --remove it, then "
                    "--extend without --again"
                )

    def fill(self, session: ContinualRun, directory: RunDirectory) -> RunResult:
        directory.write_options(self.options)
        return super().fill(session, directory)

    def before_finish(self, run: Run, directory: RunDirectory) -> None:
        self._images_compared = self._require_unchanged(run, directory)
        if others := [t for t in self._learned if t in run.tasks.active]:
            run.console.say(
                f"unchanged      {run.tasks.names(others)}: {self._images_compared} maps are equal to the bit, "
                "prototypes too"
            )

    def calibration(self, run: Run, directory: RunDirectory) -> Calibration:
        known = read_calibration(directory)
        if known is None:
            return super().calibration(run, directory)
        active = run.tasks.active
        if known.tasks.keys() == set(active):  # written before the run was killed
            return known
        new = [t for t in active if t not in self._learned]
        old = of_active(run, directory, known.of(self._learned))
        calibration = calibrate_new(run, new, old)
        _say_limits(run, known, calibration)
        say_rescaled(run, old)
        return calibration

    def notes(self) -> dict[str, Any]:
        again = learned_again(self.options.extensions, list(self.tasks))
        others = [t for t in self._learned if t not in again]
        return {"unchanged": {"tasks": others, "images": self._images_compared}}

    def _require_unchanged(self, run: Run, directory: RunDirectory) -> int:
        """Compare the outputs of the tasks learned before with those of their checkpoints alone, to the bit.

        On test images of the new products, and of their own where those are there; returns how many maps that were.

        Raises:
            UserError: they differ. Detectors go on with the tasks learned before.
        """
        before = loaded_apart(run, directory, len(self._learned))
        run.tasks.retire(before.router)
        self._say_routes(run, before.router)
        compared = 0
        for task_id in self._learned:
            patches = self._probes(run, task_id)
            ids = torch.full((len(patches),), task_id, device=patches.device)
            old, new = (moleflow.anomaly_maps(patches, ids) for moleflow in (before, run.moleflow))
            if not (torch.equal(old, new) and _same_prototype(run, before, task_id)):
                raise UserError(
                    f"outputs of task {task_id} ({run.tasks.names([task_id])}) are not what they were before: the new "
                    "products are not handed over to detectors; look for what wrote to this run besides, or for "
                    "faulty memory"
                )
            compared += len(patches)
        return compared

    def _say_routes(self, run: Run, before: PrototypeRouter) -> None:
        """How many images are nearest to another of the old products, now that the new ones share the covariance."""
        router = run.moleflow.router
        if not (router.compares_distances and before.prototypes):
            return
        tests = run.features.tests_until(len(run.tasks) - 1)
        tested = [t for t in tests if len(t)]
        chosen = [t for t in tested if t.task_id in self._learned] or tested
        if not chosen:
            return
        features = torch.cat([t.image_features for t in chosen])
        old = [list(router.prototypes).index(t) for t in before.prototypes]
        moved = int((before.distances(features).argmin(1) != router.distances(features)[:, old].argmin(1)).sum())
        run.console.say(
            f"router         its covariance is of all products now: {moved} of {len(features)} test images of "
            f"{', '.join(t.name for t in chosen)} lie nearest to another of the old products than before"
        )

    def _probes(self, run: Run, task_id: int) -> torch.Tensor:
        """Patches (n, H, W, D) to compare a task's outputs on."""
        tests = [t for t in run.features.tests_until(len(run.tasks) - 1) if len(t)]
        chosen = [t.source for t in tests if t.task_id == task_id or t.task_id not in self._learned]
        if not chosen:
            chosen = [run.features.training(run.tasks[t]) for t in range(len(self._learned), len(run.tasks))]
        first = [next(iter(source.batches([torch.arange(min(_PROBES, len(source)))])))[0] for source in chosen]
        return torch.cat(first)


def _same_prototype(run: Run, before: MoLEFlow, task_id: int) -> bool:
    if task_id not in run.tasks.active:
        return True
    old, new = (moleflow.router.prototypes[task_id].state_dict() for moleflow in (before, run.moleflow))
    return all(torch.equal(old[name], new[name]) for name in old)


def _say_limits(run: Run, before: Calibration, after: Calibration) -> None:
    shared = run.moleflow.router.compares_distances
    why = "distances are of another covariance" if shared else "a new product comes nearer"
    for t, task in before.of(after.tasks).tasks.items():
        now = after.tasks[t].distance_limit
        if now != task.distance_limit:
            run.console.say(
                f"limit          of {run.tasks.names([t])}: {why}, images farther than {now:.4g} "
                f"are unknown (before: {task.distance_limit:.4g})"
            )
