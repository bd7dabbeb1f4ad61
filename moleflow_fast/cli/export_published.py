"""python -m moleflow_fast.export_published RUN -o DIR: a run's checkpoints for the published implementation."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from moleflow_fast.errors import UserError
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.system.heavy_imports import heavy_imports
from moleflow_fast.trainer.published_files import STATE_FILE

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m moleflow_fast.export_published",
        description=f"Write task_<t>/{STATE_FILE} for every complete task of a run: the model's state dict after that "
        "task under the published names. The published implementation and --load_checkpoint read it; routing "
        "prototypes are no part of it and are made again from training images, by the published implementation with "
        "its own covariances, whatever the run's --router_covariance is.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="run directory, as printed by moleflow train")
    parser.add_argument("-o", "--output", type=Path, required=True, help="where the task_<t> directories go")
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
    try:
        files = export(args.run, args.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for file in files:
        print(f"written to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
