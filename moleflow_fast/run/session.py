"""One continual run: checked, opened, learned, evaluated and finished."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from moleflow_fast.config.known_bad import known_bad
from moleflow_fast.config.method import method
from moleflow_fast.config.options import RunOptions
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.evaluation.by_class import Evaluation
from moleflow_fast.evaluation.class_heatmap import ClassSheets
from moleflow_fast.loggers.curves import Curves, require
from moleflow_fast.run.backbone import keep_weights
from moleflow_fast.run.checks import data_checked, flow_in_words, require_parallel
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.course import Course
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.evaluating import Evaluating, drawing
from moleflow_fast.run.finishing import finish
from moleflow_fast.run.learning import Learning, listed, missing_tasks
from moleflow_fast.run.restoring import load, load_from
from moleflow_fast.run.run import Run
from moleflow_fast.run.task_training import trainer_of
from moleflow_fast.run.ways import keep_ways, stored_ways
from moleflow_fast.system.callers_state import as_at_start
from moleflow_fast.system.phases import Phases, counting, phase
from moleflow_fast.trainer import checkpoint, partial_state
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.feature_loader import FeatureLoader


@dataclass(frozen=True)
class RunResult:
    """Where a run was written, and its last evaluation."""

    directory: RunDirectory
    routed: Evaluation
    oracle: Evaluation


class ContinualRun:
    """A run in the making.

    Args:
        decoder: where its processes were started earlier than now.
        course: what differs from a run that is trained from its options.

    Attributes:
        directory: where it is written, once that is known.
    """

    def __init__(
        self,
        options: RunOptions,
        console: RunConsole | None = None,
        decoder: Decoder | None = None,
        course: Course | None = None,
    ) -> None:
        self._course = course or Course(options)
        self.run = Run(RunContext(options, console, decoder), self._course.tasks, weights_of=self._course.weights_of)
        self.directory: RunDirectory | None = None
        self._curves: Curves | None = None
        self._sheets: ClassSheets | None = None
        self._phases = Phases()
        self._first_loader: FeatureLoader | None = None

    @property
    def way_on(self) -> str:
        """What to do to go on with an interrupted run."""
        return self._course.way_on(self.directory)

    @property
    def console(self) -> RunConsole:
        return self.run.console

    @property
    def options(self) -> RunOptions:
        return self.run.options

    @cached_property
    def trainer(self) -> MoLEContinualTrainer:
        return trainer_of(self.run)

    def close(self) -> None:
        """End what goes on beside the run."""
        if self._curves is not None:
            self._curves.close()
        self.run.context.close()

    def execute(self) -> RunResult:
        """Train every task, evaluate after each, write everything down."""
        with as_at_start(self.options.device), counting() as self._phases, self.run.context.as_chosen(), closing(self):
            return self._execute()

    def _execute(self) -> RunResult:
        self._check()
        with self._course.opened(self) as directory, drawing(self.run, directory) as self._sheets:
            return self._course.fill(self, directory)

    def _check(self) -> None:
        """Everything that can be wrong before the first file is written."""
        self._course.check(self.run)
        require(self.options.loggers)
        for warning in (*self.options.ablation.warnings, *known_bad(self.options)):
            self.console.warn(warning)
        with data_checked(self.run):
            _ = self.trainer  # its backbone takes a while
            self._make_first_features()
        if self.options.load_checkpoint and not self.options.resume:
            _ = self._loaded_tasks
        _ = self._flow
        if self.options.parallel_tasks != "off":
            require_parallel(self.trainer)

    def _make_first_features(self) -> None:
        """Those of a new run's first task, by a device that would wait until all files are read."""
        options = self.options
        new = not (options.resume or options.load_checkpoint)
        if new and _is_beside_the_cpu(self.run.device):
            self._first_loader = self.run.features.loader(0)

    @cached_property
    def _flow(self) -> str:
        return flow_in_words(self.run, self.trainer)

    @cached_property
    def _loaded_tasks(self) -> list[int]:
        """Tasks that came from `--load_checkpoint`."""
        return load_from(self.run, self.trainer, Path(self.options.load_checkpoint or ""))

    def announce(self, directory: RunDirectory) -> None:
        """Say what is trained, on what and how."""
        run, tasks = self.run, self.run.tasks
        data = f"{tasks.data_root} (synthetic demo set)" if self.options.dataset == "demo" else str(tasks.data_root)
        self.console.say(f"run directory  {directory.path}")
        self.console.say(f"data           {data}: {len(tasks.classes)} classes in {len(tasks.active)} tasks")
        self.console.say(
            f"backbone       {self.options.backbone_name}, weights: {run.extractor.weights_origin}, "
            f"patches {run.extractor.embed_dim} wide, on {run.device}"
        )
        if run.parity is not None:
            self.console.say(f"               in {run.parity}")
        self.console.say(f"method         {method(self.options)}")
        self.console.say(f"flow           {self._flow}")

    def train(self, directory: RunDirectory) -> RunResult:
        """Learn and evaluate what is missing, from whatever is there on."""
        self.announce(directory)
        if ways := keep_ways(directory, self.run.device):
            self.console.say(f"products       {ways}")
        with stored_ways(directory, self.run.device):
            return self._learn_and_finish(directory)

    def _learn_and_finish(self, directory: RunDirectory) -> RunResult:
        if self.options.loggers:
            self._curves = Curves(self.options.loggers, directory, self.options)
        evaluating, tasks = self.evaluating(directory), range(len(self.run.tasks))
        complete = checkpoint.keep_valid(directory.checkpoints, len(tasks), self.trainer.promises_zero_forgetting)
        directory.keep_epochs_of(complete)
        partial_state.remove(directory.checkpoints, complete)
        done = self._restore(directory)
        keep_weights(directory, self.run.extractor, self.run.weights_of)
        if done and directory.read_evaluation(done - 1) is None:
            evaluate = evaluating.after if self.options.evaluates_a_checkpoint else evaluating.after_if_wanted
            evaluate(done - 1)
        if not self.options.evaluates_a_checkpoint:
            learned = evaluating.after_if_wanted
            Learning(self.run, self.trainer, directory, self._curves, learned, self._first_loader).learn(done)
            directory.keep_epochs_of(tasks)  # in order
            partial_state.remove(directory.checkpoints, tasks)  # of a worker that died too late
        return self.finish(directory, evaluating)

    def evaluating(self, directory: RunDirectory) -> Evaluating:
        """What evaluates this run."""
        return Evaluating(self.run, directory, self.trainer.promises_zero_forgetting, self._curves, self._sheets)

    def _restore(self, directory: RunDirectory) -> int:
        """Bring back the tasks learned and evaluated before; returns their number."""
        learned = checkpoint.completed_tasks(directory.checkpoints)
        if learned:
            number = directory.first_to_evaluate(len(learned))
            if number > 0:
                load(self.run, directory, number)
            where = f"after task {number - 1}" if number > 0 else "from the start"
            self.console.say(f"resumed        {where}{self._trained_already(directory, number)}")
            return number
        if not self.options.load_checkpoint:
            return 0
        for task_id in self._loaded_tasks:
            with phase("checkpoints"):
                checkpoint.save_task(
                    directory.checkpoints,
                    self.run.moleflow,
                    task_id,
                    self.run.checkpoint_options,
                    self.trainer.promises_zero_forgetting,
                )
        self.console.say(f"loaded         {self.options.load_checkpoint}, tasks {listed(self._loaded_tasks)}")
        return len(self._loaded_tasks)

    def _trained_already(self, directory: RunDirectory, first: int) -> str:
        missing = missing_tasks(self.run, directory, first)
        tasks = [t for t in range(first, len(self.run.tasks)) if t not in missing]
        return f"; trained already: {listed(tasks)}" if tasks else ""

    def finish(self, directory: RunDirectory, evaluating: Evaluating) -> RunResult:
        """What is left once all is learned and evaluated; it marks the run as finished."""
        return RunResult(directory, *finish(self.run, self._course, directory, evaluating, self._phases))

    def result_of(self, directory: RunDirectory, last: int) -> RunResult:
        """What was written after the task `last`."""
        evaluations = directory.read_evaluation(last)
        assert evaluations is not None
        return RunResult(directory, *evaluations)


def _is_beside_the_cpu(device: torch.device) -> bool:
    """Whether the backbone takes no core from those who read files."""
    return device.type == "cuda"
