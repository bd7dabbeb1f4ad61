"""calibration.json of a run: what is normal for each task, for detectors."""

from __future__ import annotations

import json

from moleflow_fast.detector.calibration import Calibration
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.system.files import reading, write_json


def read_calibration(directory: RunDirectory) -> Calibration | None:
    """As it was written, None in a run older than calibrations.

    Raises:
        CalibrationError: the file is damaged.
    """
    file = directory.calibration
    if not file.exists():
        return None
    try:
        with reading(file):
            content = json.loads(file.read_text())
    except ValueError:
        content = None
    return Calibration.from_json(content, file)


def write_calibration(directory: RunDirectory, calibration: Calibration) -> None:
    write_json(directory.calibration, calibration.to_json())
