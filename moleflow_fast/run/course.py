"""How a run goes: the few decisions in which a new run and a changed one differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moleflow_fast.config.options import RunOptions
from moleflow_fast.detector.calibrate import calibrate
from moleflow_fast.detector.calibration import Calibration
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.run import Run
from moleflow_fast.run.tasks import Tasks

if TYPE_CHECKING:
    from moleflow_fast.run.session import ContinualRun, RunResult


class Course:
    """Of a run that is trained from its options, which may go on or start from a checkpoint.

    Attributes:
        tasks: of the run.
        weights_of: the run that has drawn a random backbone for this one; None where that is to be drawn.
    """

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.tasks = Tasks(options)
        self.weights_of = _drawn_before(options)

    def way_on(self, directory: RunDirectory | None) -> str:
        """What to do to go on with the interrupted run."""
        return f"add --resume --experiment_name {directory.path.name}" if directory else "start it again"

    def check(self, run: Run) -> None:
        """What can be wrong besides, looked for first.

        Raises:
            UserError: it is.
        """

    @contextmanager
    def opened(self, session: ContinualRun) -> Iterator[RunDirectory]:
        """The directory that the session writes to, held; the session is told of it."""
        session.directory = RunDirectory.create(self.options)
        with session.directory.held():
            yield session.directory

    def fill(self, session: ContinualRun, directory: RunDirectory) -> RunResult:
        """What is done once all is checked."""
        return session.train(directory)

    def before_finish(self, run: Run, directory: RunDirectory) -> None:
        """What is to be found out once all tasks are learned and evaluated."""

    def calibration(self, run: Run, directory: RunDirectory) -> Calibration:
        """What is normal for each task."""
        return calibrate(run, [t for t in run.tasks.active if t in run.moleflow.task_classes])

    def notes(self) -> dict[str, Any]:
        """What the summary says besides."""
        return {}

    def after_finish(self, run: Run, summary: Mapping[str, Any]) -> None:
        """What is said at the very end."""


def _drawn_before(options: RunOptions) -> RunDirectory | None:
    """The run that has drawn a random backbone for this one: itself when it goes on, or the one it starts from."""
    if options.resume:
        return RunDirectory(Path(options.log_dir) / options.run_name)
    if options.load_checkpoint is None or not (options.random_backbone or options.dataset == "demo"):
        return None
    path = Path(options.load_checkpoint)
    return RunDirectory(path.parent if path.name == "checkpoints" else path)
