"""Files of the published logger, by name, column and value, as its format is described."""

import csv
import json
from pathlib import Path

import pytest

from moleflow_fast.config import AblationConfig
from moleflow_fast.system.files import WriteFailed
from moleflow_fast.utils.logger import TrainingLogger, setup_training_logger

RESULTS = {
    "classes": ["bolt", "nut"], "task_ids": [0, 1], "img_aucs": [0.9, 0.8], "pixel_aucs": [0.7, 0.6],
    "img_aps": [0.5, 0.4], "pixel_aps": [0.3, 0.2], "routing_accuracies": [1.0, None],
    "mean_img_auc": 0.85, "mean_pixel_auc": 0.65, "mean_img_ap": 0.45, "mean_pixel_ap": 0.25,
    "mean_routing_accuracy": None, "task_avg_img_aucs": {0: 0.9, 1: 0.8}, "task_avg_pixel_aucs": {0: 0.7, 1: 0.6},
    "task_avg_img_aps": {0: 0.5, 1: 0.4}, "task_avg_pixel_aps": {0: 0.3, 1: 0.2},
    "task_avg_routing_accuracies": {0: 1.0},
}  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> TrainingLogger:
    return setup_training_logger(tmp_path, "bolts")


def table(log: TrainingLogger, name: str) -> list[list[str]]:
    with (log.log_dir / name).open(newline="") as stream:
        return list(csv.reader(stream))


def test_lines_go_to_the_file_and_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = TrainingLogger(tmp_path, "bolts")
    log.warning("%d of %d", 2, 3)
    log.log_batch(1, 0, 5, 2, 10, 3.25, 3.5, extra_info={"LR": 0.25})
    log.close()
    text = (tmp_path / "bolts" / "bolts.log").read_text()
    assert "| WARNING | 2 of 3" in text and "2 of 3" in capsys.readouterr().err
    assert "[TRAIN] task 1, epoch 1/5, batch 3/10: loss 3.2500, mean 3.5000, LR 0.2500" in text
    again = TrainingLogger(tmp_path, "bolts")
    assert "2 of 3" not in again.log_file.read_text() and len(again.logger.handlers) == 2
    assert TrainingLogger(tmp_path).experiment_name.startswith("continual_training_2")


def test_configuration(log: TrainingLogger) -> None:
    log.save_config({"lr": 1e-4, "device": Path("cuda"), "classes": ["a"]})
    assert json.loads((log.log_dir / "config.json").read_text()) == {"lr": 1e-4, "device": "cuda", "classes": ["a"]}


def test_an_evaluation_a_row(log: TrainingLogger) -> None:
    for epoch in (0, 1):
        log.save_evaluation_results_csv(0, epoch, ["bolt", "nut"], [0.9, 0.8], [0.7, 0.6], [1.0, None])
    header, *rows = table(log, "evaluation_results_task_0.csv")
    assert header == [
        "timestamp", "task_id", "epoch", "bolt_img_auc", "bolt_pixel_auc", "bolt_routing_acc", "nut_img_auc",
        "nut_pixel_auc", "nut_routing_acc", "mean_img_auc", "mean_pixel_auc", "mean_routing_acc",
    ]  # fmt: skip
    assert [row[2] for row in rows] == ["0", "1"]
    assert rows[0][3:] == ["0.9", "0.7", "1.0", "0.8", "0.6", "-1.0", "0.8500000000000001", "0.6499999999999999", "1.0"]
    log.save_evaluation_results_csv(0, 2, ["bolt"], [0.9], [0.7])
    header, *rows = table(log, "evaluation_results_task_0.csv")
    assert header[3:] == ["bolt_img_auc", "bolt_pixel_auc", "mean_img_auc", "mean_pixel_auc"] and len(rows) == 1
    assert "written anew" in log.log_file.read_text()


def test_continual_results(log: TrainingLogger) -> None:
    log.save_continual_results_csv(
        1, ["nut"], ["bolt", "nut"], [0.5, 0.25], [0.5, 0.75], [["bolt"], ["nut"]], [1.0, None]
    )
    assert table(log, "continual_results_after_task_1.csv") == [
        ["class_name", "task_id", "img_auc", "pixel_auc", "is_current_task", "routing_accuracy"],
        ["bolt", "0", "0.5", "0.5", "False", "1.0"],
        ["nut", "1", "0.25", "0.75", "True", "-1.0"],
        ["Average", "", "0.375", "0.625", "", "1.0"],
        ["Task_0_Average", "0", "0.5", "0.5", "", "1.0"],
        ["Task_1_Average", "1", "0.25", "0.75", "", "-1.0"],
    ]


