"""A finished run that learns a product more."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run.changes.conftest import NEW, OLD, extension
from run.small_runs import command_line, rows, run, summary
from safetensors.torch import load_file

from moleflow_fast import Detector
from moleflow_fast.cli.evaluate import main as evaluate
from moleflow_fast.cli.report import main as report
from moleflow_fast.cli.train import main
from moleflow_fast.detector.result import Result
from moleflow_fast.run.asked import parse_options
from moleflow_fast.run.changes import changed_run
from moleflow_fast.run.directory import RunDirectoryError
from moleflow_fast.run.evaluating import Evaluating
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer

Refused = Callable[[list[str]], str]


def results(path: Path, *folders: Path) -> list[Result]:
    detector = Detector.load(path)
    return [result for folder in folders for result in detector.predict(folder)]


def old_files(path: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in (path / "checkpoints").iterdir() if f.name[5] in "01"}


def test_the_new_expert_is_that_of_a_run_over_all_products(
    extended: Path, data: Path, new_data: Path, tmp_path: Path
) -> None:
    together = Path(shutil.copytree(data, tmp_path / "together"))
    shutil.copytree(new_data / NEW, together / NEW)
    whole = run(together, tmp_path / "logs", task_classes=(*OLD, NEW)).directory.path
    ours, theirs = (load_file(path / "checkpoints" / "task_2.safetensors") for path in (extended, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows(extended / "evaluation" / "after_task_2.csv") == rows(whole / "evaluation" / "after_task_2.csv")
    calibrations = [json.loads((path / "calibration.json").read_text()) for path in (extended, whole)]
    assert calibrations[0] == calibrations[1]


def test_old_products_stay_as_they_were(base: Path, extended: Path, data: Path) -> None:
    assert old_files(base) == old_files(extended)
    for before, after in zip(results(base, data), results(extended, data), strict=True):
        if after.task_id == before.task_id:
            assert (before.score, before.calibrated) == (after.score, after.calibrated)
            assert (before.pixel_map == after.pixel_map).all()
    assert any(r.class_names == OLD[1:] for r in results(extended, data))


def test_the_new_product_is_known(extended: Path, base: Path, new_data: Path) -> None:
    assert {r.class_names for r in results(extended, new_data / NEW / "train")} == {(NEW,)}
    assert (NEW,) not in {r.class_names for r in results(base, new_data)}


def test_what_it_says(base: Path, new_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(shutil.copytree(base, tmp_path / "parts"))
    assert main(extension(path, new_data)) == 0
    said = capsys.readouterr().out
    # Under each old expert, its own six test images and the new product's.
    assert "unchanged      fabric, gasket: 24 maps are equal to the bit, prototypes too" in said
    assert "right before" in said and "right now" in said
    written = json.loads((path / "summary.json").read_text())
    assert written["tasks"] == [["fabric"], ["gasket"], ["wood"]]
    assert written["unchanged"] == {"tasks": [0, 1], "images": 24}
    assert [sum(row) for row in written["routing_confusion"]] == [6, 6, 6]


def test_old_images_need_not_be_there(
    base: Path, data: Path, new_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copytree(base, tmp_path / "parts"))
    config = json.loads((path / "config.json").read_text())
    config["options"]["data_path"] = str(tmp_path / "gone")
    (path / "config.json").write_text(json.dumps(config))
    before = results(path, data)
    assert main(extension(path, new_data)) == 0
    said = capsys.readouterr().out
    assert "images of fabric, gasket are not there" in said and "12 maps are equal to the bit" in said
    assert {row["class_name"] for row in rows(path / "evaluation" / "after_task_2.csv")} == {NEW}
    for old, new in zip(before, results(path, data), strict=True):
        assert old.score == new.score or new.task_id == 2
    assert {r.class_names for r in results(path, new_data / NEW / "train")} == {(NEW,)}
    assert evaluate([str(path), "--quiet"]) == 0


def test_until_all_is_done_detectors_see_the_old_products(
    started: Path, extended: Path, data: Path, new_data: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    before = results(started, data)
    with monkeypatch.context() as patch:
        patch.setattr(Evaluating, "draw", _stop)  # after training and evaluation
        with pytest.raises(KeyboardInterrupt):
            main(extension(started, new_data))
    assert (started / "checkpoints" / "task_2.json").exists()
    for old, new in zip(before, results(started, data), strict=True):
        assert (old.score, old.label, dict(old.distances)) == (new.score, new.label, dict(new.distances))
    other = ["--extend", str(started), "--data_path", str(data), "--task_classes", "fabric"]
    assert f"is being extended: finish that first (--extend {started}" in refused(other)
    assert "is being extended: finish that first" in refused(["--remove", str(started), "--task_classes", "fabric"])
    resume = command_line(data, started.parent, task_classes=OLD, experiment_name=started.name, resume=True)
    assert "give its last --extend again" in refused(resume)
    assert main(extension(started, new_data)) == 0
    assert _numbers(started) == _numbers(extended)


def test_killed_in_training(started: Path, extended: Path, new_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MoLEContinualTrainer, "_end_task", _stop)
        with pytest.raises(KeyboardInterrupt):
            main(extension(started, new_data, "--state_seconds", "0"))
    assert list((started / "checkpoints").glob("task_2.partial*"))
    assert main(extension(started, new_data)) == 0
    assert _numbers(started) == _numbers(extended)


def test_an_extension_that_is_given_up(
    started: Path, base: Path, data: Path, new_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Evaluating, "draw", _stop)
        with pytest.raises(KeyboardInterrupt):
            main(extension(started, new_data))
    assert main(["--remove", str(started), "--task_classes", NEW, "--quiet"]) == 0
    assert _names(started) == _names(base)
    assert [r.score for r in results(started, data)] == [r.score for r in results(base, data)]
    assert rows(started / "evaluation" / "after_task_1.csv") == rows(base / "evaluation" / "after_task_1.csv")
    assert main(extension(started, new_data)) == 0


def _names(path: Path) -> list[str]:
    files = [file for file in path.rglob("*") if file.name[0] != "." and "heatmaps" not in file.parts]
    return sorted(str(file.relative_to(path)) for file in files)


def test_two_at_a_time(started: Path, new_data: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    late = changed_run(parse_options(extension(started, new_data)))
    assert main(extension(started, new_data)) == 0
    before = (started / "config.json").read_bytes()
    with pytest.raises(RunDirectoryError, match="was changed by another process"):
        late.execute()
    assert (started / "config.json").read_bytes() == before


def _stop(*args: object, **more: object) -> None:
    raise KeyboardInterrupt


def _numbers(path: Path) -> list[object]:
    names = ("calibration.json", "evaluation/after_task_2.csv", "checkpoints/task_2.safetensors")
    return [summary(path), *((path / name).read_bytes() for name in names)]


def test_a_changed_output_is_not_handed_over(
    started: Path, data: Path, new_data: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    before = results(started, data)
    end_task = MoLEContinualTrainer._end_task

    def with_a_slip(trainer: MoLEContinualTrainer, *args: object) -> None:
        with torch.no_grad():
            trainer.nf_model.flow.module_list[0].subnet.s_layer2.task_biases["1"][0] += 1e-6
        end_task(trainer, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(MoLEContinualTrainer, "_end_task", with_a_slip)
    assert "outputs of task 1 (gasket) are not what they were before" in refused(extension(started, new_data))
    for old, new in zip(before, results(started, data), strict=True):
        assert (old.score, old.task_id) == (new.score, new.task_id)


def test_reports_and_evaluation_read_it(extended: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(extended, tmp_path / "parts"))
    assert evaluate([str(path), "--quiet"]) == 0
    again, last = (rows(path / "evaluation" / name) for name in ("again.csv", "after_task_2.csv"))
    assert again == last
    assert report([str(path), "-o", str(tmp_path / "report")]) == 0
    assert "wood" in (tmp_path / "report" / "report.md").read_text()


def test_refusals(base: Path, data: Path, new_data: Path, tmp_path: Path, refused: Refused) -> None:
    before = sorted((f, f.read_bytes()) for f in base.rglob("*") if f.is_file())
    known = ["--extend", str(base), "--data_path", str(data), "--task_classes", "fabric"]
    assert "knows fabric already" in refused(known)
    missing = refused(["--extend", str(base), "--data_path", str(new_data), "--task_classes", "steel"])
    assert str(new_data) in missing and "steel" in missing
    assert "is no run directory" in refused(extension(tmp_path, new_data))
    unfinished = Path(shutil.copytree(base, tmp_path / "unfinished"))
    (unfinished / "summary.json").unlink()
    assert "is not finished: go on with it first (--resume" in refused(extension(unfinished, new_data))
    (unfinished / "summary.json").write_text("{}")
    assert "summary.json is damaged" in refused(extension(unfinished, new_data))
    assert before == sorted((f, f.read_bytes()) for f in base.rglob("*") if f.is_file())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--extend", "a", "--remove", "b"], "two commands"),
        (["--extend", "a", "--task_classes", "x"], "needs --data_path"),
        (["--extend", "a", "--data_path", "d"], "needs --task_classes"),
        (["--remove", "a"], "needs --task_classes"),
        (["--remove", "a", "--task_classes", "x", "--data_path", "d"], "needs no images"),
        (["--extend", "a", "--data_path", "d", "--task_classes", "x", "--lr", "1", "--no_dia"], "drop --lr, --use_dia"),
    ],
)
def test_options_that_do_not_go_together(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    assert message in capsys.readouterr().err


def test_a_base_that_trains_is_not_extended(started: Path, new_data: Path, refused: Refused) -> None:
    config = json.loads((started / "config.json").read_text())
    config["options"]["enable_slow_stage"] = True
    (started / "config.json").write_text(json.dumps(config))
    assert "where a new task changes the old ones" in refused(extension(started, new_data))
