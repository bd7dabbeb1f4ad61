"""What an exported file says about itself."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import moleflow_fast
from moleflow_fast.detector.detector import Detector
from moleflow_fast.export.parity import TOLERANCE, Checked
from moleflow_fast.export.program import INPUT, LABELS, OUTPUTS
from moleflow_fast.run.run import Run

SCHEMA = 1
_PREPARATION = {
    "crop": "upright RGB; short side to image_size (Lanczos, antialiased, as Pillow); centre crop",
    "whole": "upright RGB; squeezed to image_size x image_size (Lanczos, antialiased, as Pillow)",
}
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "onnx", "onnxscript", "onnxruntime", "openvino")


def describe(run: Run, detector: Detector, notes: Sequence[str], checked: Sequence[Checked]) -> dict[str, Any]:
    """Everything a consumer needs besides the program, and how well the program was found to agree."""
    options = run.options
    return {
        "schema": SCHEMA,
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "shape": ["batch", options.img_size, options.img_size, 3],
            "image_size": options.img_size,
            "view": options.view,
            "preparation": _PREPARATION[options.view],
        },
        "outputs": list(OUTPUTS),
        "labels": list(LABELS),
        "threshold": _threshold(detector),
        "map_size": options.mask_size,
        "calibration": detector.calibration.to_json(),
        "backbone": {"name": options.backbone_name, "weights": run.extractor.weights_origin, "precision": "fp32"},
        "versions": {"moleflow_fast": moleflow_fast.__version__, "python": platform.python_version(), **_versions()},
        "notes": list(notes),
        "parity": {"tolerance": TOLERANCE, "runtimes": [one.to_json() for one in checked]},
    }


def _threshold(detector: Detector) -> float | dict[str, float]:
    """Calibrated, by product where those have different ones."""
    tasks = detector.calibration.tasks
    found = {name: limit.calibrated for t, limit in detector.limits.items() for name in tasks[t].class_names}
    values = set(found.values())
    return values.pop() if len(values) == 1 else found


def as_strings(description: dict[str, Any]) -> dict[str, str]:
    """The same as names and JSON texts: what files can carry."""
    return {f"moleflow.{name}": json.dumps(value) for name, value in description.items()}


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
