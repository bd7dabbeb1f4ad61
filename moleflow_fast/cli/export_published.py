"""moleflow export_published RUN -o DIR: a run's checkpoints for the published implementation."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from moleflow_fast.cli.outcome import outcome
from moleflow_fast.cli.parser import FINE, CommandParser
from moleflow_fast.errors import UserError
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.system.heavy_imports import heavy_imports
from moleflow_fast.trainer.published_files import STATE_FILE

logger = logging.getLogger(__name__)


_DESCRIPTION = f"""\
Write task_<t>/{STATE_FILE} for every complete task of a run: the model's state dict after that task, under the
published names. The published implementation reads it, and so does moleflow train --load_checkpoint.

Routing prototypes are no part of it. They are made again from training images; the published implementation takes its
own covariances, whatever the run's --router_covariance is."""

_EXAMPLES = """\
example:
  moleflow export_published runs/parts -o published"""


def build_parser() -> CommandParser:
    parser = CommandParser("export_published", "RUN -o DIR", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, as printed by moleflow train")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where the tasks' folders go")
    return parser


def export(run: Path, output: Path) -> list[Path]:
    """The files written, one a complete task.

    Raises:
        UserError: no run, damaged checkpoints, Gaussian fronts, or an output that cannot be written.
    """
    with heavy_imports():
        from moleflow_fast.run.console import RunConsole
        from moleflow_fast.run.context import RunContext
        from moleflow_fast.run.run import Run
        from moleflow_fast.trainer import checkpoint
        from moleflow_fast.trainer.published_checkpoint import export_published

    directory = RunDirectory.open(run)
    found = Run(RunContext(directory.options(), RunConsole(quiet=True)), weights_of=directory)
    tasks = checkpoint.completed_tasks(directory.checkpoints)
    if not tasks:
        raise UserError(f"{directory.checkpoints} holds no complete checkpoint: nothing to export")
    covariance = found.options.ablation.router_covariance
    if covariance != "published":
        logger.warning(
            "the run routes by --router_covariance %s, which these files do not hold: the published implementation "
            "will route by covariances of its own; give the option again with --load_checkpoint",
            covariance,
        )
    files = []
    for task_id in tasks:
        checkpoint.load_task(directory.checkpoints, found.moleflow, task_id, found.checkpoint_options)
        files.append(export_published(found.moleflow, output, task_id))
    return files


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    args = build_parser().parse_args(argv)
    return outcome(lambda: _export(args), f"files that are in {args.output} are complete")


def _export(args: argparse.Namespace) -> int:
    for file in export(args.run, args.output):
        print(f"written to {file}")
    return FINE
