"""Limits of defective images as people ask for them."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run.small_runs import CLASSES, rows

from moleflow_fast import Detector
from moleflow_fast.cli.predict import build_parser, main
from moleflow_fast.config.threshold_options import Level, separated
from moleflow_fast.detector.calibration import Calibration, CalibrationError, TaskCalibration
from moleflow_fast.detector.normal_scores import median, threshold
from moleflow_fast.detector.thresholds import Limit, limits_of
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.metrics import best_f1
from moleflow_fast.run.session import RunResult


def task(task_id: int, names: tuple[str, ...], images: int, scale: float) -> TaskCalibration:
    scores = np.sort(np.random.default_rng(task_id).normal(300, scale, images).astype(np.float32)).astype(float)
    return TaskCalibration(
        task_id, names, images, (), median(scores), threshold(scores, left_out=False), 0.0, 1.0, 10.0, 100.0,
        scores=tuple(scores),
    )  # fmt: skip


LINE = Calibration({0: task(0, ("bolt",), 200, 40.0), 2: task(2, ("nut", "ring"), 99, 5.0)})


def limits(threshold: Level | None = None, false_alarms: Level | None = None) -> dict[int, Limit]:
    return limits_of(LINE, threshold, false_alarms)


def passed(task_id: int, limit: Limit) -> float:
    scores = LINE.tasks[task_id].scores
    return sum(limit.passed_by(score) for score in scores) / len(scores)


def test_one_number_for_all_or_one_by_product() -> None:
    plain = limits()
    assert {t: limit.calibrated for t, limit in plain.items()} == {0: 0.5, 2: 0.5}
    assert plain[0].score == np.float32(LINE.tasks[0].threshold)
    assert limits(0.5) == plain == limits({}) == limits(None, 0.05)
    strict = limits({"nut": 0.3})
    assert strict[0] == plain[0] and strict[2].calibrated == 0.3 and strict[2].score < plain[2].score
    both = limits({"": 0.9, "ring": 0.3})
    assert both[0].calibrated == 0.9 and both[2] == strict[2]
    mixed = limits({"bolt": 0.9}, {"": 0.1})
    assert mixed[0] == both[0] and passed(2, mixed[2]) == pytest.approx(0.1, abs=0.01)
    assert limits(0.0)[0].passed_by(-1e30) and not limits(1.0)[0].passed_by(1e30)


@pytest.mark.parametrize("rate", [0.3, 0.1, 0.05, 0.02, 0.01])
def test_as_many_false_alarms_as_were_asked_for(rate: float) -> None:
    for task_id, limit in limits(None, rate).items():
        assert passed(task_id, limit) == pytest.approx(rate, abs=1.1 / len(LINE.tasks[task_id].scores))
        assert not limit.note
        assert LINE.tasks[task_id].calibrated(limit.score) == pytest.approx(limit.calibrated, abs=1e-5)


def test_fewer_than_the_images_can_tell_is_the_fewest_and_said() -> None:
    few = limits(None, {"bolt": 0.001, "nut": 0.02})
    second, highest = LINE.tasks[0].scores[-2:]
    assert few[0].score == pytest.approx(highest + (highest - second) / 10)
    assert "200 normal images of bolt cannot tell 0.001 false alarms, only 1 in 201" in few[0].note
    assert not few[2].note


def test_a_raw_score_is_the_lowest_that_is_defective() -> None:
    for score in LINE.tasks[0].scores[-5:]:
        limit = limits({"bolt": score})[0]
        assert limit.passed_by(score) and not limit.note
        assert passed(0, limit) == sum(s >= score for s in LINE.tasks[0].scores) / 200
        assert limit.calibrated == pytest.approx(LINE.tasks[0].calibrated(limit.score), abs=1e-5)
    assert "most normal images of bolt have raw scores above 2: their median" in limits({"bolt": 2})[0].note
    alone = Calibration({0: LINE.tasks[0]})
    assert limits_of(alone, 321.5, None)[0] == limits({"bolt": 321.5})[0]


@pytest.mark.parametrize(
    ("threshold", "false_alarms", "message"),
    [
        (2, None, "--threshold must lie in 0..1, .* a raw score is of one product: bolt=2"),
        ({"bolt": float("nan")}, None, "--threshold must lie in 0..1"),
        ({"blot": 0.3}, None, "--threshold blot=...: the run knows no blot; it knows bolt, nut, ring"),
        (None, {"blot": 0.3}, "--false_alarms blot=...: the run knows no blot"),
        (None, 0, "--false_alarms must lie between 0 and 1, 0.01 is one normal image in a hundred; got 0"),
        (None, 5, "--false_alarms must lie between 0 and 1"),
        (0.5, 0.05, "say the same thing: give one of them"),
        ({"bolt": 0.5}, {"bolt": 0.05}, "bolt: two limits for one task"),
        ({"nut": 0.5, "ring": 0.6}, None, "nut, ring: two limits for one task; .* one number for products"),
    ],
)
def test_what_cannot_be(threshold: Level | None, false_alarms: Level | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        limits(threshold, false_alarms)


def test_a_calibration_without_scores(finished: RunResult, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished.directory.path, tmp_path / "old", ignore=shutil.ignore_patterns("*.png")))
    file = copy / "calibration.json"
    content = json.loads(file.read_text())
    del content["normal"]
    file.write_text(json.dumps(content))
    assert Detector.load(copy, threshold=0.3).limits[0].calibrated == 0.3
    with pytest.raises(CalibrationError, match="made by an older version.*moleflow calibrate RUN makes it anew"):
        Detector.load(copy, false_alarms=0.01)
    with pytest.raises(CalibrationError):
        replace(LINE.tasks[0], scores=()).threshold_at(0.1)


# -- the command -------------------------------------------------------------------------------------


def arguments(*words: str) -> dict[str, object]:
    return vars(build_parser().parse_args(separated(words)))


def test_values_end_where_files_begin() -> None:
    given = arguments("run", "--threshold", "0.5", "a b=0.3", "c=-12.5", "in", "-o", "out", "--false_alarms", "d=1e-3")
    assert given["threshold"] == [("", 0.5), ("a b", 0.3), ("c", -12.5)] and given["false_alarms"] == [("d", 0.001)]
    assert given["input"] == [Path("in")]
    twice = arguments("run", "in", "-o", "out", "--threshold=0.4", "--threshold", "b=1")
    assert twice["threshold"] == [("", 0.4), ("b", 1)]


def predict(finished: RunResult, out: Path, *words: Path | str) -> list[dict[str, str]]:
    assert main([str(finished.directory.path), *map(str, words), "-o", str(out), "--no_pictures"]) == 0
    with (out / "scores.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_best_f1_of_the_table_and_a_rate_by_product(
    finished: RunResult, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = rows(finished.directory.path / "evaluation" / "after_task_2.csv")
    routed = {row["class_name"]: row for row in table if row["ids"] == "routed"}
    best = [f"{name}={routed[name]['image_threshold']}" for name in CLASSES]
    found = predict(finished, tmp_path / "best", "--threshold", *best, data)
    for name in CLASSES:
        own = [row for row in found if (data / name / "test") in Path(row["path"]).parents]
        labels = np.array([Path(row["path"]).parent.name != "good" for row in own])
        called = np.array([row["label"] != "normal" for row in own])
        f1 = 2 * (called & labels).sum() / (called.sum() + labels.sum())
        assert f1 == pytest.approx(float(routed[name]["image_f1"]))
        assert best_f1(np.array([float(row["score"]) for row in own]), labels)[0] == pytest.approx(f1)
    capsys.readouterr()
    predict(finished, tmp_path / "rates", data / "wood" / "test" / "good", "--false_alarms", "0.3", "wood=0.5")
    limits = Detector.load(finished.directory.path, false_alarms={"": 0.3, "wood": 0.5}).limits
    assert f"wood: defective above a score of {limits[2].score:.6g}" in capsys.readouterr().out


def test_errors_name_the_option(
    finished: RunResult, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in [
        (["--false_alarms", "0"], "error: --false_alarms must lie between 0 and 1"),
        (["--threshold", "wood=0.2", "wood=0.3"], "error: --threshold for wood is given twice"),
        (["--false_alarms", "0.1", "--threshold", "0.2"], "say the same thing"),
    ]:
        assert main([str(finished.directory.path), str(data), "-o", str(tmp_path / "o"), *words]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        build_parser().parse_args(["run", "in", "-o", "o", "--threshold", "high"])
    assert "'high' is neither a number nor PRODUCT=NUMBER" in capsys.readouterr().err
