"""Adding products to a finished run and taking products out of one, as a command line asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Extension:
    """Products that a finished run has learned in addition, each a task of its own."""

    dataset: str
    """Layout of their files: mvtec, visa, mpdd or folder."""
    data_path: str
    """Absolute: the folder that holds their class folders."""
    task_classes: tuple[str, ...]
    again: bool = False
    """Whether the run knew them: each is learned anew, from these images and those it was learned from."""


def learned_again(extensions: Sequence[Extension], tasks: Sequence[Sequence[str]]) -> frozenset[int]:
    """Ids of the tasks whose products a later one has learned anew; `tasks` are those of the extensions too."""
    task_id = len(tasks) - sum(len(extension.task_classes) for extension in extensions)
    replaced: set[int] = set()
    for extension in extensions:
        for name in extension.task_classes:
            replaced |= {t for t in range(task_id) if extension.again and name in tasks[t]}
            task_id += 1
    return frozenset(replaced)


@dataclass(frozen=True)
class Change:
    """What is asked of a finished run.

    Attributes:
        run: its directory.
        classes: products to learn, or to take out.
        removes: whether they are taken out.
        dataset: layout of the new images; the run's own if None.
        data_path: where they are.
        again: whether the products are known, and learned anew.
        machine: options that decide nothing of the result, and are not the run's own.
    """

    run: Path
    classes: tuple[str, ...]
    removes: bool
    dataset: str | None
    data_path: str | None
    machine: Mapping[str, Any]
    again: bool = False
