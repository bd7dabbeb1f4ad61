"""The published import path of a data set."""

from moleflow_fast.data.datasets import MPDD, MPDD_CLASS_NAMES

__all__ = ["MPDD", "MPDD_CLASS_NAMES"]
