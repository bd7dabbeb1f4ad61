"""Images and masks: MVTec AD, VisA, MPDD, any folder in MVTec AD layout, and a synthetic demo set."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import DataError
from .layouts import Sample

if TYPE_CHECKING:
    from .check import DataReport, check_dataset
    from .datasets import (
        DATASET_REGISTRY,
        FOLDER,
        MPDD,
        MPDD_CLASS_NAMES,
        MVTEC,
        MVTEC_CLASS_NAMES,
        VISA,
        VISA_CLASS_NAMES,
        AnomalyImages,
        TaskDataset,
        create_task_dataset,
        get_class_names,
        get_dataset_class,
    )

__all__ = [
    "DATASET_REGISTRY",
    "FOLDER",
    "MPDD",
    "MPDD_CLASS_NAMES",
    "MVTEC",
    "MVTEC_CLASS_NAMES",
    "VISA",
    "VISA_CLASS_NAMES",
    "AnomalyImages",
    "DataError",
    "DataReport",
    "Sample",
    "TaskDataset",
    "check_dataset",
    "create_task_dataset",
    "get_class_names",
    "get_dataset_class",
]

_OF_CHECK = ("DataReport", "check_dataset")


def __getattr__(name: str) -> Any:
    """Torch comes in with the data sets, when they are first asked for: decoding processes need none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'check' if name in _OF_CHECK else 'datasets'}"), name)
