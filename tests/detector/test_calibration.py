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
from scipy.stats import t as student

from moleflow_fast import Detector
from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.config.options import RunOptions
from moleflow_fast.detector.calibration import (
    Calibration,
    CalibrationError,
    TaskCalibration,
    quantiles,
    quantiles_of_left_out,
)
from moleflow_fast.run import RunResult
from moleflow_fast.run_parts import RunParts
from moleflow_fast.trainer.checkpoint import load_tasks

FINITE = st.floats(-1e6, 1e6, allow_nan=False, width=32)


def task(scores: list[float] | np.ndarray, largest: float = 10.0, other: float | None = 100.0) -> TaskCalibration:
    median, threshold = quantiles(scores)
    return TaskCalibration(0, ("bolt",), len(scores), (), median, threshold, 0.0, 1.0, largest, other)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize("count", [20, 200])
def test_half_at_the_quantile_for_every_product(scale: float, count: int) -> None:
    scores = np.random.default_rng(count).gamma(2, scale, count) - 3 * scale
    calibration = task(scores)
    calibrated = [calibration.calibrated(s) for s in scores]
    assert np.quantile(scores, 0.95, method="weibull") == calibration.threshold
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
        assert calibration.calibrated(scores[0]) == 0.5
        assert calibration.calibrated(scores[0] + 1) > 0.9 > 0.1 > calibration.calibrated(scores[0] - 1)
    warnings = Calibration({0: task([1.0, 2.0])}).warnings
    assert len(warnings) == 1 and "task 0: 2" in warnings[0]
    assert Calibration({0: task([1.0] * 20)}).warnings == []


def test_scores_that_are_not_finite_are_left_out() -> None:
    assert quantiles([1.0, math.inf, math.nan]) == (1.0, 1.0)
    with pytest.raises(CalibrationError, match="no normal image"):
        quantiles([math.inf])


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
    assert fields == {*asdict(task([1.0])), "distance_limit"} - {"compares_distances"}
    for one in (task([1.0]), compared(10, 40)):
        content = json.loads(json.dumps(Calibration({0: one}).to_json()))
        assert Calibration.from_json(content, tmp_path) == Calibration({0: one})


def test_of_a_run(finished: RunResult, detector: Detector, data: Path) -> None:
    """Every task: 0.5 at the quantile of its own normal test images, none of them unknown."""
    for task_id, name in enumerate(("fabric", "gasket", "wood")):
        results = detector.predict(data / name / "test" / "good")
        calibration = detector.calibration.tasks[task_id]
        high = max(r.score for r in results)
        assert calibration.images == len(results) == 3
        assert calibration.calibrated(high) == pytest.approx(0.5, abs=1e-3)
        peaks = [float(r.pixel_map.max()) for r in results]
        assert calibration.pixel_threshold == pytest.approx(max(peaks), rel=1e-5)
        assert all(r.label != "unknown" and r.distance <= calibration.largest_distance * 1.001 for r in results)


@pytest.mark.parametrize("count", [20, 75, 200])
def test_one_new_image_in_twenty_passes(count: int) -> None:
    generator = np.random.default_rng(count)
    passed = [(generator.gamma(2, 1, 400) > quantiles(generator.gamma(2, 1, count))[1]).mean() for _ in range(400)]
    assert np.mean(passed) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("count", [3, 6, 10, 20, 75, 200])
def test_of_scores_that_were_left_out_the_highest_decides_the_less_the_fewer_there_are(count: int) -> None:
    scores = np.random.default_rng(count).normal(300, 40, count)
    deviation = scores.std(ddof=1) * math.sqrt(1 + 1 / count)
    smooth = scores.mean() + student.ppf(0.95, count - 1) * deviation
    median, plain = quantiles(scores)
    share = min(1, 10 / count)
    found = quantiles_of_left_out(scores)
    assert found[0] == median
    assert found[1] == pytest.approx(share * smooth + (1 - share) * plain, abs=0.04 * deviation)


def test_scores_that_were_left_out_are_few_equal_or_not_finite() -> None:
    assert quantiles_of_left_out([4.0, 5.0]) == quantiles([4.0, 5.0])
    assert quantiles_of_left_out([5.0] * 7) == (5.0, 5.0)
    assert quantiles_of_left_out([1.0, 2.0, 3.0, math.inf, math.nan]) == quantiles_of_left_out([1.0, 2.0, 3.0])
    with pytest.raises(CalibrationError, match="no normal image"):
        quantiles_of_left_out([math.nan])


def test_training_images_count_behind_fronts_that_never_saw_them(data: Path, tmp_path: Path) -> None:
    front = AblationConfig(adapter_mode="gaussian", use_whitening_adapter=False)
    calibrated = run(data, tmp_path, ablation=front, num_epochs=1, heatmaps=0).directory.path / "calibration.json"
    content = json.loads(calibrated.read_text())
    counts = [(task["images"], task["cross_fitted"], task["not_held_out"]) for task in content["tasks"]]
    assert counts == [(9, 6, [])] * 3
    parts = RunParts(RunOptions.from_json(json.loads((calibrated.parent / "config.json").read_text())["options"]))
    load_tasks(calibrated.parent / "checkpoints", parts.trainer, parts.checkpoint_options)
    source = parts.training_features(["wood"])
    new = parts.trainer.cross_fitted_maps(2, source)
    seen = parts.trainer.anomaly_maps(source.patches(torch.arange(6)), torch.full((6,), 2))
    assert new.shape == seen.shape and bool((new.mean((1, 2)) > seen.mean((1, 2))).all())


def test_there_and_back(finished: RunResult, detector: Detector) -> None:
    file = finished.directory.path / "calibration.json"
    content = json.loads(file.read_text())
    assert Calibration.from_json(content, file) == detector.calibration
    assert content["tasks"][0]["images"] == 3 and content["tasks"][0]["distance_limit"] > 0
