"""MoLE-Flow (DeCoFlow): continual industrial anomaly detection with a normalizing flow and LoRA experts."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moleflow_fast.detector.detector import Detector

__all__ = ["Detector", "__version__"]

try:
    __version__ = version("moleflow_fast")
except PackageNotFoundError:
    __version__ = "source tree"


def __getattr__(name: str) -> Any:
    """The detector when first asked for: whoever imports the package for something else need not wait for torch."""
    if name == "Detector":
        from moleflow_fast.detector.detector import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
