"""moleflow evaluate RUN: evaluate a run again from its checkpoints."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from moleflow_fast.cli.outcome import outcome
from moleflow_fast.cli.parser import FINE, CommandParser
from moleflow_fast.config.arguments import add_evaluation_options, given_by_environment, given_options
from moleflow_fast.config.options import RunOptions
from moleflow_fast.run.directory import RunDirectory, RunDirectoryError
from moleflow_fast.system.heavy_imports import heavy_imports

if TYPE_CHECKING:
    from moleflow_fast.run.console import RunConsole


_DESCRIPTION = """\
Evaluate a run again after its last complete task; writes RUN/evaluation/again.csv."""

_EXAMPLES = """\
examples:
  moleflow evaluate runs/parts                              # as it was trained
  moleflow evaluate runs/parts --data_path /mnt/parts       # the images are in another place now
  moleflow evaluate runs/parts --score_smooth_sigma 2       # with finer maps"""


def build_parser() -> CommandParser:
    parser = CommandParser("evaluate", "RUN [options]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, as printed by moleflow train")
    add_evaluation_options(parser, RunOptions)
    return parser


def run_options(directory: RunDirectory, args: argparse.Namespace) -> RunOptions:
    """The run's own options, with those given here in their place, on the command line or in the environment."""
    changed = given_by_environment(RunOptions) | given_options(args, RunOptions)
    try:
        return dataclasses.replace(directory.options(), **changed)
    except ValueError as error:
        raise RunDirectoryError(str(error)) from error


def warn_of_another_precision(console: RunConsole, trained: str, now: str) -> None:
    if trained != now:
        console.warn(f"trained with --precision {trained} and evaluated with {now}: figures may differ")


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    args = build_parser().parse_args(argv)
    return outcome(lambda: _evaluate(args), f"{args.run} is as it was")


def _evaluate(args: argparse.Namespace) -> int:
    with heavy_imports():
        from moleflow_fast.run.console import RunConsole
        from moleflow_fast.run.evaluating import evaluate_again

    directory = RunDirectory.open(args.run)
    options = run_options(directory, args)
    console = RunConsole(options.quiet)
    warn_of_another_precision(console, directory.options().precision, options.precision)
    routed, oracle = evaluate_again(directory, options, console)
    console.evaluation(f"{args.run}", routed, oracle)
    file = directory.write_again((routed, oracle))  # which a read-only run does not take
    print(f"written to {file}")
    return FINE
