"""Where the time of a run goes: wall time by phase, which adds up to the whole.

A place that works on something names its phase:

    with phase("cache"):
        ...

Nothing is counted unless a run counts (`counting`), and nothing outside the thread that counts: what a thread or a
process does beside the run costs it no time until it is waited for. On a GPU the host's time is counted; what the
device still computes shows where the host waits for it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

IMPORTS = "imports"
REST = "rest"
PHASES = (
    IMPORTS,
    "check",
    "decoding",
    "backbone",
    "cache",
    "compiling",
    "training",
    "routing",
    "scoring",
    "metrics",
    "calibration",
    "pictures",
    "checkpoints",
    "tables",
    "idle",
    REST,
)
T = TypeVar("T")


class Phases:
    """Seconds by phase. A phase within another counts for itself alone.

    Args:
        before: seconds that had gone by when counting began; they are `imports`.
        clock: gives seconds.
    """

    def __init__(self, before: float = 0.0, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds = dict.fromkeys(PHASES, 0.0) | {IMPORTS: before}
        self._open = [REST]
        self._since = clock()

    def seconds(self) -> dict[str, float]:
        """By phase up to now, those that took any; their sum is the wall time since the start."""
        self._charge()
        return {name: seconds for name, seconds in self._seconds.items() if seconds > 0}

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Count what happens inside for the phase `name`, one of `PHASES`."""
        if name not in self._seconds:
            raise ValueError(f"no phase {name!r}: one of {', '.join(PHASES)}")
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        now = self._clock()
        self._seconds[self._open[-1]] += now - self._since
        self._since = now


# A new thread starts without it.
_counting: ContextVar[Phases | None] = ContextVar("phases", default=None)


@contextmanager
def counting(phases: Phases | None = None) -> Iterator[Phases]:
    """Have `phase` count for `phases` inside; without any, for those that count already, else for new ones."""
    phases = phases or _counting.get() or Phases()
    token = _counting.set(phases)
    try:
        yield phases
    finally:
        _counting.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count what happens inside for a phase of the run that counts, if there is one."""
    phases = _counting.get()
    if phases is None:
        yield
        return
    with phases.during(name):
        yield


def each(name: str, items: Iterable[T]) -> Iterator[T]:
    """The items, the time that each takes to arrive counted for a phase; what is done with them is not."""
    arriving = iter(items)
    while True:
        with phase(name):
            try:
                item = next(arriving)
            except StopIteration:
                return
        yield item


def since_process_start() -> float:
    """Seconds, in hundredths of them; 0 where the system does not tell (all but Linux)."""
    if sys.platform != "linux":
        return 0.0
    stat = Path("/proc/self/stat").read_text()
    ticks = int(stat.rpartition(")")[2].split()[19])  # field 22 of proc(5), after boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
