"""Options of a run as a command line: the inverse of `parse_options`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moleflow_fast.config.command_line import build_parser, options_of
from moleflow_fast.config.data_sets import LINE_DATASETS
from moleflow_fast.config.option import Comparison
from moleflow_fast.config.options import OPTIONS, RunOptions

# Said by whoever runs it: where images and results lie, and on what.
_LEFT_OUT = frozenset(
    name
    for name, option in OPTIONS.items()
    if not option.is_identity or option.comparison in (Comparison.CIRCUMSTANCE, Comparison.EQUIVALENT)
)


def command_line(options: RunOptions) -> list[str]:
    """The options that differ from the data set's defaults, as arguments.

    Seed and places are left out; of a file of weights the name is kept.
    """
    parser = build_parser()
    given = ["--dataset", options.dataset]
    if options.dataset in LINE_DATASETS and not options.ablation.has_front:
        given += ["--preset", "published"]
    defaults = _flat(options_of(parser, [*given, "--data_path", "."]))
    for name, value in _flat(options).items():
        if name not in _LEFT_OUT and name != "dataset" and value != defaults[name]:
            given += _argument(parser, name, value)
    return given


def _flat(options: RunOptions) -> dict[str, Any]:
    flat = asdict(options)
    if options.backbone_weights is not None:
        flat["backbone_weights"] = Path(options.backbone_weights).name
    return {**flat, **flat.pop("ablation")}


def _argument(parser: argparse.ArgumentParser, name: str, value: Any) -> list[str]:
    if value is None:
        return []
    for action in parser._actions:
        if action.dest != name:
            continue
        if not isinstance(action, argparse._StoreConstAction):
            values = value if isinstance(value, (list, tuple)) else [value]
            return [action.option_strings[0], *map(str, values)]
        if action.const == value:
            return [action.option_strings[0]]
    return []  # a value that no argument gives is what a preset of switches left
