"""Work that goes on beside the current stream of a GPU, inside a captured graph too."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch


class Beside:
    """Where work that nothing waits for yet is started: on a stream of its own, or in its turn.

    Args:
        device: of the work; only a GPU has streams.
        apart: whether to take a stream of its own there.
    """

    def __init__(self, device: torch.device, apart: bool) -> None:
        self._stream = _own_stream(device) if apart and device.type == "cuda" else None

    def run(self, work: Callable[[], object]) -> None:
        """Start `work` after all that was launched so far; what it reads must stay as it is until `join`."""
        if self._stream is None:
            work()
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()

    def join(self) -> None:
        """What is launched from here on comes after all that was started."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)


@cache
def _own_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all: libraries keep a workspace of 32 MiB for each stream."""
    return torch.cuda.Stream(device)