def test_all_evaluations_in_one_table(log: TrainingLogger) -> None:
    log.save_unified_evaluation_csv(0, 9, ["nut"], [0.5], [0.25], ["bolt", "nut"], [0.75])
    log.save_unified_evaluation_csv(1, 9, ["nut", "bolt"], [0.5, 1.0], [0.25, 0.5], ["bolt", "nut"], [0.75, None])
    header, first, second = table(log, "unified_evaluation_results.csv")
    assert header[:4] == ["timestamp", "current_task_id", "epoch", "bolt_img_auc"] and len(header) == 12
    assert first[3:] == ["-1", "-1", "-1.0", "0.5", "0.25", "0.75", "0.5", "0.25", "0.75"]
    assert second[3:] == ["1.0", "0.5", "-1.0", "0.5", "0.25", "0.75", "0.75", "0.375", "0.75"]


def test_training_log(log: TrainingLogger) -> None:
    log.save_training_log_csv(2, 0, 5, {"nll": 1.5, "logdet": None}, 0.25)
    log.save_training_log_csv(2, 1, 6, {"nll": 2.5, "other": 7}, 0.125, stage="SLOW")
    header, first, second = table(log, "training_log_task_2.csv")
    assert header == ["timestamp", "task_id", "epoch", "iteration", "stage", "logdet", "nll", "lr"]
    assert first[1:] == ["2", "0", "5", "FAST", "0.0", "1.5", "0.25"]
    assert second[1:] == ["2", "1", "6", "SLOW", "0.0", "2.5", "0.125"]


def test_final_results(log: TrainingLogger) -> None:
    log.save_final_results_table(RESULTS, [["bolt"], ["nut"]])
    assert table(log, "final_results.csv") == [
        ["Task ID", "Class Name", "Routing Acc (%)", "Image AUC", "Pixel AUC", "Image AP", "Pixel AP"],
        ["0", "bolt", "100.00", "0.9000", "0.7000", "0.5000", "0.3000"],
        ["1", "nut", "N/A", "0.8000", "0.6000", "0.4000", "0.2000"],
        ["Mean", "Overall", "100.00", "0.8500*", "0.6500*", "0.4500*", "0.2500*"],
    ]


def test_final_summary(log: TrainingLogger) -> None:
    log.save_final_summary(
        "MoLE-Flow", ["bolt"], [0.5], [0.25], 1, AblationConfig(use_lora=False), 0.75, {"oracle": 1}, [0.125], []
    )
    rows = dict(table(log, "final_summary_bolts.csv"))
    assert list(rows) == [
        "metric", "experiment_name", "strategy", "final_average_img_auc", "final_average_pixel_auc",
        "final_average_img_ap", "total_classes", "total_tasks", "final_routing_accuracy", "---ablation_config---",
        "use_lora", "use_router", "use_task_adapter", "use_pos_embedding", "use_task_bias", "use_mahalanobis",
        "---class_results---", "bolt_img_auc", "bolt_pixel_auc", "bolt_img_ap", "---additional_metrics---", "oracle",
    ]  # fmt: skip
    assert (rows["strategy"], rows["use_lora"], rows["bolt_img_ap"]) == ("MoLE-Flow", "False", "0.125")


@pytest.mark.parametrize("kinds", ["training", "evaluation", "both", "neither"])
def test_all_figures(kinds: str, log: TrainingLogger) -> None:
    if kinds in ("training", "both"):
        log.log_epoch(0, 0, 2, 7.5, "BASE", {"LR": 0.25})
    if kinds in ("evaluation", "both"):
        log.save_evaluation_metrics(RESULTS)
    log.close()
    file = log.log_dir / "bolts_metrics.csv"
    assert file.exists() == (kinds != "neither")
    if kinds == "training":
        assert table(log, file.name)[1] == ["0", "0", "BASE", "7.5", "0.25"]
    if kinds == "evaluation":
        assert [row[0] for row in table(log, file.name)] == [
            "class_name", "bolt", "nut", "Task_0_Average", "Task_1_Average", "Overall_Average",
        ]  # fmt: skip
        assert table(log, file.name)[2] == ["nut", "1", "0.8", "0.6", "0.4", "0.2", "-1.0"]
    if kinds == "both":
        header, epoch, first, *_ = table(log, file.name)
        assert header[:6] == ["task_id", "epoch", "stage", "loss", "learning_rate", "class_name"]
        assert epoch == ["0", "0.0", "BASE", "7.5", "0.25", *[""] * 6] and first[:6] == ["0", "", "", "", "", "bolt"]


def test_a_table_that_cannot_be_written_is_named(log: TrainingLogger) -> None:
    (log.log_dir / "final_results.csv").mkdir()
    with pytest.raises(WriteFailed, match=r"final_results\.csv could not be written"):
        log.save_final_results_table(RESULTS)
