"""The run that is exported: on the CPU, with its backbone in fp32."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import NamedTuple

from moleflow_fast.config.threshold_options import Level
from moleflow_fast.detector.detector import Detector
from moleflow_fast.detector.trained_run import TrainedParts
from moleflow_fast.run.context import RunParts
from moleflow_fast.run.directory import RunDirectory


class Trained(NamedTuple):
    """A run and its detector, twice: as the run computes, and in plain PyTorch."""

    parts: TrainedParts
    detector: Detector
    eager: Detector
    notes: list[str]
    """What its owner should know about the exported program."""


def load(
    run: RunDirectory,
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
    parts = TrainedParts(run, "cpu", data_path)
    calibration = parts.calibration()
    notes = calibration.warnings + _widen(parts)
    if not parts.moleflow.config.use_router:
        notes.append("the run was evaluated under true task ids (--no_router); the program routes every image")
    eager = copy.copy(parts)
    eager.options = dataclasses.replace(parts.options, backend="eager", precision="fp32")
    detector, plain = (Detector(p, calibration, threshold, false_alarms=false_alarms) for p in (parts, eager))
    notes += [limit.note for limit in detector.limits.values() if limit.note]
    return Trained(parts, detector, plain, notes)


def _widen(parts: TrainedParts) -> list[str]:
    """Put the backbone in fp32 where the run had it in less; says so."""
    precision = parts.options.backbone_precision
    if precision == "fp32":
        return []
    options = dataclasses.replace(parts.options, backbone_precision="fp32")
    wide = RunParts(options, parts.console, weights_of=parts.directory)
    parts.extractor = parts.moleflow.extractor = wide.extractor
    return [
        f"the run's backbone computed in {precision}; the program's computes in fp32, and was compared with a detector "
        f"in fp32. Thresholds are those that were measured in {precision}"
    ]
