"""The evaluation of the published package: a trainer and args in, dicts out.

Images are those of `args.dataset` in `args.data_path`; their features are computed once and kept, as while training.
Scores that are not finite count as the most anomalous, where the published code has 0 and 1.
"""

from __future__ import annotations

import logging
import math
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from moleflow_fast.data.datasets import get_dataset_class, read_masks
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.evaluation import by_class
from moleflow_fast.evaluation.scorer import Scorer, TestClass
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
from moleflow_fast.trainer.loader_features import features_of

logger = logging.getLogger(__name__)

_SIGMA = 4.0
_INTERPOLATION = "bilinear"
_BATCH = 16
_WORKERS = 4
_METRICS = {"img_auc": "image_auroc", "pixel_auc": "pixel_auroc", "img_ap": "image_ap", "pixel_ap": "pixel_ap"}


def evaluate_class(
    trainer: MoLEContinualTrainer, class_name: str, args: Any, task_id: int | None = None,
    ground_truth_task_id: int | None = None, target_size: int = 224,
) -> dict[str, Any]:  # fmt: skip
    """Score the test images of one class.

    Args:
        args: anything with dataset (mvtec if it has none), data_path and img_size; view if it has one.
        task_id: the expert of every image; None routes each.
        ground_truth_task_id: what routes are compared with; it decides no score.
        target_size: side of the maps that are compared with masks.

    Returns:
        `img_auc`, `pixel_auc`, `img_ap`, `pixel_ap` (fractions; NaN where they do not exist), `routing_accuracy` (a
        fraction; None unless images were routed and it is known where to), `routing_distribution` (task id -> images),
        `n_samples`.

    Raises:
        DataError: images or masks are not there or cannot be read.
    """
    test = _test_class(trainer, class_name, args, ground_truth_task_id or 0, target_size)
    scorer = Scorer(trainer.moleflow, target_size, _SIGMA, _INTERPOLATION, _BATCH)
    ids = scorer.route(test) if task_id is None else torch.full((len(test),), task_id)
    result = by_class.evaluate_class(scorer, test, ids)
    found, counts = ids.unique(return_counts=True)
    compared = task_id is None and ground_truth_task_id is not None
    return {
        **{name: getattr(result, metric) for name, metric in _METRICS.items()},
        "routing_accuracy": ids.eq(ground_truth_task_id).float().mean().item() if compared else None,  # type: ignore[arg-type]
        "routing_distribution": dict(zip(found.tolist(), counts.tolist(), strict=True)),
        "n_samples": len(test),
    }


def evaluate_all_tasks(
    trainer: MoLEContinualTrainer, args: Any, use_router: bool = True, target_size: int = 224
) -> dict[str, Any]:
    """`evaluate_class` of every class learned, routed or each under its own task.

    Returns:
        Lists with an entry a class (`classes`, `task_ids`, `img_aucs`, `pixel_aucs`, `img_aps`, `pixel_aps`,
        `routing_accuracies`, `routing_distributions`, `n_samples`), the same by class (`class_img_aucs`, ...), means
        over classes (`mean_img_auc`, ..., `mean_routing_accuracy` weighted by images) and by task
        (`task_avg_img_aucs`, ...). Pixel metrics of classes without masks are NaN, and left out of means.
    """
    routed = use_router and trainer.config.use_router
    found = [
        (task_id, name, evaluate_class(trainer, name, args, None if routed else task_id, task_id, target_size))
        for task_id, names in trainer.task_classes.items()
        for name in names
    ]
    if not found:
        logger.warning("nothing to evaluate: the trainer has learned no task")
    names, tasks = [name for _, name, _ in found], [task_id for task_id, _, _ in found]
    results: dict[str, Any] = {
        "classes": names,
        "task_ids": tasks,
        "routing_distributions": [result["routing_distribution"] for *_, result in found],
        "n_samples": [result["n_samples"] for *_, result in found],
    }
    for name in _METRICS:
        values = [result[name] for *_, result in found]
        results |= {f"{name}s": values, f"class_{name}s": dict(zip(names, values, strict=True))}
        results |= {f"mean_{name}": _mean(values), f"task_avg_{name}s": _by_task(tasks, values)}
    accuracies = [result["routing_accuracy"] for *_, result in found]
    known = [(value, count) for value, count in zip(accuracies, results["n_samples"], strict=True) if value is not None]
    weighted = sum(value * count for value, count in known) / sum(count for _, count in known) if known else None
    of_known_tasks = [task for task, value in zip(tasks, accuracies, strict=True) if value is not None]
    return results | {
        "routing_accuracies": accuracies,
        "class_routing_accuracies": dict(zip(names, accuracies, strict=True)),
        "mean_routing_accuracy": weighted,
        "task_avg_routing_accuracies": _by_task(of_known_tasks, [value for value, _ in known]),
    }


