"""A finished run as a detector needs it: without a trainer, and without its images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from moleflow_fast.backend import given_backend, given_precision, why_not_precision, why_not_triton
from moleflow_fast.config.options import RunOptions
from moleflow_fast.data.layouts import GOOD, Sample
from moleflow_fast.detector.calibrate import NormalClass, calibrate
from moleflow_fast.detector.calibration import Calibration, CalibrationError
from moleflow_fast.detector.calibration_file import read_calibration, write_calibration
from moleflow_fast.detector.forks import require_usable
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.scorer import TestClass
from moleflow_fast.extractors.precision import dtype_of
from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.run.building import build_extractor, build_moleflow, checkpoint_options
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.run import Run
from moleflow_fast.run.tasks import Tasks
from moleflow_fast.trainer import checkpoint

logger = logging.getLogger(__name__)


class TrainedRun:
    """A run after its last complete task; its images are touched for a calibration alone.

    Attributes:
        run: its pieces.
        given: backend and precision that were asked for when it was loaded.
    """

    def __init__(self, directory: RunDirectory, device: str, data_path: Path | None) -> None:
        options = _options(directory, device, data_path)
        context = RunContext(options, _LoggingConsole(quiet=True))
        require_usable(context.device)
        self.directory = directory
        self.given = given_backend(), given_precision()
        self._written = read_calibration(directory)
        context = _without_unavailable_precision(_without_unavailable_backend(context))
        with context.as_chosen():
            moleflow = self._loaded(context)
        tasks = _tasks_of(context.options, moleflow, self._written)
        tasks.retire(moleflow.router)
        self.run = Run(context, tasks, moleflow)

    def close(self) -> None:
        """End what reads its images and keeps their features."""
        self.run.context.close()

    def calibration(self) -> Calibration:
        """As the run wrote it; else measured on its images, and written for the next time.

        Raises:
            CalibrationError: neither the file nor the images are there.
        """
        if self._written is not None:
            return self._written.of(self.run.tasks.active)
        measured = self._measured()
        try:
            write_calibration(self.directory, measured)
        except OSError as error:
            logger.warning("%s: the calibration cannot be kept there (%s)", self.directory.path, error)
        return measured

    def normal_class(self, name: str, task_id: int, files: Sequence[Path]) -> NormalClass:
        """Image files of a class that are all normal."""
        dataset = self.run.images.normal([Sample(file, None, 0, GOOD, name) for file in files])
        source = self.run.features.of(dataset, f"features {name}")
        return NormalClass(dataset, TestClass(name, task_id, source, torch.zeros(len(files)), None))

    def _loaded(self, context: RunContext) -> MoLEFlow:
        """In the run's precision of the backbone; how far that is from fp32 the run has measured."""
        options = context.options
        extractor = build_extractor(context, self.directory)
        extractor.to(dtype_of(options.backbone_precision))
        moleflow = build_moleflow(options, extractor, context.device)
        known = None if self._written is None else max(self._written.tasks) + 1
        checkpoint.load_tasks(self.directory.checkpoints, moleflow, checkpoint_options(options, extractor), known)
        return moleflow

    def _measured(self) -> Calibration:
        try:
            with self.run.context.as_chosen(), closing(self):  # decoding processes, and what is written of the cache
                return calibrate(self.run, self.run.tasks.active)
        except CalibrationError:
            raise
        except UserError as error:
            raise CalibrationError(
                f"{self.directory.path} has no calibration.json of all its tasks, and it takes the run's images to "
                f"make one: give the folder they are in now with --data_path (data_path=...). {error}"
            ) from error


def _options(directory: RunDirectory, device: str, data_path: Path | None) -> RunOptions:
    options = directory.options()
    return replace(
        options,
        device=device,
        backend=given_backend() or options.backend,
        precision=given_precision() or options.precision,
        data_path=options.data_path if data_path is None else str(data_path),
    )


def _tasks_of(options: RunOptions, moleflow: MoLEFlow, written: Calibration | None) -> Tasks:
    """As they were learned; those count that are calibrated, if any is.

    A run whose products are changing has others already, or still.
    """
    learned = list(moleflow.task_classes.values())
    if written is None:
        return Tasks(options, learned)
    active = [t for t in sorted(written.tasks) if t < len(learned) and t not in options.removed_tasks]
    return Tasks(options, learned, active)


def _without_unavailable_backend(context: RunContext) -> RunContext:
    """A run of one kind of machine works on the other too, unless a backend was asked for now."""
    backend, device = context.options.backend, context.device.type
    unavailable = why_not_triton(device) if backend == "triton" else device != "cpu" and backend == "cpp"
    if given_backend() is not None or not unavailable:
        return context
    logger.warning("backend %s, which the run was made with, does not run on %s: auto in fp32", backend, device)
    return context.with_options(backend="auto", precision="fp32")


def _without_unavailable_precision(context: RunContext) -> RunContext:
    with context.as_chosen():
        reason = why_not_precision(context.device.type)
    if reason is None:
        return context
    logger.warning("no %s here (%s): the flow computes in fp32", context.options.precision, reason)
    return context.with_options(precision="fp32")


class _LoggingConsole(RunConsole):
    """What a run would print goes to the log: the process is the caller's."""

    def say(self, text: str) -> None:
        logger.info(text)

    def warn(self, text: str) -> None:
        logger.warning(text)
