"""What is measured of one class."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassResult:
    """Metrics of one class; pixel metrics are NaN for a class without masks.

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
