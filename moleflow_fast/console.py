"""What a person sees while something goes on: messages and progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rich.console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from moleflow_fast.errors import shown


class Console:
    """Messages always; progress bars unless `quiet` or the output is no terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = rich.console.Console(width=None if sys.stdout.isatty() else 120)
        self.show_progress = not quiet and self.console.is_terminal
        self.quiet = quiet

    def say(self, text: str) -> None:
        self.console.print(shown(text), highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {shown(text)}", style="yellow", highlight=False, markup=False)

    @contextmanager
    def counting(self, title: str, what: str = "images") -> Iterator[Callable[[int, int], None]]:
        """A bar for `callback(done, total)`."""
        with self.bar("{task.fields[rate]}") as bar:
            line = bar.add_task(title, total=None, rate="")

            def advance(done: int, total: int) -> None:
                seconds = bar.tasks[line].elapsed or 0.0
                rate = f"{done / seconds:.0f} {what}/s" if seconds else ""
                bar.update(line, completed=done, total=total, rate=rate)

            yield advance

    def bar(self, text: str) -> Progress:
        """With `text`, which may name fields of its lines, beside the times gone and left."""
        columns: tuple[Any, ...] = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn(text),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        return Progress(*columns, console=self.console, transient=True, disable=not self.show_progress)
