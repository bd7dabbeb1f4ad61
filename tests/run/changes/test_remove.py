"""A finished run without one of its products."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run.changes.conftest import NEW, extension
from run.small_runs import rows, summary

from moleflow_fast import Detector
from moleflow_fast.cli.evaluate import main as evaluate
from moleflow_fast.cli.report import main as report
from moleflow_fast.cli.train import main

Refused = Callable[[list[str]], str]


def removal(path: Path, *names: str) -> list[str]:
    return ["--remove", str(path), "--task_classes", *names, "--quiet"]


@pytest.fixture
def three(extended: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(extended, tmp_path / "three"))


@pytest.mark.parametrize("name", ["fabric", "gasket"])  # the first task holds the base
def test_nothing_is_routed_there(three: Path, data: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {r.source: r for r in Detector.load(three).predict(data)}
    assert main(removal(three, name)) == 0
    assert "right before" in capsys.readouterr().out
    detector = Detector.load(three)
    after = {r.source: r for r in detector.predict(data)}
    assert name not in {n for task in detector.calibration.tasks.values() for n in task.class_names}
    task_id = next(r.task_id for r in before.values() if r.class_names == (name,))
    for source, result in after.items():
        old = before[source]
        assert task_id not in result.distances and result.task_id != task_id
        if old.task_id != task_id:
            assert (old.score, old.calibrated, old.label) == (result.score, result.calibrated, result.label)
    table = rows(three / "evaluation" / "after_task_2.csv")
    assert name not in {row["class_name"] for row in table} and len(table) == 4
    summary = json.loads((three / "summary.json").read_text())
    assert summary["tasks"] == [["fabric"], ["gasket"], ["wood"]]  # ids do not move
    assert summary["routing_confusion"][task_id] == [0, 0, 0]


def test_images_of_a_removed_product_are_unknown(three: Path, new_data: Path) -> None:
    assert main(removal(three, NEW)) == 0
    assert {r.label for r in Detector.load(three).predict(new_data / NEW / "train")} == {"unknown"}


def test_it_may_be_learned_again(three: Path, new_data: Path) -> None:
    assert main(removal(three, NEW)) == 0
    assert main(extension(three, new_data)) == 0
    detector = Detector.load(three)
    assert list(detector.calibration.tasks) == [0, 1, 3]
    assert {r.task_id for r in detector.predict(new_data / NEW / "train")} == {3}


def test_twice_is_as_once(three: Path) -> None:
    assert main(removal(three, "gasket")) == 0
    files = [three / name for name in ("config.json", "calibration.json")]
    before = [file.read_bytes() for file in files], summary(three)
    assert main(removal(three, "gasket")) == 0
    assert before == ([file.read_bytes() for file in files], summary(three))


def test_without_images(three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((three / "config.json").read_text())
    config["options"]["data_path"] = config["options"]["extensions"][0]["data_path"] = str(tmp_path / "gone")
    (three / "config.json").write_text(json.dumps(config))
    table = (three / "evaluation" / "after_task_2.csv").read_bytes()
    assert main(removal(three, "gasket")) == 0
    assert "no images are there" in capsys.readouterr().out
    assert list(Detector.load(three).calibration.tasks) == [0, 2]
    assert (three / "evaluation" / "after_task_2.csv").read_bytes() == table


def test_reports_and_evaluation_read_it(three: Path, tmp_path: Path) -> None:
    assert main(removal(three, "fabric")) == 0
    assert evaluate([str(three), "--quiet"]) == 0
    assert {row["class_name"] for row in rows(three / "evaluation" / "again.csv")} == {"gasket", "wood"}
    assert report([str(three), "-o", str(tmp_path / "report")]) == 0


def test_refusals(base: Path, refused: Refused) -> None:
    assert "knows no steel: it knows fabric, gasket" in refused(removal(base, "steel"))
    assert "would leave no product" in refused(removal(base, "fabric", "gasket"))


def test_a_task_goes_as_a_whole(started: Path, refused: Refused) -> None:
    summary = json.loads((started / "summary.json").read_text())
    summary["tasks"] = [["fabric", "gasket"]]
    (started / "summary.json").write_text(json.dumps(summary))
    config = json.loads((started / "config.json").read_text())
    config["options"]["cl_scenario"] = "2-1"
    (started / "config.json").write_text(json.dumps(config))
    assert "gasket was learned in one task with fabric" in refused(removal(started, "gasket"))