def evaluate_routing_performance(trainer: MoLEContinualTrainer, args: Any, target_size: int = 224) -> dict[str, Any]:
    """Where the router sends the test images of every class learned.

    Returns:
        Lists with an entry a class: `class_name`, `ground_truth_task`, `predicted_tasks` ((n,) integers),
        `correct_count`, `total_count`, `accuracy`. And `overall_accuracy`, `task_accuracies` (task id -> fraction),
        `confusion_matrix` (T, T), images by true (row) and predicted task.

    Raises:
        RuntimeError: the router has no prototype.
    """
    tests = [
        _test_class(trainer, name, args, task_id, target_size, with_masks=False)
        for task_id, names in trainer.task_classes.items()
        for name in names
    ]
    routes = [trainer.router.route(test.source.image_features).cpu() for test in tests]
    truth = [test.task_id for test in tests]
    correct = [int((route == task).sum()) for route, task in zip(routes, truth, strict=True)]
    total = [len(test) for test in tests]
    tasks = sorted(trainer.task_classes)
    confusion = np.zeros((len(tasks), len(tasks)), dtype=int)
    for route, task in zip(routes, truth, strict=True):
        confusion[tasks.index(task)] += [int((route == other).sum()) for other in tasks]
    images = confusion.sum(1)
    return {
        "class_name": [test.name for test in tests],
        "ground_truth_task": truth,
        "predicted_tasks": [route.numpy() for route in routes],
        "correct_count": correct,
        "total_count": total,
        "accuracy": [one / count for one, count in zip(correct, total, strict=True)],
        "overall_accuracy": sum(correct) / sum(total) if total else 0.0,
        "task_accuracies": {task: confusion[i, i] / max(images[i], 1) for i, task in enumerate(tasks)},
        "confusion_matrix": confusion,
    }


def _test_class(
    trainer: MoLEContinualTrainer, name: str, args: Any, task_id: int, size: int, with_masks: bool = True
) -> TestClass:
    layout = get_dataset_class(getattr(args, "dataset", "mvtec"))
    dataset = layout(
        Path(args.data_path), name, train=False, img_size=args.img_size, crp_size=args.img_size, msk_size=size,
        view=_square_view(args),
    )  # fmt: skip
    with closing(Decoder(_WORKERS if len(dataset) > _BATCH else 0)) as decoder:
        source = features_of(dataset, trainer.vit_extractor, trainer.device, args, _BATCH, decoder)
        masks = read_masks(dataset, decoder) if with_masks and dataset.has_masks else None
    labels = torch.tensor([sample.label for sample in dataset.samples])
    return TestClass(name, task_id, source, labels, masks)


def _square_view(args: Any) -> str:
    """As the items of `create_task_dataset` are seen, of which each is one square."""
    view = getattr(args, "view", "crop")
    return "whole" if view == "tiles" else view


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan if values else 0.0


def _by_task(tasks: list[int], values: list[float]) -> dict[int, float]:
    return {task: _mean([v for t, v in zip(tasks, values, strict=True) if t == task]) for task in dict.fromkeys(tasks)}
