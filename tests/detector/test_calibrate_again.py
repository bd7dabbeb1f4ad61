"""moleflow calibrate: new limits of a finished run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moleflow_fast import Detector
from moleflow_fast.cli.calibrate import main
from moleflow_fast.detector.calibration import Calibration
from moleflow_fast.detector.calibration_file import read_calibration
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.session import RunResult


@pytest.fixture
def copy(finished: RunResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.directory.path, tmp_path / "run", ignore=shutil.ignore_patterns("*.png")))


@pytest.fixture(scope="module")
def brighter(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 normal pictures of wood under a brighter lamp."""
    folder = tmp_path_factory.mktemp("today")
    numbers = np.random.default_rng(5)
    good = [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in sorted(data.glob("wood/*/good/*.png"))]
    for i in range(24):
        pixels = good[i % len(good)] + 12 + numbers.integers(-3, 4, good[0].shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def known(run: Path) -> Calibration:
    found = read_calibration(RunDirectory(run))
    assert found is not None
    return found


def calibrate(run: Path, *words: str | Path) -> int:
    return main([str(run), *map(str, words), "--device", "cpu"])


def test_on_its_own_images(copy: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What an older version has left becomes what a run of this one leaves."""
    before = (copy / "calibration.json").read_bytes()
    content = json.loads(before)
    del content["normal"]
    content["tasks"][2]["threshold"] = 1.5
    (copy / "calibration.json").write_text(json.dumps(content))
    assert calibrate(copy, "--product", "wood") == 0
    assert known(copy).tasks[2].scores and not known(copy).tasks[0].scores
    said = capsys.readouterr().out
    assert "wood: 3 normal images" in said and "(was 1.5)" in said and "fabric" not in said
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    for words in ([], ["--data_path", moved]):
        assert calibrate(copy, *words) == 0
        assert (copy / "calibration.json").read_bytes() == before


def test_on_a_folder_of_normal_images(
    copy: Path, brighter: Path, finished: RunResult, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = known(copy)
    assert calibrate(copy, "--data_path", brighter, "--product", "wood") == 0
    after = known(copy)
    wood = after.tasks[2]
    assert len(wood.scores) == wood.images == 24 and not wood.not_held_out
    assert wood.threshold != before.tasks[2].threshold and wood.largest_distance >= before.tasks[2].largest_distance
    assert "thresholds of few" not in caplog.text
    for task in (0, 1):
        assert after.tasks[task] == replace(before.tasks[task], nearest_other=after.tasks[task].nearest_other)
    labels = [r.label for r in Detector.load(copy).predict(brighter)]
    assert labels.count("defective") == 1 and labels.count("normal") == 23  # one in twenty, by the scores themselves
    assert len(Detector.load(copy, false_alarms=0.04).predict(brighter)) == 24
    by_product = brighter.parent / "by_product"
    shutil.copytree(brighter, by_product / "wood")
    shutil.copytree(data / "fabric" / "test" / "good", by_product / "fabric")
    assert calibrate(copy, "--data_path", by_product) == 0
    assert known(copy).tasks[2].scores == wood.scores and known(copy).tasks[1] == after.tasks[1]
    assert known(copy).tasks[0].threshold == pytest.approx(before.tasks[0].threshold)


def test_images_of_another_product_are_said(copy: Path, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert calibrate(copy, "--data_path", data / "fabric" / "test" / "good", "--product", "wood") == 0
    assert "3 of 3 images of wood lie nearest to another product: look whether they are of it" in caplog.text


def test_after_an_error_all_is_as_it_was(
    copy: Path, brighter: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copy / "calibration.json").read_bytes()
    (tmp_path / "empty").mkdir()
    torn = Path(shutil.copytree(brighter, tmp_path / "torn"))
    (torn / "03.png").write_bytes((torn / "03.png").read_bytes()[:200])
    for words, message in [
        (["--data_path", brighter], "which product do its images show? No folder in it is called fabric or gasket or"),
        (["--data_path", brighter, "--product", "wool"], "--product wool: the run knows no such product"),
        (["--data_path", tmp_path / "gone"], "gone: no such folder; check --data_path"),
        (["--data_path", tmp_path / "empty", "--product", "wood"], "empty: no images below it"),
        (["--data_path", data / "wood", "--product", "wood"], "is itself a product's folder: give its parent"),
        (["--data_path", torn, "--product", "wood"], "03.png"),
    ]:
        assert calibrate(copy, *words) == 1
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
        assert (copy / "calibration.json").read_bytes() == before
    (copy / "calibration.json").unlink()
    assert calibrate(copy, "--data_path", brighter, "--product", "wood") == 1
    assert "calibrate it on its own images first" in capsys.readouterr().err
    assert calibrate(tmp_path) == 1
    assert "is no run directory" in capsys.readouterr().err


def test_images_that_are_gone(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = json.loads((copy / "config.json").read_text())
    options["options"]["data_path"] = str(tmp_path / "gone")
    (copy / "config.json").write_text(json.dumps(options))
    assert calibrate(copy) == 1
    assert "the images that the run was made of are not where they were: say where with --data_path" in (
        capsys.readouterr().err
    )
