"""The logger object of the published package: lines on the screen and in a file, tables, the configuration."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from moleflow_fast.system.files import replacing
from moleflow_fast.utils import result_tables
from moleflow_fast.utils.result_tables import Routing, Values


class TrainingLogger:
    """Writes to `log_dir/experiment_name/`, as the published logger does; tables are those of `result_tables`.

    `MoLEContinualTrainer.set_logger` takes one. Where a table cannot be written, WriteFailed names it.

    Args:
        log_dir: where experiments lie.
        experiment_name: None for `continual_training_` and the time.

    Attributes:
        log_dir: the folder of this experiment.
        log_file: its text, written anew.
    """

    def __init__(self, log_dir: str | Path = "./logs", experiment_name: str | None = None) -> None:
        self.experiment_name = experiment_name or f"continual_training_{datetime.now():%Y%m%d_%H%M%S}"
        self.log_dir = Path(log_dir) / self.experiment_name
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.log_file = self.log_dir / f"{self.experiment_name}.log"
        self.metrics_history: dict[str, list[Any]] = {
            name: [] for name in ("task_id", "epoch", "stage", "loss", "learning_rate")
        }
        self.evaluation_metrics: dict[str, list[Any]] = {
            name: []
            for name in ("class_name", "task_id", "img_auc", "pixel_auc", "img_ap", "pixel_ap", "routing_accuracy")
        }
        self.logger = self._new_logger()
        self.info(f"experiment {self.experiment_name}, in {self.log_dir}")

    def _new_logger(self) -> logging.Logger:
        logger = logging.getLogger(self.experiment_name)
        self._remove_handlers(logger)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        form = logging.Formatter("%(asctime)s | %(levelname)s | %(message)s", "%Y-%m-%d %H:%M:%S")
        for handler in (logging.FileHandler(self.log_file, mode="w", encoding="utf-8"), logging.StreamHandler()):
            handler.setFormatter(form)
            logger.addHandler(handler)
        return logger

    @staticmethod
    def _remove_handlers(logger: logging.Logger) -> None:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()

    def close(self) -> None:
        """Write the table of all figures, and let go of the files."""
        self.save_metrics_summary()
        self.info(f"end of {self.experiment_name}")
        self._remove_handlers(self.logger)

    # -- lines ---------------------------------------------------------------------------------------

    def debug(self, message: str, *args: Any) -> None:
        self.logger.debug(message, *args)

    def info(self, message: str, *args: Any) -> None:
        self.logger.info(message, *args)

    def warning(self, message: str, *args: Any) -> None:
        self.logger.warning(message, *args)

    def error(self, message: str, *args: Any) -> None:
        self.logger.error(message, *args)

    def log_task_start(self, task_id: int, task_classes: Sequence[str], num_epochs: int, lr: float) -> None:
        self.info(f"task {task_id}: {', '.join(task_classes)}; {num_epochs} epochs, learning rate {lr:.2e}")

    def log_stage_start(self, stage_name: str, num_epochs: int, details: Mapping[str, Any] | None = None) -> None:
        self.info(f"stage {stage_name}: {num_epochs} epochs{_listed(details)}")

    def log_epoch(
        self, task_id: int, epoch: int, total_epochs: int, avg_loss: float, stage: str = "TRAIN",
        extra_info: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Epochs count from 0. `extra_info["LR"]` is the learning rate of the table of all figures."""
        where = f"[{stage}] task {task_id}, epoch {epoch + 1}/{total_epochs}"
        self.info(f"{where}: loss {avg_loss:.4f}{_listed(extra_info)}")
        row = (task_id, epoch, stage, avg_loss, (extra_info or {}).get("LR", 0.0))
        for column, value in zip(self.metrics_history.values(), row, strict=True):
            column.append(value)

    def log_batch(
        self, task_id: int, epoch: int, total_epochs: int, batch_idx: int, total_batches: int, batch_loss: float,
        avg_loss: float, stage: str = "TRAIN", extra_info: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Epochs and batches count from 0."""
        self.info(
            f"[{stage}] task {task_id}, epoch {epoch + 1}/{total_epochs}, batch {batch_idx + 1}/{total_batches}: "
            f"loss {batch_loss:.4f}, mean {avg_loss:.4f}{_listed(extra_info)}"
        )

    def log_model_info(self, model_name: str, num_params: int, details: Mapping[str, Any] | None = None) -> None:
        self.info(f"{model_name}: {num_params:,} parameters{_listed(details)}")

    def log_task_complete(self, task_id: int) -> None:
        self.info(f"task {task_id}: done")

    def log_prototype_creation(self, task_id: int, n_samples: int, mean_shape: Sequence[int]) -> None:
        self.info(f"task {task_id}: prototype of {n_samples} images, mean {tuple(mean_shape)}")

    def log_feature_stats(
        self, n_samples: int, mean_norm: float, std_mean: float, std_min: float, std_max: float
    ) -> None:
        self.info(
            f"features: {n_samples} samples, norm of the mean {mean_norm:.4f}, deviation {std_mean:.4f} "
            f"({std_min:.4f} to {std_max:.4f})"
        )

    def log_evaluation(self, task_id: int, metrics: Mapping[str, Any]) -> None:
        self.info(f"evaluation after task {task_id}{_listed(metrics)}")

    # -- files ---------------------------------------------------------------------------------------

    def save_config(self, config: Mapping[str, Any], filename: str = "config.json") -> None:
        """As JSON; what JSON does not know is written as text."""
        with replacing(self.log_dir / filename) as temporary:
            temporary.write_text(json.dumps({name: _plain(value) for name, value in config.items()}, indent=4))

    def save_evaluation_metrics(self, results: Mapping[str, Any]) -> None:
        """Keep what `evaluate_all_tasks` gives, with its means, for the table of all figures."""
        names, count = results.get("classes", []), len(results.get("classes", []))
        routing = results.get("routing_accuracies") or [None] * count
        columns = [results.get(key) or [0.0] * count for key in ("img_aucs", "pixel_aucs", "img_aps", "pixel_aps")]
        for name, task, accuracy, *values in zip(names, results.get("task_ids", []), routing, *columns, strict=True):
            self._keep(name, task, *values, accuracy)
        for task, image in results.get("task_avg_img_aucs", {}).items():
            others = [
                results.get(f"task_avg_{key}", {}).get(task, 0.0) for key in ("pixel_aucs", "img_aps", "pixel_aps")
            ]
            accuracy = results.get("task_avg_routing_accuracies", {}).get(task)
            self._keep(f"Task_{task}_Average", task, image, *others, accuracy)
        if "mean_img_auc" in results:
            keys = ("mean_img_auc", "mean_pixel_auc", "mean_img_ap", "mean_pixel_ap")
            means = [results.get(key, 0.0) for key in keys]
            self._keep("Overall_Average", -1, *means, results.get("mean_routing_accuracy"))

    def _keep(self, name: str, task_id: int, *values: float | None) -> None:
        *figures, accuracy = values
        row = (name, task_id, *figures, result_tables.UNKNOWN if accuracy is None else accuracy)
        for column, value in zip(self.evaluation_metrics.values(), row, strict=True):
            column.append(value)

    def save_training_log_csv(
        self, task_id: int, epoch: int, iteration: int, losses: Mapping[str, Any], lr: float, stage: str = "FAST"
    ) -> None:
        result_tables.training_log(self.log_dir, task_id, epoch, iteration, losses, lr, stage)

    def save_evaluation_results_csv(
        self, task_id: int, epoch: int, class_names: Sequence[str], img_aucs: Values, pixel_aucs: Values,
        routing_accuracies: Routing = None,
    ) -> None:  # fmt: skip
        if not result_tables.evaluation(
            self.log_dir, task_id, epoch, class_names, img_aucs, pixel_aucs, routing_accuracies
        ):
            self.warning(f"evaluation_results_task_{task_id}.csv was of other classes: written anew")

    def save_continual_results_csv(
        self, task_id: int, current_classes: Sequence[str], all_classes: Sequence[str], img_aucs: Values,
        pixel_aucs: Values, continual_tasks: Sequence[Sequence[str]], routing_accuracies: Routing = None,
    ) -> None:  # fmt: skip
        result_tables.continual(
            self.log_dir, task_id, current_classes, all_classes, img_aucs, pixel_aucs, continual_tasks,
            routing_accuracies,
        )  # fmt: skip

    def save_unified_evaluation_csv(
        self, task_id: int, epoch: int, all_classes: Sequence[str], img_aucs: Values, pixel_aucs: Values,
        ALL_CLASSES: Sequence[str], routing_accuracies: Routing = None,
    ) -> None:  # fmt: skip
        result_tables.unified(
            self.log_dir, task_id, epoch, all_classes, img_aucs, pixel_aucs, ALL_CLASSES, routing_accuracies
        )

    def save_final_results_table(self, results: Mapping[str, Any], continual_tasks: Any = None) -> None:
        """Write `final_results.csv` and show it; task ids are those of `results`."""
        for row in result_tables.final(self.log_dir, results):
            self.info("  ".join(f"{cell:>15}" for cell in row))

    def save_final_summary(
        self, strategy_name: str, all_classes: Sequence[str], img_aucs: Values, pixel_aucs: Values, num_tasks: int,
        ablation_config: Any = None, routing_accuracy: float | None = None,
        additional_metrics: Mapping[str, Any] | None = None, img_aps: Values | None = None,
        pixel_aps: Values | None = None,
    ) -> None:  # fmt: skip
        """Write `final_summary_{experiment_name}.csv`."""
        kinds = {"img_auc": img_aucs, "pixel_auc": pixel_aucs, "img_ap": img_aps, "pixel_ap": pixel_aps}
        pairs = result_tables.summary_of(
            self.experiment_name, strategy_name, all_classes,
            {kind: values for kind, values in kinds.items() if values is not None and len(values)},
            num_tasks, ablation_config, routing_accuracy, additional_metrics or {},
        )  # fmt: skip
        result_tables.summary(self.log_dir / f"final_summary_{self.experiment_name}.csv", pairs)

    def save_metrics_summary(self) -> None:
        """Write `{experiment_name}_metrics.csv`: every epoch and every evaluation."""
        file = self.log_dir / f"{self.experiment_name}_metrics.csv"
        result_tables.metrics(file, self.metrics_history, self.evaluation_metrics)


def setup_training_logger(log_dir: str | Path = "./logs", experiment_name: str | None = None) -> TrainingLogger:
    """A new `TrainingLogger`."""
    return TrainingLogger(log_dir, experiment_name)


def _listed(values: Mapping[str, Any] | None) -> str:
    items = (values or {}).items()
    return "".join(f", {key} {value:.4f}" if isinstance(value, float) else f", {key} {value}" for key, value in items)


def _plain(value: Any) -> Any:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value
