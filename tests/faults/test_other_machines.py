"""A run is the same one wherever it is loaded: other threads, another instruction set, another working directory."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from faults.soak import fingerprints
from run.small_runs import command_line

from moleflow_fast import Detector
from moleflow_fast.cli.train import main as train
from moleflow_fast.run.session import RunResult
from moleflow_fast.system.tensor_file import CheckpointError

OTHER = {"OMP_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
PREDICT = """
import json, sys
from moleflow_fast import Detector
results = Detector.load(sys.argv[1], "cpu").predict(sys.argv[2])
print(json.dumps([(r.label, r.score) for r in results]))
"""


@pytest.fixture
def copy(finished: RunResult, tmp_path: Path) -> Path:
    path = Path(shutil.copytree(finished.directory.path, tmp_path / "logs" / "run"))
    shutil.copytree(finished.directory.path.parent / "features", tmp_path / "logs" / "features")
    return path


@pytest.fixture
def other_threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    yield torch.get_num_threads()
    torch.set_num_threads(before)


def test_another_processor(finished: RunResult, data: Path) -> None:
    images = data / "wood" / "test"
    command = [sys.executable, "-P", "-c", PREDICT, str(finished.directory.path), str(images)]
    done = subprocess.run(command, env=os.environ | OTHER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    here = [(r.label, r.score) for r in Detector.load(finished.directory.path, "cpu").predict(images)]
    assert [label for label, _ in there] == [label for label, _ in here]
    assert [score for _, score in there] == pytest.approx([score for _, score in here], rel=1e-3)


def test_the_weights_it_drew_are_stored_and_not_drawn_again(copy: Path, other_threads: int) -> None:
    Detector.load(copy, "cpu")
    (copy / "backbone.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(Exception, match=r"backbone\.safetensors, the random weights .* put back a copy"):
        Detector.load(copy, "cpu")


def test_a_run_that_has_not_stored_them_is_loaded_with_its_threads(copy: Path, other_threads: int) -> None:
    (copy / "backbone.safetensors").unlink()
    Detector.load(copy, "cpu")
    assert torch.get_num_threads() == other_threads
    for file in (copy / "checkpoints").glob("*.json"):
        content = json.loads(file.read_text())
        content["model"]["backbone"] = "0" * 64
        file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="was trained on other backbone weights .* train it again"):
        Detector.load(copy, "cpu")


def test_it_goes_on_by_its_name(
    finished: RunResult, copy: Path, data: Path, monkeypatch: pytest.MonkeyPatch, other_threads: int
) -> None:
    expected = fingerprints(finished.directory.path.parent, finished.directory.path)
    (copy / "summary.json").unlink()
    assert train(["--resume", "--experiment_name", "run", "--log_dir", str(copy.parent), "--quiet"]) == 0
    monkeypatch.chdir(data)
    argv = command_line(data, copy.parent, experiment_name="run", heatmaps=0)
    assert train([*argv, "--data_path", f"../{data.name}/", "--resume"]) == 0
    found = fingerprints(copy.parent, copy)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lr", "0.5"], "--lr: was 0.001, now 0.5"),
        (["--data_path", "elsewhere"], "now 'elsewhere'"),
        (["--no_dia"], "--use_dia: was True, now False"),
        (["--adapter_mode", "gaussian"], "--adapter_mode: was 'whitening', now 'gaussian'"),
        (["--ablation_preset", "wo_lora"], "--use_lora: was True, now False"),
        (["--preset", "line"], "--num_coupling_layers: was 2, now 0"),
    ],
)
def test_what_contradicts_it_is_named(
    more: list[str], message: str, finished: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = str(finished.directory.path.parent)
    assert train(["--resume", "--experiment_name", "run", "--log_dir", logs, *more]) == 1
    assert message in capsys.readouterr().err


def test_there_is_nothing_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--resume", "--experiment_name", "rum", "--log_dir", str(tmp_path)]) == 1
    assert f"nothing to resume: {tmp_path / 'rum'} does not exist" in capsys.readouterr().err
