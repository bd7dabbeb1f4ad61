"""python -m moleflow_fast.evaluate RUN: evaluate a run again from its checkpoints."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moleflow_fast.config.options import BACKEND_HELP, INTERPOLATIONS, PRECISION_HELP, RunOptions
from moleflow_fast.config.requested import BACKENDS, PRECISIONS, given_backend, given_precision
from moleflow_fast.errors import UserError
from moleflow_fast.run.directory import RunDirectory, RunDirectoryError
from moleflow_fast.system.heavy_imports import heavy_imports

if TYPE_CHECKING:
    from moleflow_fast.run.console import RunConsole


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m moleflow_fast.evaluate",
        description="Evaluate a run again after its last complete task; writes evaluation/again.csv into it.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="run directory, as printed by moleflow train")
    parser.add_argument("--data_path", help="where the images are now, if they have moved")
    parser.add_argument("--score_smooth_sigma", type=float, help="another Gaussian smoothing, pixels")
    parser.add_argument("--interp_mode", choices=INTERPOLATIONS, help="another way from patches to pixels")
    parser.add_argument("--device", help="cpu, cuda or cuda:N")
    parser.add_argument("--backend", choices=BACKENDS, help=f"{BACKEND_HELP} (default $MOLEFLOW_BACKEND or the run's)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help=f"{PRECISION_HELP} (default $MOLEFLOW_PRECISION or the run's)"
    )
    parser.add_argument("--quiet", action="store_const", const=True, help="no progress bars")
    return parser


def run_options(directory: RunDirectory, args: argparse.Namespace) -> RunOptions:
    """The run's own options, with those given here in their place, on the command line or in the environment."""
    given = {n: v for n, v in vars(args).items() if n != "run" and v is not None}
    environment = {"backend": given_backend(), "precision": given_precision()}
    changed = {n: v for n, v in environment.items() if v is not None} | given
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
    with heavy_imports():
        from moleflow_fast.run.console import RunConsole
        from moleflow_fast.run.evaluating import evaluate_again

    try:
        directory = RunDirectory.open(args.run)
        options = run_options(directory, args)
        console = RunConsole(options.quiet)
        warn_of_another_precision(console, directory.options().precision, options.precision)
        routed, oracle = evaluate_again(directory, options, console)
        console.evaluation(f"{args.run}", routed, oracle)
        file = directory.write_again((routed, oracle))  # which a read-only run does not take
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
