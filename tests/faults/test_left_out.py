"""A folder from a phone, with one product that has no test images: trained, evaluated, predicted; nothing is silent."""

import csv
import json
import os
from pathlib import Path

import pytest
from PIL import Image
from run.small_runs import command_line

from moleflow_fast.cli.evaluate import main as evaluate
from moleflow_fast.cli.predict import main as predict
from moleflow_fast.cli.train import main as train

ODD = os.fsdecode(b"t\xfcr.png")


def phone(data: Path, root: Path) -> Path:
    """Two of the small classes: `gasket` as a phone's folder, `wood` with training images alone."""
    for number, path in enumerate(sorted((data / "gasket").rglob("*.png"))):
        target = root / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(path)
        if "ground_truth" in path.parts:
            image.save(target)
        elif "train" in path.parts and number % 2:
            (target.parent / "DCIM").mkdir(exist_ok=True)
            image.save(target.parent / "DCIM" / f"{path.stem}.JPG")
        else:
            image.save(target.with_suffix((".webp", ".png")[number % 2]))
    good = root / "gasket/train/good"
    good.joinpath("IMG_1.HEIC").write_bytes(b"heic")
    good.joinpath(".DS_Store").write_bytes(b"x")
    good.joinpath("._000.png").write_bytes(b"x")
    Image.open(data / "gasket/train/good/000.png").save(good / ODD)
    for path in sorted((data / "wood/train/good").iterdir()):
        (root / "wood/train").mkdir(parents=True, exist_ok=True)
        Image.open(path).save(root / "wood/train" / path.name)
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("phone")
    root = phone(data, folder / "data")
    options = {"experiment_name": "run", "preset": "line", "num_epochs": 1, "heatmaps": 1}
    assert train(command_line(root, folder / "logs", **options)) == 0
    return root, folder / "logs" / "run"


def test_all_images_are_used(trained: tuple[Path, Path]) -> None:
    root, run = trained
    calibration = json.loads((run / "calibration.json").read_text())["tasks"]
    assert [task["cross_fitted"] for task in calibration] == [7, 6]  # all training images, the odd name's too
    table = list(csv.DictReader((run / "evaluation/after_task_1.csv").open()))
    assert [row["images"] for row in table if row["class_name"] == "gasket"] == ["6", "6"]


def test_a_product_without_test_images_has_no_figures(trained: tuple[Path, Path]) -> None:
    _, run = trained
    table = list(csv.DictReader((run / "evaluation/after_task_1.csv").open()))
    wood = [row for row in table if row["class_name"] == "wood"]
    assert [(row["images"], row["image_auroc"], row["routing_accuracy"]) for row in wood] == [("0", "nan", "nan")] * 2
    summary = json.loads((run / "summary.json").read_text())
    assert summary["routed"]["image_auroc"] is not None and summary["routing_confusion"][1] == [0, 0]
    assert evaluate([str(run), "--quiet"]) == 0
    assert (run / "evaluation/again.csv").read_bytes() == (run / "evaluation/after_task_1.csv").read_bytes()


def test_other_users_may_read_a_run(trained: tuple[Path, Path]) -> None:
    _, run = trained
    modes = {path.stat().st_mode & 0o777 for path in (run / "checkpoints").iterdir()}
    assert modes == {(run / "config.json").stat().st_mode & 0o777}


def test_predict_goes_by_the_same_rule(
    trained: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, run = trained
    (root / "gasket/train/good/broken.png").symlink_to("/nowhere/x.png")
    try:
        assert predict([str(run), str(root / "gasket/train"), "-o", str(tmp_path / "out"), "--html", "--quiet"]) == 2
    finally:
        (root / "gasket/train/good/broken.png").unlink()
    rows = list(csv.DictReader((tmp_path / "out/scores.csv").open(encoding="utf-8")))
    assert len(rows) == 8 and sum(row["label"] == "error" for row in rows) == 1
    assert any(row["path"].endswith("t\\xfcr.png") for row in rows)
    (said,) = [r.getMessage() for r in caplog.records if "not used" in r.getMessage()]
    assert "2 hidden or of the system" in said and "IMG_1.HEIC" in said


def test_what_is_left_out_is_said_before_training(
    data: Path, trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = trained
    assert evaluate([str(run), "--quiet"]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "2 hidden or of the system" in said and "IMG_1.HEIC" in said and "'wood' has no test images" in said
