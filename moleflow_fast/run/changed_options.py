"""The options of a finished run, of the tasks `tasks`, after a change of its products."""

from __future__ import annotations

import os
from dataclasses import replace

from moleflow_fast.config.change import Change, Extension, learned_again
from moleflow_fast.config.options import RunOptions
from moleflow_fast.config.scenario import split_into_tasks
from moleflow_fast.errors import UserError


def first_classes(stored: RunOptions, tasks: list[list[str]]) -> tuple[str, ...]:
    """The classes that the run was first trained on, spelled out: their folder may not be there to be listed."""
    return stored.task_classes or tuple(name for task in tasks for name in task)


def extended(options: RunOptions, change: Change, tasks: list[list[str]]) -> RunOptions:
    """With the products of a change as well; as they are where it was begun before.

    Raises:
        UserError: another one was begun, the run cannot be extended, or knows a product already, or not where it is to
            be learned again.
    """
    place = os.path.abspath(str(change.data_path))
    asked = Extension(change.dataset or options.layout, place, change.classes, change.again)
    if _unfinished(options, tasks):
        if options.extensions[-1] != asked:
            raise UserError(_being_extended(change, options))
        return options
    if options.enable_slow_stage or options.ablation.no_freeze_base:
        raise UserError(
            f"{change.run} was trained with --enable_slow_stage or --no_freeze_base, where a new task changes the old "
            "ones: train a run without them"
        )
    active = _active(options, tasks)
    if change.again:
        for name in change.classes:
            _require_alone(name, change, active)
        return replace(options, extensions=(*options.extensions, asked))
    known = [name for name in change.classes if any(name in task for task in active.values())]
    if known:
        raise UserError(
            f"{change.run} knows {', '.join(known)} already: add --again to learn it anew with these images too, leave "
            "that out, give the folder another name, or take the old one out first (--remove)"
        )
    return replace(options, extensions=(*options.extensions, asked))


def reduced(options: RunOptions, change: Change, tasks: list[list[str]]) -> RunOptions:
    """Without the products of a change: learned ones, taken out already or not, or those of an unfinished extension.

    Raises:
        UserError: others are still being learned, or the run has no such products, or no others.
    """
    if _unfinished(options, tasks):
        if set(change.classes) != set(options.extensions[-1].task_classes):
            raise UserError(_being_extended(change, options))
        return replace(options, extensions=options.extensions[:-1])
    removed = set(options.removed_tasks)
    for name in change.classes:
        removed.add(_require_alone(name, change, dict(enumerate(tasks)), _active(options, tasks)))
    if not _active(options, tasks).keys() - removed:
        raise UserError(f"that would leave no product in {change.run}: keep one, or delete the directory")
    return replace(options, removed_tasks=tuple(sorted(removed)))


def _active(options: RunOptions, tasks: list[list[str]]) -> dict[int, list[str]]:
    gone = learned_again(options.extensions, tasks) | set(options.removed_tasks)
    return {t: task for t, task in enumerate(tasks) if t not in gone}


def _require_alone(
    name: str, change: Change, tasks: dict[int, list[str]], known: dict[int, list[str]] | None = None
) -> int:
    """The id of the last of the tasks that learned a product, if it learned no others but those of the change."""
    found = [t for t, task in tasks.items() if name in task]
    if not found:
        names = ", ".join(n for task in (tasks if known is None else known).values() for n in task)
        raise UserError(f"{change.run} knows no {name}: it knows {names}")
    others = [other for other in tasks[found[-1]] if other not in change.classes]
    if others:
        raise UserError(f"{name} was learned in one task with {', '.join(others)}: name those too, or keep it")
    return found[-1]


def _unfinished(options: RunOptions, tasks: list[list[str]]) -> bool:
    """Whether products are still to be learned."""
    first = split_into_tasks(options.task_classes or (), options.cl_scenario)
    return len(first) + sum(len(extension.task_classes) for extension in options.extensions) > len(tasks)


def _being_extended(change: Change, options: RunOptions) -> str:
    last = options.extensions[-1]
    names = " ".join(last.task_classes)
    return (
        f"{change.run} is being extended: finish that first (--extend {change.run} --data_path {last.data_path} "
        f"--task_classes {names}{' --again' if last.again else ''}), or give it up "
        f"(--remove {change.run} --task_classes {names})"
    )
