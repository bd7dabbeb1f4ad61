"""A run's options from a command line: its parser, presets beside what is given, defaults of the data set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moleflow_fast.config.ablation import add_ablation_args, parse_ablation_args
from moleflow_fast.config.arguments import add_groups, given_options, unsaid
from moleflow_fast.config.data_sets import DEMO, LINE_DATASETS
from moleflow_fast.config.option import options_in
from moleflow_fast.config.options import RunOptions
from moleflow_fast.config.presets import LINE, get_preset, listing, matching

# What the demo run uses where nothing is given: small enough for three minutes on two CPU cores.
DEMO_DEFAULTS = {name: option.demo for name, option in options_in(RunOptions).items() if option.demo is not None}


def build_parser() -> argparse.ArgumentParser:
    """A parser of the options of a run."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_run_options(parser)
    return parser


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Published option names, in groups; an option left out is None here and gets its default later."""
    add_groups(parser, RunOptions)
    parser.add_argument(
        "--list_presets", nargs="?", metavar="PATTERN", action=_ListPresets, help="published experiments"
    )
    add_ablation_args(parser)


def options_of(parser: argparse.ArgumentParser, argv: Sequence[str]) -> RunOptions:
    """Options of a command line whose words `parser` knows; those given beside a preset win.

    Raises:
        ValueError: an unknown preset, or options that do not go together.
    """
    given = parser.parse_args(argv)
    preset = given.preset or _preset_of_the_data(given)
    if preset is None:
        return options_from(given)
    return options_from(beside_preset(parser, preset, argv))


def beside_preset(parser: argparse.ArgumentParser, preset: str, argv: Sequence[str]) -> argparse.Namespace:
    """The options of a preset, and those of a command line in their place."""
    given = parser.parse_args(argv)
    args = parser.parse_args([*get_preset(preset).options, *argv, "--preset", preset])
    # What a preset says of the adapter gives way to what is given, and does not contradict it.
    if given.use_whitening_adapter is not None and given.adapter_mode is None:
        args.adapter_mode = None
    if given.adapter_mode is not None and given.use_whitening_adapter is None:
        args.use_whitening_adapter = None
    return args


def _preset_of_the_data(given: argparse.Namespace) -> str | None:
    """For images of one's own `line`; but a checkpoint that is loaded may be a published one."""
    own = (given.dataset or RunOptions.dataset) in LINE_DATASETS
    return LINE if own and given.load_checkpoint is None else None


def options_from(args: argparse.Namespace) -> RunOptions:
    """Defaults of the data set, then the options given."""
    dataset = args.dataset or RunOptions.dataset
    values = unsaid(RunOptions) | (DEMO_DEFAULTS if dataset == DEMO else {}) | given_options(args, RunOptions)
    if args.backbone_name is not None and args.embed_dim is None:
        values.pop("embed_dim", None)
    if "view" not in values:
        as_published = dataset not in LINE_DATASETS or dataset == DEMO or args.preset not in (None, LINE)
        values["view"] = _stored_view(values.get("load_checkpoint")) or ("crop" if as_published else "whole")
    return RunOptions(**values, ablation=parse_ablation_args(args))


def _stored_view(checkpoint: str | None) -> str | None:
    """Of the run that is started from: where none is said its own counts, not today's default."""
    if checkpoint is None:
        return None
    file = Path(checkpoint, "config.json")
    if not file.exists():
        return "crop"  # the published implementation knows no other
    try:
        return json.loads(file.read_bytes())["options"].get("view", RunOptions.view)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # whoever opens the run says what is wrong with it


class _ListPresets(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, _: object, pattern: Any, __: str | None = None) -> None:
        chosen = matching(pattern)
        if not chosen:
            parser.error(f"no preset matches {pattern!r}; --list_presets alone shows all")
        print(listing(chosen))
        parser.exit()
