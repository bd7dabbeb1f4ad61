"""`--extend` and `--remove` on a command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from moleflow_fast.config.change import Change
from moleflow_fast.config.options import OPTIONS

# What they take for themselves; everything else that decides a number is the run's own.
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
    machine = {option: value for option, value in given.items() if _may_change(option)}
    foreign = sorted(given.keys() - machine.keys() - _OF_THE_CHANGE)
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
        machine=machine,
        again=bool(args.again),
    )


def _may_change(name: str) -> bool:
    return name in OPTIONS and OPTIONS[name].outlives_its_run
