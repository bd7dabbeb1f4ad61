"""The published import path of a data set."""

from moleflow_fast.data.datasets import MVTEC, MVTEC_CLASS_NAMES

__all__ = ["MVTEC", "MVTEC_CLASS_NAMES"]
