"""What is measured of one class, and of all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ClassResult:
    """Metrics of one class; pixel metrics are NaN for a class without masks, all without test images.

    Thresholds are those of the best F1; `routing_accuracy` is the fraction of images sent to their own task.
    """

    class_name: str
    task_id: int
    images: int
    image_auroc: float
    image_ap: float
    pixel_auroc: float
    pixel_ap: float
    aupro: float
    image_f1: float
    image_threshold: float
    pixel_f1: float
    pixel_threshold: float
    routing_accuracy: float


METRICS = tuple(f.name for f in fields(ClassResult) if f.name not in ("class_name", "task_id", "images"))


@dataclass(frozen=True)
class Evaluation:
    """All classes learned so far, under `ids` "routed" or "oracle"."""

    ids: str
    classes: list[ClassResult]

    def mean(self, metric: str) -> float:
        """Plain mean over the classes that have the metric; routing accuracy is weighted by images."""
        if metric == "routing_accuracy":
            tested = [c for c in self.classes if c.images]
            images = sum(c.images for c in tested)
            return sum(c.routing_accuracy * c.images for c in tested) / images if images else math.nan
        values = [v for c in self.classes if not math.isnan(v := getattr(c, metric))]
        return sum(values) / len(values) if values else math.nan

    def of_task(self, task_id: int, metric: str) -> float:
        """Mean of a metric over the classes of one task."""
        return Evaluation(self.ids, [c for c in self.classes if c.task_id == task_id]).mean(metric)
