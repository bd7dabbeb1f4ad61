"""The command: checked files with their facts, or an error and no file."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from run.small_runs import CLASSES, rows, run

from moleflow_fast.backend import use_backend
from moleflow_fast.cli.export import build_parser, main
from moleflow_fast.cli.predict import main as predict
from moleflow_fast.config import AblationConfig
from moleflow_fast.detector.detector import Detector
from moleflow_fast.export import check_images as pictures
from moleflow_fast.export import exporting, runtimes, trained
from moleflow_fast.export.parity import BATCHES, compare, of_detector
from moleflow_fast.export.program import LABELS, OUTPUTS, DetectorProgram
from moleflow_fast.system.tensor_file import sha256

# Runs a script as if neither torch nor this package were installed.
ALONE = """
import runpy, sys
sys.argv.pop(0)
sys.modules.update(torch=None, moleflow_fast=None)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
EXAMPLE = Path(__file__).parents[2] / "examples" / "score_folder_onnx.py"


def test_onnx_says_what_the_detector_says(onnx_file: Path, finished: Path, data: Path) -> None:
    detector = Detector.load(finished, "cpu")
    paths = [path for name in CLASSES for path in sorted((data / name / "test").rglob("*.png"))][::-1]
    images = np.stack([pictures.prepared(path, 64) for path in paths])
    answers = runtimes.onnxruntime(onnx_file)(images)
    assert set(answers["task_id"]) == {0, 1, 2}
    assert compare(answers, of_detector(detector, paths), detector).problems() == []
    session = onnxruntime.InferenceSession(onnx_file)
    assert [o.name for o in session.get_outputs()] == list(OUTPUTS)
    assert session.get_inputs()[0].shape == ["batch", 64, 64, 3]
    onnx.checker.check_model(str(onnx_file), full_check=True)
    assert {node.domain for node in onnx.load(onnx_file).graph.node} == {""}


def test_openvino_takes_the_file(onnx_file: Path, data: Path) -> None:
    pytest.importorskip("openvino")
    images = np.stack([pictures.prepared(path, 64) for path in sorted((data / "wood").rglob("test/good/*.png"))])
    answers, expected = runtimes.openvino(onnx_file)(images), runtimes.onnxruntime(onnx_file)(images)
    np.testing.assert_allclose(answers["score"], expected["score"], rtol=1e-4)
    np.testing.assert_array_equal(answers["label"], expected["label"])


def test_torch_program_says_what_the_detector_says(torch_file: Path, finished: Path, data: Path) -> None:
    detector = Detector.load(finished, "cpu")
    paths = sorted(data.rglob("test/*/*.png"))
    images = np.stack([pictures.prepared(path, 64) for path in paths])
    answers = runtimes.torch_program(torch_file)(images)
    assert compare(answers, of_detector(detector, paths), detector).problems() == []


def test_facts_are_in_the_files_and_beside_them(onnx_file: Path, torch_file: Path, finished: Path) -> None:
    props = {prop.key: json.loads(prop.value) for prop in onnx.load(onnx_file).metadata_props}
    names = [key for key in props if key.startswith("moleflow.")]
    extra = dict.fromkeys(names, "")
    torch.export.load(torch_file, extra_files=extra)
    for file, inside in ((onnx_file, props), (torch_file, {k: json.loads(v) for k, v in extra.items()})):
        beside = json.loads(file.with_name(f"{file.name}.json").read_text())
        size = file.stat().st_size
        assert beside.pop("files") == [{"name": file.name, "bytes": size, "sha256": sha256(file)}]
        assert {f"moleflow.{name}": value for name, value in beside.items()} == {name: inside[name] for name in names}
        assert [t["class_names"] for t in beside["calibration"]["tasks"]] == [[name] for name in CLASSES]
        assert beside["calibration"] == json.loads((finished / "calibration.json").read_text())
        assert beside["input"]["image_size"] == 64 and beside["threshold"] == 0.5 and beside["labels"] == list(LABELS)
        assert torch.__version__.startswith(beside["versions"]["torch"])
        for one in beside["parity"]["runtimes"]:
            assert one["images"] >= sum(BATCHES) and 0 <= one["score"] < 1e-4 and one["other_routes"] == 0
    assert props["moleflow.parity"]["runtimes"][0]["runtime"] == "onnxruntime"


