"""Images and masks: MVTec AD, VisA, MPDD, any folder in MVTec AD layout, and a synthetic demo set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moleflow_fast.lazy import names_of

from .data_error import DataError
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

# Torch comes in with the data sets, when they are first asked for: decoding processes need none.
_OF_CHECK = ("DataReport", "check_dataset")
__getattr__ = names_of(__name__, {name: "check" if name in _OF_CHECK else "datasets" for name in __all__})
