"""The run that is exported: on the CPU, with its backbone in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from moleflow_fast.config.threshold_options import Level
from moleflow_fast.detector.detector import Detector
from moleflow_fast.detector.trained_run import TrainedRun
from moleflow_fast.run.building import build_extractor
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.run import Run


class Trained(NamedTuple):
    """A run and its detector, twice: as the run computes, and in plain PyTorch."""

    run: Run
    detector: Detector
    eager: Detector
    notes: list[str]
    """What its owner should know about the exported program."""


def load(
    directory: RunDirectory,
    threshold: Level | None = None,
    false_alarms: Level | None = None,
    data_path: Path | None = None,
) -> Trained:
    """
    Args:
        threshold, false_alarms: as `Detector.load` takes them.
        data_path: where the run's images are now.

    Raises:
        UserError: no complete checkpoint, no calibration and no images to make one.
    """
    trained = TrainedRun(directory, "cpu", data_path)
    run, calibration = trained.run, trained.calibration()
    notes = calibration.warnings + _widen(run, directory)
    if not run.moleflow.config.use_router:
        notes.append("the run was evaluated under true task ids (--no_router); the program routes every image")
    plain = Run(run.context.with_options(backend="eager", precision="fp32"), run.tasks, run.moleflow)
    detector, eager = (Detector(one, calibration, threshold, false_alarms=false_alarms) for one in (run, plain))
    notes += [limit.note for limit in detector.limits.values() if limit.note]
    return Trained(run, detector, eager, notes)


def _widen(run: Run, directory: RunDirectory) -> list[str]:
    """Put the backbone in fp32 where the run had it in less; says so."""
    precision = run.options.backbone_precision
    if precision == "fp32":
        return []
    run.moleflow.extractor = build_extractor(run.context, directory)
    return [
        f"the run's backbone computed in {precision}; the program's computes in fp32, and was compared with a detector "
        f"in fp32. Thresholds are those that were measured in {precision}"
    ]
