"""The published import path of a data set."""

from moleflow_fast.data.datasets import VISA, VISA_CLASS_NAMES

__all__ = ["VISA", "VISA_CLASS_NAMES"]