def test_the_example_labels_as_predict_does(onnx_file: Path, finished: Path, data: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    for name in CLASSES:
        shutil.copytree(data / name / "test", inbox / name)
    _write_odd_pictures(data / "wood" / "test" / "good" / "000.png", inbox)
    command = [sys.executable, "-P", "-c", ALONE, str(EXAMPLE), str(onnx_file), str(inbox)]
    table = csv.DictReader(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines())
    found = {row["path"]: row for row in table}
    assert predict([str(finished), str(inbox), "-o", str(tmp_path / "out"), "--no_pictures", "--quiet"]) == 0
    expected = rows(tmp_path / "out" / "scores.csv")
    assert {row["path"] for row in expected} == set(found) and len(found) == 18 + 4
    assert len({row["label"] for row in expected}) > 1
    for row in expected:
        assert found[row["path"]]["label"] == row["label"]
        assert float(found[row["path"]]["score"]) == pytest.approx(float(row["score"]), rel=1e-4)


def _write_odd_pictures(photo: Path, folder: Path) -> None:
    image = Image.open(photo).convert("RGB")
    wide = image.resize((101, 67))
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(folder / "turned.png", exif=exif)
    wide.resize((67, 300)).save(folder / "tall.bmp")
    wide.convert("L").save(folder / "grey.png")
    Image.fromarray(np.asarray(wide.convert("L"), dtype=np.uint16) * 257).save(folder / "sixteen.tiff")


def test_a_program_that_differs_is_not_kept(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong(DetectorProgram):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            answers = super().forward(images)
            return {**answers, "score": answers["score"] * 1.001}

    monkeypatch.setattr(exporting, "DetectorProgram", Wrong)
    assert main([str(finished), "--format", "torch", "-o", str(tmp_path / "a.pt2"), "--check_images", "3"]) == 1
    assert "the program in torch.export does not say what the detector says: score differs by 1.0e-03" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ") and "Traceback" not in text
    return text


def test_errors_name_what_is_wrong(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.onnx"
    assert "is no run directory" in error_of(capsys, tmp_path / "gone", "--format", "onnx")
    assert "is called *.onnx" in error_of(capsys, finished, "--format", "onnx", "-o", tmp_path / "a.pt2")
    assert "is called *.pt2" in error_of(capsys, finished, "--format", "torch", "-o", out)
    assert "--aot compiles the program of --format torch" in error_of(capsys, finished, "--format", "onnx", "--aot")
    assert "--check_images" in error_of(capsys, finished, "--format", "onnx", "-o", out, "--check_images", "0")
    assert "--threshold" in error_of(capsys, finished, "--format", "onnx", "-o", out, "--threshold", "2")
    (tmp_path / "file").touch()
    assert "could not be written" in error_of(capsys, finished, "--format", "onnx", "-o", tmp_path / "file" / "a.onnx")
    (tmp_path / "b.onnx").mkdir()
    assert "it is a folder" in error_of(capsys, finished, "--format", "onnx", "-o", tmp_path / "b.onnx")
    (tmp_path / "b.onnx").rmdir()
    (tmp_path / "empty").mkdir()
    images = tmp_path / "empty"
    assert "no images below it" in error_of(capsys, finished, "--format", "onnx", "-o", out, "--images", images)
    images.rmdir()
    message = error_of(capsys, finished, "--format", "onnx", "-o", out, "--data_path", tmp_path / "gone")
    assert "--data_path" in message and "--images" in message
    with monkeypatch.context() as patched:
        patched.setattr(exporting.importlib.util, "find_spec", lambda name: None)
        assert "pip install 'moleflow_fast[export]'" in error_of(capsys, finished, "--format", "onnx", "-o", out)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_runs_that_cannot_be_exported(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    (copy / "calibration.json").unlink()
    message = error_of(capsys, copy, "--format", "torch", "--data_path", tmp_path / "gone")
    assert "no calibration.json" in message and "--data_path" in message
    shutil.rmtree(copy / "checkpoints")
    assert "holds no complete checkpoint" in error_of(capsys, copy, "--format", "torch")


def test_pictures_of_ones_own_need_not_reach_every_expert(
    finished: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "wood.pt2"
    images = data / "wood" / "test"
    assert main([str(finished), "--format", "torch", "-o", str(out), "--images", str(images), "--threshold", "0"]) == 0
    printed = capsys.readouterr().out
    assert "no image was routed to fabric, gasket: those experts are not checked" in printed
    assert f"written to {out}" in printed
    answers = runtimes.torch_program(out)(pictures.prepared(next(images.rglob("good/*.png")), 64)[None])
    assert answers["label"] == [LABELS.index("defective")]  # every score exceeds a threshold of 0


def test_a_run_with_a_backbone_in_bf16_is_exported_in_fp32(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path, num_epochs=1, backbone_precision="bf16", ablation=AblationConfig(use_router=False))
    loaded = trained.load(result.directory, 0.5)
    assert any("computed in bf16; the program's computes in fp32" in note for note in loaded.notes)
    assert any("--no_router" in note for note in loaded.notes)
    assert loaded.run.extractor.dtype == torch.float32
    paths = pictures.to_check_with(loaded.run, None, 2)
    images = np.stack([pictures.prepared(path, 64) for path in paths])
    with use_backend("eager"):
        answers = runtimes.of_torch(DetectorProgram(loaded.run, loaded.detector))(images)
    for detector in (loaded.detector, loaded.eager):
        assert compare(answers, of_detector(detector, paths), detector).problems() == []


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--help"])
    text = capsys.readouterr().out
    assert "examples:" in text and "moleflow export runs/parts --format onnx" in text
