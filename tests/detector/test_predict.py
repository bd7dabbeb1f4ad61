"""The command: tables, pictures, exit codes."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run.small_runs import CLASSES, rows

from moleflow_fast import Detector
from moleflow_fast.cli.predict import main
from moleflow_fast.evaluation.metrics import auroc
from moleflow_fast.predict.records import COLUMNS
from moleflow_fast.run.session import RunResult


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def predict(finished: RunResult, out: Path, *arguments: Path | str) -> int:
    return main([str(finished.directory.path), *map(str, arguments), "-o", str(out)])


def test_image_auroc_of_the_table_is_that_of_the_run(finished: RunResult, data: Path, tmp_path: Path) -> None:
    tests = [data / name / "test" for name in CLASSES]
    assert predict(finished, tmp_path / "out", *tests, "--no_pictures") == 0
    table = rows(tmp_path / "out" / "scores.csv")
    evaluation = rows(finished.directory.path / "evaluation" / "after_task_2.csv")
    for name in CLASSES:
        own = [row for row in table if (data / name) in Path(row["path"]).parents]
        defective = [Path(row["path"]).parent.name != "good" for row in own]
        expected = next(float(e["image_auroc"]) for e in evaluation if (e["ids"], e["class_name"]) == ("routed", name))
        assert auroc(np.array([float(row["score"]) for row in own]), np.array(defective)) == expected


def test_tables_agree_with_each_other_and_with_the_detector(
    finished: RunResult, detector: Detector, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bad = tmp_path / "bad, one.png"
    bad.write_text("no image")
    assert predict(finished, out, data / "wood" / "test", bad) == 2
    table, records = rows(out / "scores.csv"), lines(out)
    assert list(table[0]) == list(COLUMNS)
    results = detector.predict([data / "wood" / "test", bad])
    assert [r["path"] for r in table] == [r["path"] for r in records] == [str(r.source) for r in results]
    for row, record, result in zip(table, records, results, strict=True):
        assert row["label"] == record["label"] == result.label
        if result.error is not None:
            assert row["error"] == record["error"] == result.error
            assert row["score"] == row["calibrated"] == row["regions"] == row["overlay"] == ""
            assert record["score"] is None and record["regions"] == []
            continue
        for name in ("score", "calibrated", "distance", "margin"):
            assert float(row[name]) == record[name] == getattr(result, name)
        assert (int(row["task_id"]), row["classes"], record["classes"]) == (2, "wood", ["wood"])
        assert int(row["regions"]) == len(record["regions"]) == len(result.regions)
        assert int(row["area"]) == sum(r["area"] for r in record["regions"])
        assert record["distances"] == {str(t): d for t, d in result.distances.items()}
        assert (int(row["width"]), record["height"]) == (64, 64)


def test_pictures(finished: RunResult, detector: Detector, data: Path, tmp_path: Path) -> None:
    photo = Image.open(data / "wood" / "test" / "good" / "000.png")
    photo.resize((2400, 1200)).save(tmp_path / "wide.png")
    out = tmp_path / "out"
    assert predict(finished, out, data / "fabric" / "test", tmp_path / "wide.png") == 0
    records = lines(out)
    results = detector.predict([data / "fabric" / "test", tmp_path / "wide.png"])
    assert len({r["overlay"] for r in records} | {r["mask"] for r in records}) == 2 * len(records)
    for record, result in zip(records, results, strict=True):
        assert result.task_id is not None
        with Image.open(out / record["mask"]) as mask, Image.open(out / record["overlay"]) as overlay:
            assert mask.size == result.size and mask.mode == "L" and overlay.mode == "RGB"
            threshold = detector.calibration.tasks[result.task_id].pixel_threshold
            assert np.array_equal(np.asarray(mask) > 0, result.anomaly_map > threshold)
            assert overlay.size == {(64, 64): (64, 64), (2400, 1200): (1024, 512)}[result.size]
    assert any(record["regions"] for record in records)
    with Image.open(out / records[-1]["overlay"]) as overlay:
        pixels = np.asarray(overlay, dtype=float)
    assert pixels[:, :200].mean() < 0.6 * np.asarray(photo.convert("RGB")).mean()  # beyond the view it is dark


def test_equal_stems_and_awkward_names(finished: RunResult, data: Path, tmp_path: Path) -> None:
    photo = data / "wood" / "test" / "good" / "000.png"
    names = [
        "a/part.png", "b/part.png", "b/part.jpg", "sp ace.png", "com,ma.png", 'quo"te.png', "new\nline.png",
        "<script>alert(1)<&.png", "漢字é.png", "-dash.png", "=sum.png", "x" * 200 + ".png", "dots...png", "UPPER.PNG",
    ]  # fmt: skip
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, tmp_path / "in" / name)
    with open(os.fsencode(tmp_path / "in") + b"/bytes\xff.png", "wb") as file:
        file.write(photo.read_bytes())
    out = tmp_path / "out"
    assert predict(finished, out, tmp_path / "in", tmp_path / "in" / "a", "--html") == 0
    table, records = rows(out / "scores.csv"), lines(out)
    paths = {str(tmp_path / "in" / name) for name in names} | {str(tmp_path / "in" / "bytes\\xff.png")}
    assert {r["path"] for r in records} == {r["path"] for r in table} == paths
    assert len(records) == len(paths)  # a file that is named twice is scored once
    pictures = [r[kind] for r in records for kind in ("overlay", "mask")]
    assert len(set(pictures)) == len(pictures) == len(list((out / "pictures").iterdir()))
    assert all((out / picture).is_file() and picture.isascii() and len(picture) < 100 for picture in pictures)
    assert "<script>alert" not in (out / "index.html").read_text()


def test_rows_are_written_as_it_goes(
    finished: RunResult, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moleflow_fast.predict.output import Output

    add, seen = Output.add, []

    def interrupted(self: Output, *arguments: Any) -> Any:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(add(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(Output, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(finished, tmp_path / "out", data / "wood" / "test")
    assert lines(tmp_path / "out") == seen
    assert len(rows(tmp_path / "out" / "scores.csv")) == 3


def test_options(finished: RunResult, data: Path, tmp_path: Path) -> None:
    folder = data / "wood" / "test" / "good"
    assert predict(finished, tmp_path / "a", folder, "--threshold", "0", "--batch_size", "2", "--device", "cpu") == 0
    assert {r["label"] for r in lines(tmp_path / "a")} == {"defective"}
    assert predict(finished, tmp_path / "b", folder, "--no_pictures", "--html", "--quiet") == 0
    assert not (tmp_path / "b" / "pictures").exists()
    assert "data:image/jpeg" in (tmp_path / "b" / "index.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "nowhere"}, "nowhere is no run directory"),
        ({"input": "empty"}, "empty: no images below it"),
        ({"more": ["--threshold", "2"]}, "--threshold must lie in 0..1"),
        ({"more": ["--device", "nonsense"]}, "--device nonsense does not work here"),
        ({"more": ["--batch_size", "0"]}, "--batch_size must be at least 1"),
        ({"out": "taken"}, "scores.csv exists: choose another folder with -o"),
        ({"out": "file/out"}, "cannot be written"),
    ],
)
def test_errors_that_stop_everything(
    change: dict[str, Any], message: str, finished: RunResult, data: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "scores.csv").write_text("kept")
    run = tmp_path / change["run"] if "run" in change else finished.directory.path
    images = tmp_path / change["input"] if "input" in change else data / "wood" / "test"
    out = tmp_path / change.get("out", "out")
    assert main([str(run), str(images), "-o", str(out), *change.get("more", [])]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "taken" / "scores.csv").read_text() == "kept"


def test_a_wrong_command_line_does_not_look_like_unreadable_files(capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["run", "image.png"])
    assert stopped.value.code == 1 and "-o/--output" in capsys.readouterr().err


def test_unreadable_files_are_named(finished: RunResult, data: Path, tmp_path: Path, capsys: Any) -> None:
    missing = [tmp_path / f"{i}.png" for i in range(30)]
    assert predict(finished, tmp_path / "out", data / "wood" / "test" / "good", *missing, "--no_pictures") == 2
    said = capsys.readouterr()
    assert f"unreadable: {missing[0]}: no such file" in said.err and "and 10 more" in said.err
    assert "30 unreadable" in said.out
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        assert sum(row["label"] == "error" for row in csv.DictReader(file)) == 30
