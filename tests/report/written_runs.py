"""Run directories as a run writes them, with figures that a test chooses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moleflow_fast.config.options import RunOptions
from moleflow_fast.evaluation.by_class import ClassResult, Evaluation
from moleflow_fast.run.asked import parse_options
from moleflow_fast.run.directory import RunDirectory

CLASSES = ("bolt", "cable", "disc", "gear", "plate")
BASELINE = "MVTec-WRN50-60ep-lr2e4-dia4"
PROTOCOL = (
    "--dataset", "folder", "--data_path", "parts", "--num_epochs", "4", "--img_size", "128",
    "--backbone_name", "mobilenetv2_100",
)  # fmt: skip

PUBLISHED = ("--preset", "published")  # unless arguments name another one

Figures = Mapping[str, tuple[float, float]]


def write_run(root: Path, figures: Figures, *arguments: str, seed: int = 0, name: str | None = None) -> Path:
    """A finished run.

    Args:
        figures: class -> (image AUROC, pixel AP).
        arguments: command line beside PROTOCOL; what is said twice counts as it stands here.
        name: of its directory; the run's own name if left out.
    """
    naming = ["--experiment_name", name] if name else []
    argv = [*PUBLISHED, *PROTOCOL, *arguments, *naming, "--seed", str(seed), "--log_dir", str(root)]
    return write_with_options(parse_options(argv), figures)


def write_with_options(options: RunOptions, figures: Figures) -> Path:
    directory = RunDirectory.create(options)
    results = [_result(name, task, *pair) for task, (name, pair) in enumerate(figures.items())]
    routed, oracle = Evaluation("routed", results), Evaluation("oracle", results)
    directory.write_evaluation(len(results) - 1, (routed, oracle))
    metrics = ("image_auroc", "pixel_auroc", "pixel_ap", "image_ap", "aupro", "routing_accuracy")
    means = {metric: routed.mean(metric) for metric in metrics}
    lost = {"per_task": [0.01] * (len(results) - 1), "bwt_per_task": [-0.01] * (len(results) - 1)}
    directory.write_summary(
        {
            "tasks": [[name] for name in figures],
            "routing_confusion": [[9 if i == j else i // 2 for j in range(len(results))] for i in range(len(results))],
            "routed": means,
            "oracle": means,
            "forgetting": {"routed": lost, "oracle": lost},
            "seconds": {"imports": 3.0, "training": 20.0 + options.seed, "decoding": 5.0, "rest": 1.0},
        }
    )
    return directory.path


def figures(image: float, pixel: float, spread: float = 0.01, classes: Sequence[str] = CLASSES) -> Figures:
    """Figures of every class around a mean, a fixed step apart."""
    middle = (len(classes) - 1) / 2
    return {name: (image + spread * (i - middle), pixel + spread * (i - middle)) for i, name in enumerate(classes)}


def write_results(sweep: Path, *records: Mapping[str, Any], torn: str = "") -> None:
    """results.jsonl of a sweep; `torn` is the beginning of a line that was being written."""
    sweep.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) for record in records]
    (sweep / "results.jsonl").write_text("\n".join([*lines, torn]))


def _result(name: str, task: int, image: float, pixel: float) -> ClassResult:
    return ClassResult(
        class_name=name, task_id=task, images=10, image_auroc=image, image_ap=image, pixel_auroc=0.9, pixel_ap=pixel,
        aupro=0.8, image_f1=0.9, image_threshold=1.0, pixel_f1=0.5, pixel_threshold=1.0, routing_accuracy=1.0,
    )  # fmt: skip
