"""summary.json: final means, forgetting, routing confusion, and where the time went."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from moleflow_fast.evaluation.class_result import Evaluation
from moleflow_fast.evaluation.forgetting import Forgetting
from moleflow_fast.run.run import Run

HEADLINE = ("image_auroc", "pixel_auroc", "pixel_ap", "image_ap", "aupro", "routing_accuracy")


def summary_of(
    run: Run,
    tasks: list[list[str]],
    confusion: Tensor,
    evaluations: tuple[Evaluation, Evaluation],
    under: Mapping[str, Forgetting],
    notes: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """
    Args:
        confusion: (tasks, tasks), images by true and routed task.
        evaluations: the last one, routed and oracle.
        under: forgetting under these ids.
        notes: what is said besides.
        seconds: by phase.
    """
    routed, oracle = evaluations
    return {
        "tasks": tasks,
        "backbone_weights": run.extractor.weights_origin,
        "backbone_parity": None if run.parity is None else asdict(run.parity),
        "routing_confusion": confusion.tolist(),
        "routed": {name: _plain(routed.mean(name)) for name in HEADLINE},
        "oracle": {name: _plain(oracle.mean(name)) for name in HEADLINE},
        "forgetting": {ids: _of_forgetting(f) for ids, f in under.items()},
        **notes,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def _of_forgetting(forgetting: Forgetting) -> dict[str, Any]:
    return {
        "per_task": [_plain(value) for value in forgetting.measure],
        "bwt_per_task": [_plain(value) for value in forgetting.transfer],
        "mean": _plain(forgetting.mean_measure),
        "bwt": _plain(forgetting.bwt),
    }


def _plain(value: float) -> float | None:
    """NaN is not JSON."""
    return None if math.isnan(value) else value
