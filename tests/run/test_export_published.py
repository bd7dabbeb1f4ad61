"""A run's checkpoints in the published layout, and back."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from run.small_runs import run

from moleflow_fast.cli.export_published import main
from moleflow_fast.config import AblationConfig
from moleflow_fast.config.options import RunOptions
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.run import Run
from moleflow_fast.run.session import ContinualRun, RunResult


def model_of(result: RunResult, task: int) -> dict[str, torch.Tensor]:
    from moleflow_fast.trainer import checkpoint

    trained = Run(RunContext(result.directory.options()))
    checkpoint.load_tasks(result.directory.checkpoints, trained.moleflow, trained.checkpoint_options, task + 1)
    return trained.moleflow.flow.state_dict()


def test_round_trip_to_the_bit(
    finished: RunResult, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(finished.directory.path), "-o", str(tmp_path / "out")]) == 0
    files = [tmp_path / "out" / f"task_{t}" / "nf_model.pth" for t in range(3)]
    assert capsys.readouterr().out.splitlines() == [f"written to {file}" for file in files]
    for task, file in enumerate(files):
        state = torch.load(file, weights_only=True)
        assert [n for n in state if n.endswith(".w_perm")] and not [n for n in state if n.endswith(".perm_index")]
        model = MoLESpatialAwareNF(32, 2, lora_rank=4, ablation_config=AblationConfig(lambda_logdet=1e-5))
        model.load_state_dict(state)
        ours, theirs = model.state_dict(), model_of(finished, task)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    back = run(data, tmp_path, load_checkpoint=str(tmp_path / "out"), final_eval_only=True)
    table = Path("evaluation") / "after_task_2.csv"
    assert (back.directory.path / table).read_text() == (finished.directory.path / table).read_text()


@pytest.mark.parametrize("covariance", ["published", "pooled"])
def test_another_router_is_left_behind_and_said(
    covariance: str, finished: RunResult, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_path = Path(shutil.copytree(finished.directory.path, tmp_path / "copy"))
    config = json.loads((run_path / "config.json").read_text())
    config["options"]["ablation"]["router_covariance"] = covariance
    (run_path / "config.json").write_text(json.dumps(config))
    shutil.rmtree(run_path / "checkpoints")
    again = RunOptions.from_json(config["options"])
    ContinualRun(dataclasses.replace(again, experiment_name="copy", log_dir=str(tmp_path), resume=True)).execute()
    assert main([str(run_path), "-o", str(tmp_path / "out")]) == 0
    assert ("--router_covariance pooled, which these files do not hold" in caplog.text) == (covariance == "pooled")
    back = run(data, tmp_path, load_checkpoint=str(tmp_path / "out"), final_eval_only=True, ablation=again.ablation)
    table = Path("evaluation") / "after_task_2.csv"
    assert (back.directory.path / table).read_text() == (run_path / table).read_text()


def test_what_cannot_be_exported(finished: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(path: Path, output: Path) -> str:
        assert main([str(path), "-o", str(output)]) == 1
        return capsys.readouterr().err

    assert "is no run directory" in error(tmp_path, tmp_path)
    (tmp_path / "file").write_text("")
    assert "nf_model.pth could not be written" in error(finished.directory.path, tmp_path / "file")
    copy = Path(shutil.copytree(finished.directory.path, tmp_path / "copy"))
    (copy / "checkpoints" / "task_1.safetensors").write_bytes(b"")
    assert "task_1.safetensors is damaged" in error(copy, tmp_path / "out")
    shutil.rmtree(copy / "checkpoints")
    assert "nothing to export" in error(copy, tmp_path / "out")
