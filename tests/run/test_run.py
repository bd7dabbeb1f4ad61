"""A whole run: what it writes, that it repeats, that it goes on after an interruption."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from run.small_runs import CLASSES, rows, run
from safetensors.torch import load_file

from moleflow_fast.cli.evaluate import main as evaluate
from moleflow_fast.config import AblationConfig
from moleflow_fast.evaluation.by_class import METRICS
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.directory import RunDirectory, RunDirectoryError
from moleflow_fast.run.run import Run
from moleflow_fast.run.session import RunResult
from moleflow_fast.system.locks import InUse
from moleflow_fast.system.tensor_file import CheckpointError
from moleflow_fast.trainer import checkpoint


def last_evaluation(result: RunResult) -> str:
    return (result.directory.path / "evaluation" / "after_task_2.csv").read_text()


def test_tables(finished: RunResult) -> None:
    path = finished.directory.path
    epochs = rows(path / "epochs.csv")
    assert [(row["task_id"], row["epoch"]) for row in epochs] == [(str(t), str(e)) for t in range(3) for e in range(2)]
    assert all(math.isfinite(float(row["loss"])) for row in epochs)
    for task in range(3):
        table = rows(path / "evaluation" / f"after_task_{task}.csv")
        assert [row["class_name"] for row in table if row["ids"] == "oracle"] == list(CLASSES[: task + 1])
        assert [int(row["task_id"]) for row in table if row["ids"] == "routed"] == list(range(task + 1))
    assert all(0 <= float(row[metric]) <= 1 for row in table for metric in METRICS if "threshold" not in metric)
    assert json.loads((path / "config.json").read_text())["options"]["lora_rank"] == 4


def test_summary_is_the_mean_of_the_last_table(finished: RunResult) -> None:
    path = finished.directory.path
    summary = json.loads((path / "summary.json").read_text())
    table = [row for row in rows(path / "evaluation" / "after_task_2.csv") if row["ids"] == "routed"]
    for metric in ("image_auroc", "pixel_auroc", "pixel_ap", "image_ap", "aupro"):
        assert summary["routed"][metric] == pytest.approx(sum(float(row[metric]) for row in table) / 3)
    assert summary["backbone_weights"] == "random (seed 0)"
    assert summary["tasks"] == [[name] for name in CLASSES]
    confusion = summary["routing_confusion"]
    right = sum(confusion[t][t] for t in range(3))
    assert [sum(row) for row in confusion] == [int(row["images"]) for row in table]
    assert summary["routed"]["routing_accuracy"] == pytest.approx(right / sum(map(sum, confusion)))


def test_one_process_a_run_directory(
    finished: RunResult, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moleflow_fast.system.locks.PATIENCE", 0.2)
    with finished.directory.held(), pytest.raises(InUse, match="is in use by another process"):
        run(data, finished.directory.path.parent, experiment_name=finished.directory.path.name, resume=True)


def test_nothing_is_forgotten_under_true_ids(finished: RunResult) -> None:
    summary = json.loads((finished.directory.path / "summary.json").read_text())
    assert summary["forgetting"]["oracle"] == {"per_task": [0, 0], "bwt_per_task": [0, 0], "mean": 0, "bwt": 0}
    tables = [rows(finished.directory.path / "evaluation" / f"after_task_{t}.csv") for t in range(3)]
    fabric = [next(row for row in table if row["ids"] == "oracle") for table in tables]
    assert fabric[0] == fabric[1] == fabric[2]


def test_pictures(finished: RunResult) -> None:
    path = finished.directory.path
    for file in [path / "routing_confusion.png", *(path / "heatmaps" / f"{name}.png" for name in CLASSES)]:
        with Image.open(file) as picture:
            assert min(picture.size) > 150
            assert len(picture.convert("RGB").getcolors(1 << 20) or range(99)) > 20


def test_diagnostics(finished: RunResult) -> None:
    numbers = json.loads((finished.directory.path / "diagnostics" / "task_1.json").read_text())
    assert numbers["task_id"] == 1
    assert numbers["z_square_per_channel"] > 0
    assert any("lora_A.1" in name for name in numbers["expert_norms"])
    assert not any("lora_A.0" in name for name in numbers["expert_norms"])


def test_same_seed_same_bits_and_another_seed_differs(finished: RunResult, data: Path, tmp_path: Path) -> None:
    again, other = run(data, tmp_path / "again"), run(data, tmp_path / "other", seed=1)
    for task in range(3):
        file = f"task_{task}.safetensors"
        expected = load_file(finished.directory.checkpoints / file)
        same, different = (load_file(r.directory.checkpoints / file) for r in (again, other))
        assert same.keys() == expected.keys()
        assert all(torch.equal(same[name], expected[name]) for name in expected)
        assert any(not torch.equal(different[name], expected[name]) for name in expected)
    assert last_evaluation(again) == last_evaluation(finished) != last_evaluation(other)


def test_the_cache_changes_nothing(finished: RunResult, data: Path, tmp_path: Path) -> None:
    assert last_evaluation(run(data, tmp_path, no_feature_cache=True, num_workers=2)) == last_evaluation(finished)


def test_rotation_trains_on_other_pixels_every_epoch(finished: RunResult, data: Path, tmp_path: Path) -> None:
    rotated = run(data, tmp_path, use_rotation_aug=True)
    assert last_evaluation(rotated) != last_evaluation(finished)
    assert last_evaluation(rotated) == last_evaluation(run(data, tmp_path / "again", use_rotation_aug=True))


def test_an_interrupted_run_resumes_to_the_same_result(
    finished: RunResult, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save_task

    def interrupt(directory: Path, moleflow: object, task_id: int, *rest: object) -> None:
        if task_id == 1:
            raise KeyboardInterrupt
        save(directory, moleflow, task_id, *rest)

    monkeypatch.setattr(checkpoint, "save_task", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, experiment_name="stopped")
    assert checkpoint.completed_tasks(tmp_path / "stopped" / "checkpoints") == [0]
    assert not RunDirectory(tmp_path / "stopped").is_finished
    monkeypatch.undo()
    resumed = run(data, tmp_path, experiment_name="stopped", resume=True)
    assert last_evaluation(resumed) == last_evaluation(finished)
    epochs = [{k: v for k, v in row.items() if k != "seconds"} for row in rows(tmp_path / "stopped" / "epochs.csv")]
    expected = rows(finished.directory.path / "epochs.csv")
    assert epochs == [{k: v for k, v in row.items() if k != "seconds"} for row in expected]


def test_resume_refuses_other_options_and_a_run_that_is_not_there(finished: RunResult, data: Path) -> None:
    logs, name = finished.directory.path.parent, finished.directory.path.name
    with pytest.raises(RunDirectoryError, match="--lr: was 0.001, now 0.01"):
        run(data, logs, experiment_name=name, run_diagnostics=True, resume=True, lr=0.01)
    with pytest.raises(RunDirectoryError, match="nothing to resume"):
        run(data, logs, experiment_name="never-started", resume=True)


def test_a_name_that_is_taken(finished: RunResult, data: Path) -> None:
    logs, name = finished.directory.path.parent, finished.directory.path.name
    with pytest.raises(RunDirectoryError, match="--resume to go on"):
        run(data, logs, experiment_name=name)


def test_evaluate_repeats_the_last_evaluation(finished: RunResult, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished.directory.path, tmp_path / "copy"))
    assert evaluate([str(copy), "--quiet"]) == 0
    assert (copy / "evaluation" / "again.csv").read_text() == last_evaluation(finished)
    assert evaluate([str(copy), "--quiet", "--score_smooth_sigma", "0"]) == 0
    again = rows(copy / "evaluation" / "again.csv")
    before = rows(copy / "evaluation" / "after_task_2.csv")
    assert [row["image_auroc"] for row in again] == [row["image_auroc"] for row in before]
    assert [row["pixel_ap"] for row in again] != [row["pixel_ap"] for row in before]


def test_evaluate_explains_what_it_cannot_do(
    finished: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([str(tmp_path)]) == 1
    assert "is no run directory" in capsys.readouterr().err
    copy = Path(shutil.copytree(finished.directory.path, tmp_path / "copy"))
    assert evaluate([str(copy), "--data_path", str(tmp_path / "moved")]) == 1
    assert "no such folder; check --data_path" in capsys.readouterr().err
    shutil.rmtree(copy / "checkpoints")
    assert evaluate([str(copy)]) == 1
    assert "holds no complete checkpoint" in capsys.readouterr().err


def test_published_tables(finished: RunResult, data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path, published_csv=True)
    folder = result.directory.path
    table = rows(folder / "evaluation" / "after_task_2.csv")
    ours = {row["class_name"]: row for row in table if row["ids"] == "routed"}
    published = {row["class_name"]: row for row in rows(folder / "continual_results_after_task_2.csv")}
    assert list(published) == [*CLASSES, "Average", "Task_0_Average", "Task_1_Average", "Task_2_Average"]
    for name in CLASSES:
        assert float(published[name]["img_auc"]) == float(ours[name]["image_auroc"])
        assert float(published[name]["pixel_auc"]) == float(ours[name]["pixel_auroc"])
    assert [row["current_task_id"] for row in rows(folder / "unified_evaluation_results.csv")] == ["0", "1", "2"]
    assert rows(folder / "unified_evaluation_results.csv")[0]["wood_img_auc"] == "-1"
    assert [row["Class Name"] for row in rows(folder / "final_results.csv")] == [*CLASSES, "Overall"]
    final = {row["metric"]: row["value"] for row in rows(folder / f"final_summary_{folder.name}.csv")}
    assert final["total_tasks"] == "3" and final["use_router"] == "True"
    assert last_evaluation(result) == last_evaluation(finished)
    assert not (finished.directory.path / "final_results.csv").exists()


def test_trained_and_evaluated_once_at_the_end(finished: RunResult, data: Path, tmp_path: Path) -> None:
    once = run(data, tmp_path, final_eval_only=True).directory.path
    assert {file.name for file in (once / "evaluation").iterdir()} == {"after_task_2.csv"}
    assert (once / "evaluation" / "after_task_2.csv").read_text() == last_evaluation(finished)
    assert {file.stem for file in (once / "heatmaps").iterdir()} == set(CLASSES)
    summary = json.loads((once / "summary.json").read_text())
    assert summary["forgetting"]["oracle"]["per_task"] == [None, None]
    (once / "summary.json").unlink()
    (once / "evaluation" / "after_task_2.csv").unlink()
    run(data, tmp_path, final_eval_only=True, resume=True)
    assert {file.name for file in (once / "evaluation").iterdir()} == {"after_task_2.csv"}
    assert (once / "summary.json").exists()


def test_a_loaded_checkpoint_is_evaluated_without_training(finished: RunResult, data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path, load_checkpoint=str(finished.directory.path), final_eval_only=True)
    assert last_evaluation(result) == last_evaluation(finished)
    assert rows(result.directory.path / "epochs.csv") == []
    summary = json.loads((result.directory.path / "summary.json").read_text())
    assert summary["forgetting"]["oracle"]["per_task"] == [None, None]


def test_a_loaded_checkpoint_goes_on_to_later_tasks(finished: RunResult, data: Path, tmp_path: Path) -> None:
    two = run(data, tmp_path / "two", task_classes=CLASSES[:2])
    more = run(data, tmp_path / "more", load_checkpoint=str(two.directory.path))
    assert last_evaluation(more) == last_evaluation(finished)
    assert evaluate([str(more.directory.path), "--quiet"]) == 0
    assert (more.directory.path / "evaluation" / "again.csv").read_text() == last_evaluation(finished)


def test_a_published_checkpoint_is_imported(finished: RunResult, data: Path, tmp_path: Path) -> None:
    source = Run(RunContext(finished.directory.options()))
    checkpoint.load_tasks(finished.directory.checkpoints, source.moleflow, source.checkpoint_options)
    folder = tmp_path / "published" / "task_2"
    folder.mkdir(parents=True)
    torch.save(source.moleflow.flow.reference_state_dict(), folder / "nf_model.pth")
    result = run(data, tmp_path, load_checkpoint=str(tmp_path / "published"), final_eval_only=True)
    assert last_evaluation(result) == last_evaluation(finished)


def test_a_checkpoint_of_other_classes_or_options(finished: RunResult, data: Path, tmp_path: Path) -> None:
    path = str(finished.directory.path)
    with pytest.raises(CheckpointError, match="task 0 learned fabric, but the options make it wood"):
        run(data, tmp_path, load_checkpoint=path, task_classes=CLASSES[::-1])
    with pytest.raises(CheckpointError, match="lora_rank: checkpoint 4, asked for 8"):
        run(data, tmp_path, load_checkpoint=path, lora_rank=8)
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        run(data, tmp_path, load_checkpoint=str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] in ([], ["features"])


def test_several_classes_in_a_task(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path, cl_scenario="2-1")
    assert [(c.class_name, c.task_id) for c in result.routed.classes] == [("fabric", 0), ("gasket", 0), ("wood", 1)]


def test_a_class_without_masks_has_image_metrics_only(data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    shutil.rmtree(copy / "gasket" / "ground_truth")
    result = run(copy, tmp_path / "logs")
    gasket = result.routed.classes[1]
    assert math.isfinite(gasket.image_auroc)
    assert math.isnan(gasket.pixel_auroc) and math.isnan(gasket.aupro)
    others = [result.routed.classes[i].pixel_ap for i in (0, 2)]
    assert result.routed.mean("pixel_ap") == pytest.approx(sum(others) / 2)
    row = rows(result.directory.path / "evaluation" / "after_task_2.csv")[1]
    assert row["class_name"] == "gasket" and row["pixel_auroc"] == "nan"


ABLATIONS = {
    "no_router": AblationConfig(use_router=False),
    "no_lora": AblationConfig(use_lora=False),
    "sequential": AblationConfig(no_freeze_base=True),
    "separated": AblationConfig(use_task_separated=True),
    "regular_linear": AblationConfig(use_regular_linear=True, use_scale_context=False),
    "spectral_norm": AblationConfig(use_spectral_norm=True, use_scale_context=False),
    "tail": AblationConfig(use_tail_aware_loss=True, score_aggregation_mode="top_k"),
    "no_positions": AblationConfig(use_pos_embedding=False, use_mahalanobis=False),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_run_to_the_end(name: str, data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path, ablation=ABLATIONS[name], task_classes=CLASSES[:2])
    assert all(math.isfinite(c.pixel_ap) for c in result.routed.classes)
    if name == "no_router":
        assert result.routed.classes == result.oracle.classes
    if name == "sequential":
        first = rows(result.directory.path / "evaluation" / "after_task_0.csv")[0]
        assert float(first["pixel_auroc"]) != result.oracle.classes[0].pixel_auroc


def test_the_slow_stage_and_no_coupling_layers(data: Path, tmp_path: Path) -> None:
    slow = run(data, tmp_path, enable_slow_stage=True, num_epochs=4, task_classes=CLASSES[:2])
    stages = [row["stage"] for row in rows(slow.directory.path / "epochs.csv")]
    assert stages == ["train"] * 4 + ["fast"] * 3 + ["slow"]
    flowless = run(data, tmp_path, num_coupling_layers=0, task_classes=CLASSES[:2])
    assert math.isfinite(flowless.routed.mean("pixel_ap"))
