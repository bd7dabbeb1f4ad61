"""What a finished run is made of, without its images."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path

import torch

from moleflow_fast.backend import given_backend, given_precision, why_not_precision, why_not_triton
from moleflow_fast.config.options import RunOptions
from moleflow_fast.console import RunConsole
from moleflow_fast.data.datasets import AnomalyImages
from moleflow_fast.data.layouts import GOOD, Sample
from moleflow_fast.detector.calibrate import NormalClass, calibrate
from moleflow_fast.detector.calibration import Calibration, CalibrationError
from moleflow_fast.detector.forks import require_usable
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.scorer import TestClass
from moleflow_fast.extractors import PatchExtractor
from moleflow_fast.extractors.precision import dtype_of
from moleflow_fast.run.context import RunParts
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.trainer import checkpoint

logger = logging.getLogger(__name__)


class TrainedParts(RunParts):
    """The parts of a run after its last complete task; its images are touched for a calibration alone."""

    def __init__(self, directory: RunDirectory, device: str, data_path: Path | None) -> None:
        console = _LoggingConsole(quiet=True)
        super().__init__(_options(directory, device, data_path), console, weights_of=directory)
        require_usable(self.device)
        self.given = given_backend(), given_precision()
        self._leave_unavailable_backend()
        self._leave_unavailable_precision()
        self.directory = directory
        self._written = directory.read_calibration()
        known = None if self._written is None else max(self._written.tasks) + 1
        with self.as_chosen():
            checkpoint.load_tasks(directory.checkpoints, self.moleflow, self.checkpoint_options, known)
            self.retire()

    @cached_property
    def tasks(self) -> list[list[str]]:
        """As they were learned."""
        return list(self.moleflow.task_classes.values())

    @property
    def active_tasks(self) -> list[int]:
        """Those that are calibrated, if any is: a run whose products are changing has others already, or still."""
        if self._written is None:
            return super().active_tasks
        return [t for t in sorted(self._written.tasks) if t < len(self.tasks) and t not in self.options.removed_tasks]

    def calibration(self) -> Calibration:
        """As the run wrote it; else measured on its images, and written for the next time.

        Raises:
            CalibrationError: neither the file nor the images are there.
        """
        if self._written is not None:
            return self._written.of(self.active_tasks)
        measured = self._measured()
        try:
            self.directory.write_calibration(measured)
        except OSError as error:
            logger.warning("%s: the calibration cannot be kept there (%s)", self.directory.path, error)
        return measured

    def normal_class(self, name: str, task_id: int, files: Sequence[Path]) -> NormalClass:
        """Image files of a class that are all normal."""
        samples = [Sample(file, None, 0, GOOD, name) for file in files]
        size = self.options.img_size
        dataset = AnomalyImages(samples, has_masks=False, img_size=size, crp_size=size, view=self.options.view)
        source = self._features_of(dataset, f"features {name}")
        return NormalClass(dataset, TestClass(name, task_id, source, torch.zeros(len(samples)), None))

    def _measured(self) -> Calibration:
        try:
            with self.as_chosen(), closing(self):  # decoding processes, and what is written of the cache
                return calibrate(self, self.active_tasks)
        except CalibrationError:
            raise
        except UserError as error:
            raise CalibrationError(
                f"{self.directory.path} has no calibration.json of all its tasks, and it takes the run's images to "
                f"make one: give the folder they are in now with --data_path (data_path=...). {error}"
            ) from error

    def _narrowed(self, extractor: PatchExtractor) -> PatchExtractor:
        """In the run's precision; how far that is from fp32 the run has measured."""
        extractor.to(dtype_of(self.options.backbone_precision))
        return extractor

    def _leave_unavailable_backend(self) -> None:
        """A run of one kind of machine works on the other too, unless a backend was asked for now."""
        backend, device = self.options.backend, self.device.type
        unavailable = why_not_triton(device) if backend == "triton" else device != "cpu" and backend == "cpp"
        if given_backend() is None and unavailable:
            logger.warning("backend %s, which the run was made with, does not run on %s: auto in fp32", backend, device)
            self.options = dataclasses.replace(self.options, backend="auto", precision="fp32")

    def _leave_unavailable_precision(self) -> None:
        with self.as_chosen():
            reason = why_not_precision(self.device.type)
        if reason is not None:
            logger.warning("no %s here (%s): the flow computes in fp32", self.options.precision, reason)
            self.options = dataclasses.replace(self.options, precision="fp32")


class _LoggingConsole(RunConsole):
    """What a run would print goes to the log: the process is the caller's."""

    def say(self, text: str) -> None:
        logger.info(text)

    def warn(self, text: str) -> None:
        logger.warning(text)


def _options(directory: RunDirectory, device: str, data_path: Path | None) -> RunOptions:
    options = directory.options()
    return dataclasses.replace(
        options,
        device=device,
        backend=given_backend() or options.backend,
        precision=given_precision() or options.precision,
        data_path=options.data_path if data_path is None else str(data_path),
    )
