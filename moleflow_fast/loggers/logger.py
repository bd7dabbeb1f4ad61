"""What a program that shows curves is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Logger(Protocol):
    """Takes the curves of one run.

    What it raises is said once, and the run goes on without it: see `Curves`.
    """

    def log(self, values: Mapping[str, float], axis: str, step: int) -> None:
        """Add a point to each of some curves.

        Args:
            values: name of a curve, its parts divided by "/" -> value, finite or infinite.
            axis: what the curves are drawn over: "epoch", or "after_task" for the number of the last task learned.
            step: where on it.
        """

    def close(self) -> None:
        """Nothing more will come; what came is where it belongs when this returns."""
