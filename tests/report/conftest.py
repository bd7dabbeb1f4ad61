"""Images for real runs, as those of tests/run have them."""

from run.conftest import data

__all__ = ["data"]
