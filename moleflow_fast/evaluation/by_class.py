"""Detection metrics per class, their mean, and routing accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from moleflow_fast.evaluation.class_result import METRICS, ClassResult, Evaluation
from moleflow_fast.evaluation.metrics import pixel_metrics, ranking_metrics
from moleflow_fast.evaluation.picture_maps import joined, scores_of
from moleflow_fast.evaluation.scorer import Scorer, TestClass, pixels_of
from moleflow_fast.system.phases import phase

__all__ = [
    "METRICS",
    "ClassResult",
    "Evaluation",
    "evaluate_all_tasks",
    "evaluate_class",
    "evaluate_routing_performance",
]


def evaluate_class(scorer: Scorer, test: TestClass, task_ids: Tensor) -> ClassResult:
    """Score one class, each image under its id in task_ids (N,); without images all metrics are NaN."""
    if not len(test):
        return ClassResult(test.name, test.task_id, 0, **dict.fromkeys(METRICS, math.nan))
    patch_maps = scorer.patch_maps(test, task_ids)
    scores = scores_of(patch_maps, scorer.moleflow.config)
    with phase("metrics"):
        image = ranking_metrics(scores, test.labels)
    pixel_auroc = pixel_ap = pixel_f1 = pixel_threshold = region = math.nan
    if test.defects is not None:
        maps = joined(pixels_of(scorer, patch_maps))
        with phase("metrics"):
            pixel = pixel_metrics(maps, test.defects)
        pixel_auroc, pixel_ap, pixel_f1, pixel_threshold, region = pixel
    return ClassResult(
        class_name=test.name,
        task_id=test.task_id,
        images=len(test),
        image_auroc=image.auroc,
        image_ap=image.average_precision,
        pixel_auroc=pixel_auroc,
        pixel_ap=pixel_ap,
        aupro=region,
        image_f1=image.best_f1,
        image_threshold=image.best_f1_threshold,
        pixel_f1=pixel_f1,
        pixel_threshold=pixel_threshold,
        routing_accuracy=(task_ids == test.task_id).float().mean().item(),
    )


def evaluate_all_tasks(scorer: Scorer, tests: Sequence[TestClass]) -> tuple[Evaluation, Evaluation]:
    """Every class under routed and under true ids; computed once for the same ids, until its maps are forgotten."""
    oracle = [_known_result(scorer, test, scorer.true_ids(test)) for test in tests]
    routed = [_known_result(scorer, test, scorer.route(test)) for test in tests]
    return Evaluation("routed", routed), Evaluation("oracle", oracle)


def _known_result(scorer: Scorer, test: TestClass, task_ids: Tensor) -> ClassResult:
    ids = tuple(task_ids.tolist())
    if ids not in test.results:
        test.results[ids] = evaluate_class(scorer, test, task_ids)
    return test.results[ids]


def evaluate_routing_performance(scorer: Scorer, tests: Sequence[TestClass]) -> tuple[float, Tensor]:
    """Accuracy weighted by images, and the confusion matrix (tasks, tasks): row true, column routed."""
    tasks = max(scorer.moleflow.task_classes) + 1
    confusion = torch.zeros(tasks, tasks, dtype=torch.long)
    for test in filter(len, tests):
        confusion[test.task_id] += torch.bincount(scorer.route(test), minlength=tasks)
    return (confusion.diagonal().sum() / confusion.sum()).item(), confusion
