"""What a person sees of a sweep: a live table in a terminal, a line per event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table

from moleflow_fast.console import Console

HEADLINE = ("image_auroc", "pixel_auroc", "pixel_ap", "routing_accuracy")
_ROWS = 12


@dataclass(frozen=True)
class Progress:
    """How far a run is: the epoch of the task that it trains."""

    label: str
    task: int
    epoch: int
    epochs: int


@dataclass
class SweepView:
    """Counts, runs at work, and the last ones to end."""

    console: Console
    total: int
    done: int = 0
    failed: int = 0
    _ended: list[tuple[str, str]] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)
    _ended_here: int = 0
    _live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self.console.show_progress:
            yield
            return
        with Live(console=self.console.console, refresh_per_second=4, transient=True) as self._live:
            yield
        self._live = None

    def skipped(self, count: int) -> None:
        self.done += count

    def finished(self, label: str, means: dict[str, Any], seconds: float) -> None:
        self.done += 1
        self._ended_here += 1
        self._event(label, f"{_means(means)}, {duration(seconds)}")

    def lost(self, label: str, error: str, again: bool) -> None:
        if again:
            self._event(label, f"tried again: {error}")
            return
        self.failed += 1
        self._ended_here += 1
        self._event(label, f"FAILED: {error}")

    def tick(self, at_work: Sequence[Progress]) -> None:
        if self._live is not None:
            self._live.update(self._picture(at_work))

    def _event(self, label: str, text: str) -> None:
        self._ended.append((label, text))
        if self._live is None:
            self.console.say(f"[{self.done + self.failed}/{self.total}] {label}: {text}")

    def _picture(self, at_work: Sequence[Progress]) -> Group:
        table = Table(box=None, show_header=False)
        table.add_column(overflow="fold")
        table.add_column()
        for label, text in self._ended[-_ROWS:]:
            table.add_row(label, text)
        for p in at_work:
            table.add_row(p.label, f"task {p.task}, epoch {p.epoch}/{p.epochs}", style="bold")
        return Group(table, self._headline(len(at_work)))

    def _headline(self, at_work: int) -> str:
        left = self.total - self.done - self.failed
        failed = f", {self.failed} failed" if self.failed else ""
        waiting = f", {left - at_work} waiting" if left > at_work else ""
        return f"{self.done} of {self.total} runs done{failed}, {at_work} at work{waiting}{self._time_left(left)}"

    def _time_left(self, left: int) -> str:
        if not self._ended_here or not left:
            return ""
        return f", about {duration((time.monotonic() - self._started) / self._ended_here * left)} left"


def ranking(records: Sequence[dict[str, Any]]) -> Table:
    """Finished runs by the mean of their image AUROC over seeds, best first."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record["status"] == "finished":
            by_name.setdefault(record["name"], []).append(record["routed"])
    table = Table(title="means over seeds, routed ids", title_justify="left")
    table.add_column("run", overflow="fold")
    table.add_column("seeds", justify="right")
    for name in HEADLINE:
        table.add_column(name.replace("_", " ").replace("auroc", "AUROC").replace("ap", "AP"), justify="right")
    means = {name: [_mean([r[m] for r in some]) for m in HEADLINE] for name, some in by_name.items()}
    for name in sorted(means, key=lambda n: means[n][0] or 0.0, reverse=True):
        table.add_row(name, str(len(by_name[name])), *[_number(value) for value in means[name]])
    return table


def _means(means: dict[str, Any]) -> str:
    return f"image AUROC {_number(means['image_auroc'])}, pixel AP {_number(means['pixel_ap'])}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
