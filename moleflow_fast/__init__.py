"""MoLE-Flow (DeCoFlow): continual industrial anomaly detection with a normalizing flow and LoRA experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moleflow_fast.detector.detector import Detector

__all__ = ["Detector", "__version__"]


def __getattr__(name: str) -> Any:
    """What takes time to find, when first asked for: commands need not wait for torch or metadata."""
    if name == "Detector":
        from moleflow_fast.detector.detector import Detector

        return Detector
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("moleflow_fast")
    except PackageNotFoundError:
        return "source tree"
