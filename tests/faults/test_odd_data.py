"""Class names as people give them, and test sets on which a metric has no value."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run.small_runs import CLASSES, command_line, rows, run

from moleflow_fast.cli.evaluate import main as evaluate
from moleflow_fast.cli.train import main as train
from moleflow_fast.data import check_dataset
from moleflow_fast.data.data_error import DataError

NAMES = ('pièce nº 1, "große"', "[red] $x$ $\\frac{$ [bold", "部品\\\n\t'%s'")


def test_class_names_with_spaces_unicode_markup_and_quotes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = tmp_path / "data"
    for before, after in zip(CLASSES, NAMES, strict=True):
        shutil.copytree(data / before, renamed / after)
    names = sorted(NAMES)
    options = {"experiment_name": "run", "heatmaps": 2, "quiet": False}
    assert train(command_line(renamed, tmp_path / "logs", **options)) == 0
    assert "│ 0: [red] $x$ $\\frac{$ [bold" in capsys.readouterr().out
    path = tmp_path / "logs" / "run"
    assert json.loads((path / "summary.json").read_text())["tasks"] == [[name] for name in names]
    table = rows(path / "evaluation" / "after_task_2.csv")
    assert [row["class_name"] for row in table] == names * 2
    assert sorted(file.stem for file in (path / "heatmaps").iterdir()) == names
    for name in ("task_2.json", "task_2.safetensors"):
        (path / "checkpoints" / name).unlink()
    assert train([*command_line(renamed, tmp_path / "logs", **options), "--resume"]) == 0
    assert evaluate([str(path), "--quiet"]) == 0
    assert (path / "evaluation" / "again.csv").read_bytes() == (path / "evaluation" / "after_task_2.csv").read_bytes()


@pytest.mark.parametrize("name", ["../demo/wood", "wood/", "/etc", ".", "..", "", "wood/../gasket", "a\x00b"])
def test_a_class_name_that_is_a_path_is_refused(name: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no name of a folder"):
        run(data, tmp_path / "logs", task_classes=[name])
    assert not list(tmp_path.glob("logs/*"))


def test_a_class_name_that_is_no_text(data: Path, tmp_path: Path) -> None:
    """A folder made under another encoding."""
    shutil.copytree(data / "wood", tmp_path / "data" / "na\udcefve")
    with pytest.raises(DataError, match="is no text in UTF-8: rename the folder"):
        run(tmp_path / "data", tmp_path / "logs")


def only_good(test: Path) -> None:
    for folder in test.iterdir():
        if folder.name != "good":
            shutil.rmtree(folder)


def only_defective(test: Path) -> None:
    shutil.rmtree(test / "good")


@pytest.mark.parametrize(("spoil", "lacks"), [(only_good, "no defective"), (only_defective, "no normal")])
def test_a_test_set_of_one_kind_has_no_figures(
    spoil: Callable[[Path], None], lacks: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    for name in CLASSES:
        spoil(copy / name / "test")
    assert train(command_line(copy, tmp_path / "logs", experiment_name="run")) == 0
    assert f"has {lacks} test images: its AUROC" in capsys.readouterr().out
    path = tmp_path / "logs" / "run"
    for row in rows(path / "evaluation" / "after_task_2.csv"):
        assert row["image_auroc"] == row["image_ap"] == row["image_f1"] == row["image_threshold"] == "nan"
        pixel = ("pixel_auroc", "pixel_ap", "pixel_f1", "aupro")
        assert all(math.isnan(float(row[name])) for name in pixel) == (lacks == "no defective")
    summary = json.loads((path / "summary.json").read_text())
    assert summary["routed"]["image_auroc"] is None and summary["forgetting"]["routed"]["mean"] is None
    assert summary["routed"]["routing_accuracy"] is not None


@pytest.mark.parametrize("layout", ["mvtec", "folder"])
def test_an_empty_test_set_is_refused_of_a_published_set_and_said_of_ones_own(
    layout: str, data: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    for folder in (copy / "wood" / "test").iterdir():
        shutil.rmtree(folder)
    if layout == "mvtec":
        with pytest.raises(DataError, match=r"wood/test: no images in it"):
            check_dataset(layout, copy, CLASSES)
        return
    assert any("'wood' has no test images" in w for w in check_dataset(layout, copy, CLASSES).warnings)
