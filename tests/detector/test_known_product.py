"""Where the line knows what it sees: the product's own expert, without routing."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from run.small_runs import CLASSES

from moleflow_fast import Detector
from moleflow_fast.cli.predict import main
from moleflow_fast.detector.calibration import TaskCalibration
from moleflow_fast.errors import UserError
from moleflow_fast.run.session import RunResult


def test_the_routed_product_gives_the_same(detector: Detector, photo: Path) -> None:
    (routed,) = detector.predict(photo)
    assert routed.class_names == ("wood",)
    for known in (*detector.predict(photo, product="wood"), *detector.stream([photo] * 3, product="wood")):
        assert (known.score, known.label, known.distances) == (routed.score, routed.label, routed.distances)
        assert np.array_equal(known.pixel_map, routed.pixel_map)


def test_another_product_gives_its_experts_answer(detector: Detector, data: Path, photo: Path) -> None:
    run = detector._run
    for task_id, name in enumerate(CLASSES):
        (result,) = detector.predict(photo, product=name)
        pixels = detector._transform(detector_picture(photo))[None]
        with run.context.as_chosen():
            maps, scores, _ = run.moleflow(pixels, task_id)
        assert (result.task_id, result.class_names, result.score) == (task_id, (name,), float(scores))
        assert np.array_equal(result.patch_map, maps[0].numpy())
        assert len(result.distances) == len(CLASSES)
        assert (result.label == "unknown") == (name != "wood")  # far from the other products' images
    mixed = [data / name / "test" / "good" / "000.png" for name in CLASSES]
    assert {r.task_id for r in detector.predict(mixed, product="gasket")} == {1}


def test_other_products_say_nothing(detector: Detector, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin of the product may be as near as it likes."""
    runner_ups = []
    knows = TaskCalibration.knows

    def spy(self: TaskCalibration, distance: float, runner_up: float = math.inf) -> bool:
        runner_ups.append(runner_up)
        return knows(self, distance, runner_up)

    monkeypatch.setattr(TaskCalibration, "knows", spy)
    (routed,) = detector.predict(photo)
    detector.predict(photo, product="wood")
    list(detector.stream([photo], product="wood"))
    others = [distance for t, distance in routed.distances.items() if t != routed.task_id]
    assert runner_ups == [min(others), math.inf, math.inf]


def detector_picture(photo: Path):  # noqa: ANN201
    from moleflow_fast.data.decoding import load_image

    return load_image(photo)


def test_a_product_that_is_not_there(detector: Detector, photo: Path) -> None:
    for ask in (detector.predict, detector.stream):
        with pytest.raises(UserError, match="no product 'bolt' in this run .*it knows fabric, gasket, wood"):
            ask(photo, product="bolt")


def test_the_command(
    finished: RunResult, detector: Detector, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(finished.directory.path), str(photo), "-o", str(tmp_path / "out"), "--no_pictures", "--product"]
    assert main([*command, "bolt"]) == 1
    assert "it knows fabric, gasket, wood" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*command, "gasket"]) == 0
    (record,) = map(json.loads, (tmp_path / "out" / "scores.jsonl").read_text().splitlines())
    assert record["classes"] == ["gasket"] and record["score"] == detector.predict(photo, product="gasket")[0].score
