"""Labels of the very images that thresholds rest on: the same on every backend, batch, thread count and program."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export.small_detectors import make_run, pictures
from numpy.typing import NDArray

from moleflow_fast.backend import use_backend
from moleflow_fast.config import AblationConfig
from moleflow_fast.detector.calibration import Calibration, TaskCalibration
from moleflow_fast.detector.detector import Detector
from moleflow_fast.detector.normal_scores import median, threshold
from moleflow_fast.detector.result import Result
from moleflow_fast.export import formats, runtimes
from moleflow_fast.export.program import LABELS, DetectorProgram
from moleflow_fast.run.run import Run

IMAGES = 19  # 1 in 20: the quantile is the highest score itself
LIMITS: tuple[dict[str, Any], ...] = ({}, {"false_alarms": 0.25}, {"false_alarms": {"product0": 0.1, "": 0.5}})
ELSEWHERE = """
import sys
sys.path.insert(0, {tests!r})
from detector.test_on_the_threshold import labels_here
print(*labels_here())
"""


def images(task: int) -> NDArray[np.uint8]:
    return pictures(task, IMAGES)


def detectors(run: Run) -> list[Detector]:
    """With each of `LIMITS`, calibrated on the images that are scored."""
    scores = {t: sorted(r.score for r in _scored(run, t)) for t in (0, 1)}
    tasks = {
        t: TaskCalibration(
            t, (f"product{t}",), IMAGES, (), median(of_task), threshold(of_task, left_out=False), 0.0, 1e9, 1e9, None,
            scores=tuple(of_task),
        )
        for t, of_task in scores.items()
    }  # fmt: skip
    return [Detector(run, Calibration(tasks), **options) for options in LIMITS]


def _scored(run: Run, task: int) -> list[Result]:
    unlimited = TaskCalibration(task, ("any",), 1, (), 0.0, 1.0, 0.0, 1e9, 1e9, None)
    both = Calibration({t: replace(unlimited, task_id=t) for t in (0, 1)})
    results = Detector(run, both).predict(images(task))
    assert {r.task_id for r in results} == {task}
    return results


def labels(of: list[Detector]) -> list[str]:
    return [r.label for detector in of for task in (0, 1) for r in detector.predict(images(task))]


def labels_here() -> list[str]:
    """Of detectors that another process has calibrated."""
    run = make_run(AblationConfig(), tasks=2)
    calibrated = torch.load(os.environ["CALIBRATED"], weights_only=False)
    return labels([Detector(run, calibrated, **options) for options in LIMITS])


@pytest.fixture(scope="module")
def run() -> Run:
    return make_run(AblationConfig(), tasks=2)


@pytest.fixture(scope="module")
def calibrated(run: Run) -> list[Detector]:
    return detectors(run)


@pytest.fixture(scope="module")
def expected(calibrated: list[Detector]) -> list[str]:
    found = labels(calibrated)
    counts = [found[i : i + IMAGES].count("defective") for i in range(0, len(found), IMAGES)]
    assert counts == [0, 0, 4, 4, 1, 9]  # above places 15, 18 and 10 of 19
    return found


@pytest.mark.parametrize("batch_size", [1, 5, 19])
@pytest.mark.parametrize("backend", ["eager", "cpp"])
def test_every_backend_and_batch(
    calibrated: list[Detector], expected: list[str], backend: str, batch_size: int
) -> None:
    for detector in calibrated:
        detector.batch_size = batch_size
        detector._run.context.options = replace(detector._run.options, backend=backend)
    assert labels(calibrated) == expected


def test_other_threads_and_instructions(calibrated: list[Detector], expected: list[str], tmp_path: Path) -> None:
    torch.save(calibrated[0].calibration, tmp_path / "calibration.pt")
    script = ELSEWHERE.format(tests=str(Path(__file__).parents[1]))
    environment = {
        **os.environ,
        "ATEN_CPU_CAPABILITY": "default",  # no vector instructions
        "OMP_NUM_THREADS": "3",
        "CALIBRATED": str(tmp_path / "calibration.pt"),
    }
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_exported_programs(calibrated: list[Detector], expected: list[str], tmp_path: Path) -> None:
    both = np.concatenate([images(0), images(1)])
    for number, detector in enumerate(calibrated):
        program = DetectorProgram(detector._run, detector)
        runs = [runtimes.of_torch(program)]
        if number == 1:
            traced = formats.trace(program)
            formats.write_onnx(traced, tmp_path / "detector.onnx")
            runs += [runtimes.of_torch(traced.module()), runtimes.onnxruntime(tmp_path / "detector.onnx")]
        for run in runs:
            with use_backend("eager"):
                answers = run(both)["label"]
            assert [LABELS[label] for label in answers] == expected[number * len(both) : (number + 1) * len(both)]
