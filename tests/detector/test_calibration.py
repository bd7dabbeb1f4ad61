"""What calibrated scores mean."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from run.small_runs import run

from moleflow_fast import Detector
from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.config.options import RunOptions
from moleflow_fast.detector.calibration import Calibration, TaskCalibration
from moleflow_fast.detector.normal_scores import ROUNDING, CalibrationError, median, threshold
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.run import Run
from moleflow_fast.run.session import RunResult
from moleflow_fast.trainer.checkpoint import load_tasks
from moleflow_fast.trainer.cross_fitting import cross_fitted_maps

FINITE = st.floats(-1e6, 1e6, allow_nan=False, width=32)


def task(scores: list[float] | np.ndarray, largest: float = 10.0, other: float | None = 100.0) -> TaskCalibration:
    middle, high = median(scores), threshold(scores, left_out=False)
    return TaskCalibration(0, ("bolt",), len(scores), (), middle, high, 0.0, 1.0, largest, other)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e5])
@pytest.mark.parametrize("count", [20, 200])
def test_half_at_the_quantile_for_every_product(scale: float, count: int) -> None:
    scores = np.random.default_rng(count).gamma(2, scale, count) - 3 * scale
    calibration = task(scores)
    calibrated = [calibration.calibrated(s) for s in scores]
    tenth_of_gap = np.diff(np.sort(scores)).max() / 10
    assert np.quantile(scores, 0.95, method="weibull") == pytest.approx(calibration.threshold, abs=tenth_of_gap)
    assert calibration.calibrated(calibration.threshold) == 0.5
    assert sum(c > 0.5 for c in calibrated) == count // 20
    assert calibration.calibrated(calibration.median) == pytest.approx(0.25)
    assert calibration.calibrated(2 * calibration.threshold - calibration.median) == pytest.approx(0.75)


@given(st.lists(FINITE, min_size=1, max_size=30), st.lists(FINITE, min_size=2, max_size=20))
def test_monotone_and_within_bounds(normal: list[float], scores: list[float]) -> None:
    calibration = task(normal)
    calibrated = [calibration.calibrated(s) for s in sorted(scores)]
    assert calibrated == sorted(calibrated)
    assert all(0 <= c <= 1 for c in calibrated)


def test_far_scores_stay_apart() -> None:
    calibration = task(np.linspace(0, 1, 100))
    values = [calibration.calibrated(10.0**k) for k in range(0, 12)]
    assert all(a < b < 1 for a, b in zip(values, values[1:], strict=False))
    assert calibration.calibrated(math.inf) == 1 and calibration.calibrated(-math.inf) == 0


def test_few_images_and_constant_scores() -> None:
    for scores in ([5.0], [5.0] * 30, [0.0] * 3):
        calibration = task(scores)
        assert calibration.calibrated(scores[0]) == 0.25
        assert calibration.calibrated(scores[0] + 1) > 0.9 > 0.1 > calibration.calibrated(scores[0] - 1)
    warnings = Calibration({0: task([1.0, 2.0])}).warnings
    assert len(warnings) == 1 and "task 0: 2" in warnings[0]
    assert Calibration({0: task([1.0] * 20)}).warnings == []


def test_scores_that_are_not_finite_are_left_out() -> None:
    assert median([1.0, math.inf, math.nan]) == 1
    assert threshold([1.0, math.inf, math.nan], left_out=False) == 1 + ROUNDING
    with pytest.raises(CalibrationError, match="no normal image"):
        median([math.inf])


def test_limits_of_routing() -> None:
    assert task([1.0], 10, 90).distance_limit == 50
    assert task([1.0], 10, 11).distance_limit == 15  # own images stay inside by half
    assert task([1.0], 10, 5).distance_limit == 15
    assert task([1.0], 10, None).distance_limit == 50
    assert task([1.0], 10, 90).knows(50)
    assert not task([1.0], 10, 90).knows(50.1) and not task([1.0], 10, 90).knows(math.nan)


def compared(largest: float, other: float | None) -> TaskCalibration:
    return replace(task([1.0], largest, other), compares_distances=True)


def test_limits_where_distances_are_compared() -> None:
    calibration = compared(10, 40)
    assert calibration.knows(11, 11.1)  # as far as its own may lie, whatever else is near
    assert calibration.knows(20, 28) and not calibration.knows(20, 27)  # clearly nearer than the next, or not
    assert calibration.knows(40) and not calibration.knows(40.1)  # never farther than images of other products come
    assert not calibration.knows(math.nan, 1) and not calibration.knows(20, math.nan)
    assert compared(10, 5).knows(11, 1) and not compared(10, 5).knows(11.1)
    assert compared(10, None).knows(50) and not compared(10, None).knows(50.1)


def test_files_of_the_published_rule_stay_as_they_are(tmp_path: Path) -> None:
    fields = set(Calibration({0: task([1.0])}).to_json()["tasks"][0])
    later = {"compares_distances", "scores", "grey_level"}
    assert fields == {*asdict(task([1.0])), "distance_limit"} - later
    with_scores = replace(task([1.0]), scores=(0.5, 1.0), grey_level=0.1)
    for one in (task([1.0]), compared(10, 40), with_scores):
        content = json.loads(json.dumps(Calibration({0: one}).to_json()))
        assert Calibration.from_json(content, tmp_path) == Calibration({0: one})


@pytest.mark.parametrize("normal", [[], {"0": []}, {"0": {"scores": ["high"]}}, {"0": {"scores": 3}}, {"0": {"x": 1}}])
def test_damaged_scores_are_said(normal: object, tmp_path: Path) -> None:
    content = {**json.loads(json.dumps(Calibration({0: task([1.0])}).to_json())), "normal": normal}
    with pytest.raises(CalibrationError, match="is damaged"):
        Calibration.from_json(content, tmp_path)


def test_of_a_run(finished: RunResult, detector: Detector, data: Path) -> None:
    """Every task: 0.5 just above the highest of its own normal test images, none of them unknown."""
    for task_id, name in enumerate(("fabric", "gasket", "wood")):
        results = detector.predict(data / name / "test" / "good")
        calibration = detector.calibration.tasks[task_id]
        high = max(r.score for r in results)
        assert calibration.images == len(results) == 3
        second, _ = sorted((r.score for r in results), reverse=True)[1:]
        assert calibration.threshold == pytest.approx(high + (high - second) / 10, rel=2 * ROUNDING)
        assert calibration.threshold > high and calibration.calibrated(high) < 0.5
        assert calibration.scores == pytest.approx(sorted(r.score for r in results), rel=1e-5)
        assert all(calibration.pixel_threshold > r.pixel_map.max() for r in results)
        assert all(r.label != "unknown" and r.distance <= calibration.largest_distance * 1.001 for r in results)


def test_training_images_count_behind_fronts_that_never_saw_them(data: Path, tmp_path: Path) -> None:
    front = AblationConfig(adapter_mode="gaussian", use_whitening_adapter=False)
    calibrated = run(data, tmp_path, ablation=front, num_epochs=1, heatmaps=0).directory.path / "calibration.json"
    content = json.loads(calibrated.read_text())
    counts = [(task["images"], task["cross_fitted"], task["not_held_out"]) for task in content["tasks"]]
    assert counts == [(9, 6, [])] * 3
    options = json.loads((calibrated.parent / "config.json").read_text())["options"]
    trained = Run(RunContext(RunOptions.from_json(options)))
    load_tasks(calibrated.parent / "checkpoints", trained.moleflow, trained.checkpoint_options)
    source = trained.features.training(["wood"])
    new = cross_fitted_maps(trained.moleflow, 2, source)
    seen = trained.moleflow.anomaly_maps(source.patches(torch.arange(6)), torch.full((6,), 2))
    assert new.shape == seen.shape and bool((new.mean((1, 2)) > seen.mean((1, 2))).all())


def test_there_and_back(finished: RunResult, detector: Detector) -> None:
    file = finished.directory.path / "calibration.json"
    content = json.loads(file.read_text())
    assert Calibration.from_json(content, file) == detector.calibration
    assert content["tasks"][0]["images"] == 3 and content["tasks"][0]["distance_limit"] > 0
