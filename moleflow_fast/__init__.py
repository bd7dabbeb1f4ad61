"""MoLE-Flow (DeCoFlow): continual industrial anomaly detection with a normalizing flow and LoRA experts."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("moleflow_fast")
except PackageNotFoundError:
    __version__ = "source tree"
