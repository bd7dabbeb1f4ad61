"""The tasks of a run: which classes each learns, which of them still count, and where their images lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from moleflow_fast.config.change import learned_again
from moleflow_fast.config.options import RunOptions
from moleflow_fast.config.scenario import split_into_tasks
from moleflow_fast.data import get_class_names
from moleflow_fast.data.demo import is_demo, write_demo
from moleflow_fast.data.layouts import is_there
from moleflow_fast.errors import UserError
from moleflow_fast.models.routing import PrototypeRouter


class Tasks:
    """The classes of each task that was ever learned, removed ones included: task ids never change.

    Args:
        learned: those classes, where it is known otherwise than from the options and the data.
        active: tasks that count; those that the options neither remove nor learn again by a later one, if left out.
        needed_from: the task from which on images have to be there, also in a finished run that is changed.
    """

    def __init__(
        self,
        options: RunOptions,
        learned: list[list[str]] | None = None,
        active: list[int] | None = None,
        needed_from: int | None = None,
    ) -> None:
        self._options = options
        self._active = active
        self._needed_from = needed_from
        if learned is not None:
            self._learned = learned

    def __len__(self) -> int:
        return len(self._learned)

    def __iter__(self) -> Iterator[list[str]]:
        return iter(self._learned)

    def __getitem__(self, task_id: int) -> list[str]:
        return self._learned[task_id]

    @cached_property
    def _learned(self) -> list[list[str]]:
        options = self._options
        classes = options.task_classes or get_class_names(options.layout, self.data_root)
        try:
            first = split_into_tasks(list(classes), options.cl_scenario)
        except ValueError as error:
            raise UserError(str(error)) from error
        return first + [[name] for extension in options.extensions for name in extension.task_classes]

    @cached_property
    def active(self) -> list[int]:
        """Those that have not been removed, nor learned again by a later one."""
        if self._active is not None:
            return self._active
        gone = learned_again(self._options.extensions, self._learned) | set(self._options.removed_tasks)
        return [t for t in range(len(self)) if t not in gone]

    @property
    def classes(self) -> list[str]:
        """Of the active tasks."""
        return [name for t in self.active for name in self[t]]

    def retire(self, router: PrototypeRouter) -> None:
        """Have a router forget tasks that are not active."""
        for task_id in router.prototypes.keys() - set(self.active):
            del router.prototypes[task_id]

    def names(self, tasks: Iterable[int]) -> str:
        """The classes of some tasks, as a message lists them."""
        return ", ".join(name for t in tasks for name in self[t])

    def title(self, task_id: int) -> str:
        return f"task {task_id} {self.names([task_id])}"

    @cached_property
    def data_root(self) -> Path:
        """Where the classes lie that the run was first trained on; the demo set is written where it is not there yet.

        Raises:
            UserError: another set than the demo, which was asked for.
        """
        options = self._options
        if options.data_path is None:
            return write_demo(options.demo_folder)
        path = Path(options.data_path)
        if options.dataset == "demo" and path.is_dir() and not is_demo(path):
            raise UserError(
                f"{path} is not the synthetic demo set; say what it is with --dataset folder (or mvtec, visa, mpdd)"
            )
        return path

    def sources_of(self, name: str) -> list[tuple[str, Path]]:
        """Layouts and folders of a class's images, in the order in which they were learned."""
        later: list[tuple[str, Path]] = []
        for extension in reversed(self._options.extensions):  # a class that was removed may have been learned anew
            if name not in extension.task_classes:
                continue
            later.insert(0, (extension.dataset, Path(extension.data_path)))
            if not extension.again:
                break
        else:
            later.insert(0, (self._options.layout, self.data_root))
        return list({(layout, os.path.realpath(root)): (layout, root) for layout, root in later}.values())

    def have_images(self, task_id: int) -> bool:
        """Whether a task's images are there, which those of a finished run need not be once it is changed."""
        if not (self._options.extensions or self._options.removed_tasks):
            return True
        if self._needed_from is not None and task_id >= self._needed_from:
            return True
        return all(is_there(*source, name) for name in self[task_id] for source in self.sources_of(name))
