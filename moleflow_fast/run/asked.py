"""What a command line asks for: a run, one that goes on, or a change of a finished one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from moleflow_fast.config.change import Change
from moleflow_fast.config.change_arguments import add_change_args, change_of
from moleflow_fast.config.command_line import beside_preset, build_parser, options_of
from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.run.resumed import resumed


def parse_options(argv: list[str] | None = None, parser: argparse.ArgumentParser | None = None) -> RunOptions | Change:
    """What a command line asks for: a run, or a change of a finished one.

    Errors end the program with a message as argparse's own do.

    Args:
        parser: knows the options of runs and of changes; a plain one if None.
    """
    if parser is None:
        parser = build_parser()
        add_change_args(parser)
    argv = sys.argv[1:] if argv is None else argv
    try:
        given = parser.parse_args(argv)
        return change_of(parser, given) or (_resumed(parser, argv) if given.resume else options_of(parser, argv))
    except UserError:
        raise
    except ValueError as error:
        parser.error(str(error))


def _resumed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> RunOptions:
    """Those of the run that goes on, which need not be given again."""
    given = parser.parse_args(argv)
    name = given.experiment_name or options_of(parser, argv).run_name
    path = Path(given.log_dir or RunOptions.log_dir) / name
    return resumed(beside_preset(parser, given.preset, argv) if given.preset else given, path)
