"""Adding products to a finished run and taking products out of one, as a command line asks for it."""

from __future__ import annotations

import argparse
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


# What may be said beside --extend and --remove: everything else is the run's own.
_MACHINE = frozenset(
    {
        "device", "num_workers", "cache_dir", "cache_limit_gb", "device_cache_gb", "no_feature_cache", "heatmaps",
        "state_seconds", "run_diagnostics", "parallel_tasks", "ray_address", "logger", "tensorboard",
        "quiet",
    }
)  # fmt: skip
_OF_THE_CHANGE = frozenset({"extend", "remove", "task_classes", "dataset", "data_path", "again"})


def add_change_args(parser: argparse.ArgumentParser) -> None:
    """Add `--extend` and `--remove`."""
    group = parser.add_argument_group(
        "products of a finished run",
        "everything that decides its numbers is the run's own; say --task_classes, and for new ones --data_path",
    )
    group.add_argument(
        "--extend",
        metavar="RUN",
        help="learn --task_classes from --data_path as well, each as a task of its own; the others stay as they are "
        "to the bit, which is checked, and their images need not be there. A detector sees the new products when all "
        "are learned; interrupted, the same command goes on",
    )
    group.add_argument(
        "--again",
        action="store_const",
        const=True,
        help="with --extend: the run knows --task_classes, and learns them anew from the images in --data_path and "
        "those that it learned them from, whose features are cached. Until that is done detectors go on with what was "
        "learned before",
    )
    group.add_argument("--remove", metavar="RUN", help="take --task_classes out: no image is routed to them any more")


def change_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Change | None:
    """The change that parsed options ask for; None where they ask for a run.

    Raises:
        ValueError: options that do not go together.
    """
    if args.again and args.extend is None:
        raise ValueError("--again goes with --extend RUN, the run that learns --task_classes anew")
    if args.extend is None and args.remove is None:
        return None
    given = {name: value for name, value in vars(args).items() if value != parser.get_default(name)}
    if args.extend is not None and args.remove is not None:
        raise ValueError("--extend and --remove are two commands: one after the other")
    name = "--extend" if args.extend is not None else "--remove"
    foreign = sorted(given.keys() - _MACHINE - _OF_THE_CHANGE)
    if foreign:
        raise ValueError(f"{name} takes the run's own options: drop {', '.join(f'--{option}' for option in foreign)}")
    if not args.task_classes:
        raise ValueError(f"{name} needs --task_classes, the names of the products")
    if args.extend is not None and not args.data_path:
        raise ValueError("--extend needs --data_path, the folder that holds the new class folders")
    if args.remove is not None and (args.data_path or args.dataset):
        raise ValueError("--remove needs no images: drop --data_path and --dataset")
    return Change(
        run=Path(args.extend or args.remove),
        classes=tuple(args.task_classes),
        removes=args.remove is not None,
        dataset=args.dataset,
        data_path=args.data_path,
        machine={option: value for option, value in given.items() if option in _MACHINE},
        again=bool(args.again),
    )
