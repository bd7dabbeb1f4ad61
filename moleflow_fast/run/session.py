"""One continual run from its options to its tables: data, backbone, training, evaluation, pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from moleflow_fast.backend import flow_backend, runs_compiled, why_not_precision
from moleflow_fast.config.known_bad import known_bad
from moleflow_fast.config.method import method
from moleflow_fast.config.options import RunOptions
from moleflow_fast.console import RunConsole
from moleflow_fast.data.check import DataCheck
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.data.stitching import picture_features
from moleflow_fast.detector.calibrate import calibrate
from moleflow_fast.detector.calibration import Calibration
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.by_class import Evaluation, evaluate_all_tasks, evaluate_routing_performance
from moleflow_fast.evaluation.class_heatmap import ClassSheets
from moleflow_fast.evaluation.confusion import draw_confusion
from moleflow_fast.evaluation.forgetting import Forgetting, forgetting
from moleflow_fast.evaluation.scorer import TestClass
from moleflow_fast.evaluation.twins import twins
from moleflow_fast.loggers.curves import Curves, require
from moleflow_fast.run.backbone import keep_weights
from moleflow_fast.run.context import RunParts
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.parallel_tasks import TasksOnWorkers
from moleflow_fast.run.published_tables import PublishedTables
from moleflow_fast.run.ray_session import ray_module, ray_session
from moleflow_fast.run.task_training import train_task
from moleflow_fast.run.ways import keep_ways, stored_ways
from moleflow_fast.system.callers_state import as_at_start
from moleflow_fast.system.phases import Phases, counting, phase
from moleflow_fast.system.tensor_file import CheckpointError
from moleflow_fast.trainer import checkpoint, partial_state
from moleflow_fast.trainer.feature_loader import FeatureLoader
from moleflow_fast.trainer.published_checkpoint import load_published
from moleflow_fast.trainer.task_state import BatchRecord, EpochRecord

_SECONDS_BETWEEN_LOOKS = 0.5
HEADLINE = ("image_auroc", "pixel_auroc", "pixel_ap", "image_ap", "aupro", "routing_accuracy")


@dataclass(frozen=True)
class RunResult:
    """Where a run was written, and its last evaluation."""

    directory: RunDirectory
    routed: Evaluation
    oracle: Evaluation


class ContinualRun(RunParts):
    """A run in the making: its parts, and what is done with them."""

    def __init__(self, options: RunOptions, console: RunConsole | None = None, decoder: Decoder | None = None) -> None:
        super().__init__(options, console, decoder, _drawn_before(options))
        self._curves: Curves | None = None
        self._sheets: ClassSheets | None = None
        self._phases = Phases()
        self._first_loader: FeatureLoader | None = None
        self.directory: RunDirectory | None = None

    def close(self) -> None:
        if self._curves is not None:
            self._curves.close()
        super().close()

    @property
    def way_on(self) -> str:
        """What to do to go on with an interrupted run."""
        return f"add --resume --experiment_name {self.directory.path.name}" if self.directory else "start it again"

    def execute(self) -> RunResult:
        """Train every task, evaluate after each, write everything down."""
        with as_at_start(self.options.device), counting() as self._phases, self.as_chosen(), closing(self):
            return self._execute()

    def evaluate_again(self, directory: RunDirectory) -> tuple[Evaluation, Evaluation]:
        """Routed and oracle evaluation of a finished or interrupted run's last complete task."""
        self.weights_of = directory
        with as_at_start(self.options.device), self.as_chosen(), closing(self), stored_ways(directory, self.device):
            return self._evaluate_again(directory)

    def _execute(self) -> RunResult:
        self._check()
        self.directory = RunDirectory.create(self.options)
        with self.directory.held(), self._drawing(self.directory):
            return self._fill(self.directory)

    def _fill(self, directory: RunDirectory) -> RunResult:
        self._announce(directory)
        if ways := keep_ways(directory, self.device):
            self.console.say(f"products       {ways}")
        with stored_ways(directory, self.device):
            return self._learn_and_finish(directory)

    @contextmanager
    def _drawing(self, directory: RunDirectory) -> Iterator[None]:
        """Sheets that are ordered inside are drawn, also when the run ends early."""
        if self.options.heatmaps == 0:
            yield
            return
        count = self.options.heatmaps
        sheets = ClassSheets(self.scorer, directory.heatmaps, count, self.test_dataset, self.decoder)
        with sheets as self._sheets:
            yield

    def _learn_and_finish(self, directory: RunDirectory) -> RunResult:
        if self.options.loggers:
            self._curves = Curves(self.options.loggers, directory, self.options)
        base_is_frozen = self.trainer.promises_zero_forgetting
        complete = checkpoint.keep_valid(directory.checkpoints, len(self.tasks), base_is_frozen)
        directory.keep_epochs_of(complete)
        partial_state.remove(directory.checkpoints, complete)
        done = self._restore(directory)
        keep_weights(directory, self.extractor, self.weights_of)
        if done and directory.read_evaluation(done - 1) is None:
            evaluate = self._evaluate if self.options.evaluates_a_checkpoint else self._evaluate_if_wanted
            evaluate(directory, done - 1)
        if not self.options.evaluates_a_checkpoint:
            self._learn(directory, done)
            directory.keep_epochs_of(range(len(self.tasks)))  # in order
            partial_state.remove(directory.checkpoints, range(len(self.tasks)))  # of a worker that died too late
        return self._finish(directory)

    def _evaluate_again(self, directory: RunDirectory) -> tuple[Evaluation, Evaluation]:
        self._leave_unfinished_again(directory)
        with self._data_checked():
            _ = self.trainer
        self.console.say(f"flow           {self._flow}")
        tests = self.tests_until(self._load(directory, len(self.tasks))[-1])
        if not tests:
            raise UserError(f"images of {directory.path} are not where they were: give their folder with --data_path")
        return evaluate_all_tasks(self.scorer, tests)

    def _leave_unfinished_again(self, directory: RunDirectory) -> None:
        """Products that are being learned again count as they were learned before."""
        *before, last = self.options.extensions or (None,)
        if last is not None and last.again and len(checkpoint.completed_tasks(directory.checkpoints)) < len(self.tasks):
            self.options = replace(self.options, extensions=tuple(before))

    def _load(self, directory: RunDirectory, tasks: int | None = None) -> list[int]:
        """Bring back all complete tasks, or the first `tasks` of them; returns their ids."""
        with phase("checkpoints"):
            done = checkpoint.load_tasks(directory.checkpoints, self.trainer, self.checkpoint_options, tasks)
        self._require_own_classes(directory.checkpoints)
        self.retire()
        return done

    def _check(self) -> None:
        """Everything that can be wrong before the first file is written."""
        require(self.options.loggers)
        for warning in (*self.options.ablation.warnings, *known_bad(self.options)):
            self.console.warn(warning)
        with self._data_checked():
            _ = self.trainer  # its backbone takes a while
            self._make_first_features()
        if self.options.load_checkpoint and not self.options.resume:
            _ = self._loaded_tasks
        _ = self._flow
        if self.options.parallel_tasks != "off":
            self._check_parallel()

    def _check_parallel(self) -> None:
        if not self.trainer.promises_zero_forgetting:
            raise UserError(
                "--parallel_tasks needs later tasks that depend on the frozen base alone; --enable_slow_stage and "
                "--no_freeze_base change the base: drop them or --parallel_tasks"
            )
        ray_module()

    @cached_property
    def _why_plain_flow(self) -> str | None:
        """Why the flow runs in plain PyTorch, None if it is compiled; an error where that was insisted on in vain."""
        features = torch.empty(0, device=self.device)
        flow = self.trainer.nf_model
        reason = flow.runner.why_not_compiled(flow.expert(None).flow, features)
        runs_compiled(features, why_not=reason, backend=flow_backend(self.device))
        return reason

    @cached_property
    def _flow(self) -> str:
        """What computes the flow, in words; an error where it cannot compute as asked."""
        plain = self._why_plain_flow
        self._check_precision()
        precision = self.options.precision
        if precision == "tf32" and self.device.type == "cpu":
            precision = "fp32 (tf32 is for a GPU)"
        steps = "as CUDA graphs" if self.trainer.steps_are_graphs else "one by one"
        how = f"compiled ({flow_backend(self.device)})" if plain is None else f"plain PyTorch: {plain}"
        return f"{how}; precision {precision}, training steps {steps}"

    def _check_precision(self) -> None:
        reason = why_not_precision(self.device.type, self._why_plain_flow)
        if reason:
            raise UserError(
                f"--precision {self.options.precision} needs the flow on Triton kernels on a GPU, but {reason}; "
                "take --precision fp32"
            )

    @contextmanager
    def _data_checked(self) -> Iterator[None]:
        """In the block files are read by other processes; at its end all of them are known to be sound.

        What is wrong with them comes before what is found wrong in the block.
        """
        missing = [t for t in self.active_tasks if not self.has_images(t)]
        if missing:
            self.console.warn(f"images of {self._names(missing)} are not there: they are not evaluated again")
        by_source: dict[tuple[str, Path], list[list[str]]] = {}
        for task in (self.tasks[t] for t in self.active_tasks if t not in missing):
            for source in self.sources_of(task[0]):
                by_source.setdefault(source, []).append(task)
        checks = [
            DataCheck(layout, root, tasks, self.decoder, self.frame, self.wants_pictures)
            for (layout, root), tasks in by_source.items()
        ]
        try:
            yield
        except UserError:
            self._finish_checks(checks)
            raise
        self._finish_checks(checks)

    def _make_first_features(self) -> None:
        """Those of a new run's first task, by a device that would wait until all files are read."""
        options = self.options
        new = not (options.resume or options.load_checkpoint)
        if new and _is_beside_the_cpu(self.device):
            self._first_loader = self.training_loader(0)

    def _finish_checks(self, checks: Sequence[DataCheck]) -> None:
        with phase("check"):
            reports = [check.finish() for check in checks]
        for warning in (warning for report in reports for warning in report.warnings):
            self.console.warn(warning)

    def _names(self, tasks: Sequence[int]) -> str:
        return ", ".join(name for t in tasks for name in self.tasks[t])

    def _announce(self, directory: RunDirectory) -> None:
        data = f"{self.data_root} (synthetic demo set)" if self.options.dataset == "demo" else str(self.data_root)
        self.console.say(f"run directory  {directory.path}")
        self.console.say(f"data           {data}: {len(self.classes)} classes in {len(self.active_tasks)} tasks")
        self.console.say(
            f"backbone       {self.options.backbone_name}, weights: {self.extractor.weights_origin}, "
            f"patches {self.extractor.embed_dim} wide, on {self.device}"
        )
        if self.parity is not None:
            self.console.say(f"               in {self.parity}")
        self.console.say(f"method         {method(self.options)}")
        self.console.say(f"flow           {self._flow}")

    def _restore(self, directory: RunDirectory) -> int:
        """Bring back the tasks learned and evaluated before; returns their number."""
        learned = checkpoint.completed_tasks(directory.checkpoints)
        if learned:
            number = directory.first_to_evaluate(len(learned))
            if number > 0:
                self._load(directory, number)
            where = f"after task {number - 1}" if number > 0 else "from the start"
            self.console.say(f"resumed        {where}{self._trained_already(directory, number)}")
            return number
        if not self.options.load_checkpoint:
            return 0
        for task_id in self._loaded_tasks:
            with phase("checkpoints"):
                checkpoint.save_task(directory.checkpoints, self.trainer, task_id, self.checkpoint_options)
        self.console.say(
            f"loaded         {self.options.load_checkpoint}, tasks {', '.join(map(str, self._loaded_tasks))}"
        )
        return len(self._loaded_tasks)

    def _trained_already(self, directory: RunDirectory, first: int) -> str:
        missing = self._missing(directory, first)
        tasks = [t for t in range(first, len(self.tasks)) if t not in missing]
        return f"; trained already: {_listed(tasks)}" if tasks else ""

    @cached_property
    def _loaded_tasks(self) -> list[int]:
        """Tasks that came from `--load_checkpoint`."""
        path = Path(self.options.load_checkpoint or "")
        ours = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        if checkpoint.completed_tasks(ours):
            done = checkpoint.load_tasks(ours, self.trainer, self.checkpoint_options)
            self._require_own_classes(path)
            return done
        done = load_published(path, self.trainer)
        if done != list(range(len(done))) or len(done) > len(self.tasks):
            raise CheckpointError(
                f"{path} holds tasks {', '.join(map(str, done))}, but --task_classes and --cl_scenario make tasks 0 to "
                f"{len(self.tasks) - 1}; name the classes that it was trained on, in order"
            )
        for task_id in done:
            self.trainer.task_classes[task_id] = self.tasks[task_id]
            self.trainer.build_prototype(task_id, picture_features(self.training_features(self.tasks[task_id])))
        return done

    def _require_own_classes(self, path: Path) -> None:
        for task_id, classes in self.trainer.task_classes.items():
            asked = self.tasks[task_id] if task_id < len(self.tasks) else []
            if classes != asked:
                raise CheckpointError(
                    f"{path}: task {task_id} learned {', '.join(classes)}, but the options make it "
                    f"{', '.join(asked) or 'nothing'}; give the same --task_classes and --cl_scenario"
                )

    # -- learning ------------------------------------------------------------------------------------

    def _learn(self, directory: RunDirectory, first: int) -> None:
        """Train the tasks from `first` on, and evaluate after each."""
        later = [t for t in self._missing(directory, first) if t > 0]
        if self.options.parallel_tasks == "off" or not later:
            return self._learn_here(directory, range(first, len(self.tasks)))
        with ray_session(self.options.ray_address) as ray:
            self._learn_here(directory, range(first, 1))
            self._learn_on_workers(TasksOnWorkers(ray, self, directory), directory, max(first, 1))
        return None

    def _missing(self, directory: RunDirectory, first: int) -> list[int]:
        return [t for t in range(first, len(self.tasks)) if not checkpoint.is_complete(directory.checkpoints, t)]

    def _learn_here(self, directory: RunDirectory, tasks: range) -> None:
        missing = self._missing(directory, tasks.start)
        for task_id in tasks:
            if task_id in missing:
                self._train(directory, task_id)
            else:
                self._bring_back(directory, task_id)
            self._evaluate_if_wanted(directory, task_id)

    def _learn_on_workers(self, workers: TasksOnWorkers, directory: RunDirectory, first: int) -> None:
        for task_id in self._missing(directory, first):
            workers.start(task_id)
        self.console.say(f"workers        for tasks {_listed(workers.tasks)}, {workers.description}")
        for task_id in range(first, len(self.tasks)):
            self._wait_for(workers, directory, task_id)
            self._bring_back(directory, task_id)  # now and not before: routing knows the tasks so far
            self._evaluate_if_wanted(directory, task_id)

    def _wait_for(self, workers: TasksOnWorkers, directory: RunDirectory, task_id: int) -> None:
        if task_id not in workers.tasks:
            return
        with phase("idle"), self.console.training_elsewhere({t: self._title(t) for t in workers.tasks}) as show:
            while task_id in workers.tasks:
                for done in workers.finished(_SECONDS_BETWEEN_LOOKS):
                    self._say_trained(directory, done)
                for last in (records[-1] for t in workers.tasks if (records := directory.epochs_of(t))):
                    show(last)

    def _train(self, directory: RunDirectory, task_id: int) -> None:
        kernels = self.kernels  # compiled while features are made
        loader = self._first_loader or self.training_loader(task_id)
        self._first_loader = None
        if self.options.parallel_tasks == "off":
            self.read_ahead(self.tasks[task_id], next(iter(self._missing(directory, task_id + 1)), None))
        if kernels is not None:
            with phase("compiling"):
                kernels.wait()
        with directory.task_held(task_id), self.console.training(self._title(task_id)) as show:

            def listen(record: EpochRecord | BatchRecord) -> None:
                show(record)
                if isinstance(record, EpochRecord) and self._curves:
                    self._curves.epoch(record)

            started = time.perf_counter()
            train_task(self, directory, task_id, loader, listen)
        self._say_trained(directory, task_id, time.perf_counter() - started)

    def _bring_back(self, directory: RunDirectory, task_id: int) -> None:
        """Take in a task that was trained before or elsewhere."""
        with phase("checkpoints"):
            checkpoint.load_task(directory.checkpoints, self.trainer, task_id, self.checkpoint_options)
        self._require_own_classes(directory.checkpoints)
        self.retire()
        if self._curves:
            for record in directory.epochs_of(task_id):
                self._curves.epoch(record)

    def _say_trained(self, directory: RunDirectory, task_id: int, total: float | None = None) -> None:
        """Args: total: seconds from cached features to the checkpoint, where they were measured here."""
        records = directory.epochs_of(task_id)
        taken = "" if total is None else f", {total:.1f} s"
        if not records:
            self.console.say(f"{self._title(task_id)}: its Gaussian front alone, no epochs{taken}")
            return
        seconds = sum(r.seconds for r in records)
        rate = sum(r.images for r in records) / max(seconds, 1e-9)
        skipped = sum(r.skipped_batches for r in records)
        note = f", {skipped} batches skipped" if skipped else ""
        measured = total is not None and self.options.ablation.has_front
        front = f", with its Gaussian front {total:.1f} s" if measured else ""
        self.console.say(
            f"{self._title(task_id)}: loss {records[-1].loss:.2f}, {seconds:.1f} s, {rate:.0f} images/s{front}{note}"
        )

    def _title(self, task_id: int) -> str:
        return f"task {task_id} {', '.join(self.tasks[task_id])}"

    # -- evaluation ----------------------------------------------------------------------------------

    def _evaluate_if_wanted(self, directory: RunDirectory, task_id: int) -> None:
        if task_id == len(self.tasks) - 1 or not self.options.final_eval_only:
            self._evaluate(directory, task_id)

    def _evaluate(self, directory: RunDirectory, task_id: int) -> None:
        tests = self.tests_until(task_id)
        if not self.trainer.promises_zero_forgetting:
            self.scorer.forget_maps(tests)
        routed, oracle = evaluate_all_tasks(self.scorer, tests)
        with phase("tables"):
            directory.write_evaluation(task_id, (routed, oracle))
            if self.options.published_csv:
                self._published(directory).after_task(task_id, routed)
        if self._curves:
            self._curves.evaluation(task_id, routed)
            self._curves.evaluation(task_id, oracle)
        self.console.evaluation(f"after task {task_id}", routed, oracle)
        with phase("pictures"):  # drawn while the next task trains
            self._draw_classes([test for test in tests if test.task_id == task_id])

    def _published(self, directory: RunDirectory) -> PublishedTables:
        return PublishedTables(directory.path, self.tasks, self.options.num_epochs)

    def _finish(self, directory: RunDirectory) -> RunResult:
        tasks = self.tasks[: len(self.trainer.task_classes)]
        history = [directory.read_evaluation(t) for t in range(len(tasks))]
        assert history[-1] is not None
        routed, oracle = history[-1]
        under = {
            "routed": _forgetting([pair and pair[0] for pair in history]),
            "oracle": _forgetting([pair and pair[1] for pair in history]),
        }
        if len(tasks) > 1:
            self.console.forgetting(tasks, under)
        _, confusion = evaluate_routing_performance(self.scorer, self.tests_until(len(tasks) - 1))
        for warning in twins(confusion, tasks):
            self.console.warn(warning)
        with phase("pictures"):
            self._draw(directory, tasks, confusion)
        if self.options.published_csv:
            self._published(directory).final(routed, self.options.ablation)
        with phase("calibration"):
            self._calibrate(directory)
        with phase("pictures"):
            if self._sheets is not None:
                self._sheets.finish()
        with phase("cache"):
            self.cache.settle()
        directory.write_summary(
            {
                "tasks": tasks,
                "backbone_weights": self.extractor.weights_origin,
                "backbone_parity": None if self.parity is None else asdict(self.parity),
                "routing_confusion": confusion.tolist(),
                "routed": {name: _plain(routed.mean(name)) for name in HEADLINE},
                "oracle": {name: _plain(oracle.mean(name)) for name in HEADLINE},
                "forgetting": {
                    ids: {
                        "per_task": [_plain(value) for value in f.measure],
                        "bwt_per_task": [_plain(value) for value in f.transfer],
                        "mean": _plain(f.mean_measure),
                        "bwt": _plain(f.bwt),
                    }
                    for ids, f in under.items()
                },
                **self._notes(),
                "seconds": {name: round(seconds, 3) for name, seconds in self._phases.seconds().items()},
            }
        )
        self.console.phases(self._phases.seconds())
        self.console.say(f"written to     {directory.path} (tables, checkpoints, heatmaps/, routing_confusion.png)")
        return RunResult(directory, routed, oracle)

    def _calibrate(self, directory: RunDirectory) -> None:
        """What a detector needs to know, while maps and images are there."""
        calibration = self._calibration(directory)
        for warning in calibration.warnings:
            self.console.warn(warning)
        directory.write_calibration(calibration)

    def _calibration(self, directory: RunDirectory) -> Calibration:
        return calibrate(self, [t for t in self.active_tasks if t in self.trainer.task_classes])

    def _notes(self) -> dict[str, Any]:
        """What the summary says besides."""
        return {}

    # -- pictures and diagnostics --------------------------------------------------------------------

    def _draw(self, directory: RunDirectory, tasks: list[list[str]], confusion: torch.Tensor) -> None:
        draw_confusion(directory.path / "routing_confusion.png", confusion.numpy(), tasks)
        self._draw_classes(self.tests_until(len(tasks) - 1))

    def _draw_classes(self, tests: Sequence[TestClass]) -> None:
        if self._sheets is not None:
            for test in filter(len, tests):
                self._sheets.draw(test)


def _drawn_before(options: RunOptions) -> RunDirectory | None:
    """The run that has drawn a random backbone for this one: itself when it goes on, or the one it starts from."""
    if options.resume:
        return RunDirectory(Path(options.log_dir) / options.run_name)
    if options.load_checkpoint is None or not (options.random_backbone or options.dataset == "demo"):
        return None
    path = Path(options.load_checkpoint)
    return RunDirectory(path.parent if path.name == "checkpoints" else path)


def _forgetting(evaluations: Sequence[Evaluation | None]) -> Forgetting:
    """Of image AUROC; tasks that came from a loaded checkpoint have no evaluation of their own."""
    history = [
        [] if e is None else [e.of_task(j, "image_auroc") for j in range(t + 1)] for t, e in enumerate(evaluations)
    ]
    return forgetting(history)


def _is_beside_the_cpu(device: torch.device) -> bool:
    """Whether the backbone takes no core from those who read files."""
    return device.type == "cuda"


def _plain(value: float) -> float | None:
    """NaN is not JSON."""
    return None if math.isnan(value) else value


def _listed(tasks: Sequence[int]) -> str:
    return ", ".join(map(str, tasks))
