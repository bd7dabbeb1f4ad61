"""Images and masks: MVTec AD, VisA, MPDD, any folder in MVTec AD layout, and a synthetic demo set."""

from .check import DataReport, check_dataset
from .datasets import (
    FOLDER,
    MPDD,
    MPDD_CLASS_NAMES,
    MVTEC,
    MVTEC_CLASS_NAMES,
    VISA,
    VISA_CLASS_NAMES,
    AnomalyImages,
    create_task_dataset,
    get_class_names,
    get_dataset_class,
)
from .errors import DataError
from .layouts import Sample

__all__ = [
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
    "check_dataset",
    "create_task_dataset",
    "get_class_names",
    "get_dataset_class",
]
