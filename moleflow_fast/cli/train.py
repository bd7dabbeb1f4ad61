"""moleflow train: learn product categories one after another."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moleflow_fast.cli.parser import FAILED, CommandParser
from moleflow_fast.config.change import Change
from moleflow_fast.config.change_arguments import add_change_args
from moleflow_fast.config.command_line import add_run_options
from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.run.asked import parse_options
from moleflow_fast.system.heavy_imports import heavy_imports
from moleflow_fast.system.interruption import Interrupted, asked_to_end, ends_cleanly
from moleflow_fast.system.phases import IMPORTS, Phases, counting, phase, since_process_start

if TYPE_CHECKING:
    from moleflow_fast.run.session import ContinualRun


_DESCRIPTION = """\
Learn product categories one after another with MoLE-Flow, and evaluate after each."""

_EXAMPLES = """\
examples:
  moleflow train
      the synthetic demo set, a few minutes on two CPU cores
  moleflow train --dataset mvtec --data_path /data/mvtec_ad
      MVTec AD, one class after another, the published defaults
  moleflow train --preset best-pixel-ap --data_path /data/mvtec_ad
      a published experiment; --list_presets '*DIA*' shows those with DIA in their names
  moleflow train --dataset folder --data_path my_parts --backbone_name mobilenetv2_100 \\
      --backbone_layers blocks.2 blocks.4 --embed_dim 256
      your own images in MVTec AD layout
  moleflow train --extend runs/parts --data_path new_parts --task_classes washer
      one product more for a finished run; its other products and their images are left alone"""


def build_parser() -> CommandParser:
    parser = CommandParser("train", "[options]", _DESCRIPTION, _EXAMPLES)
    add_run_options(parser)
    add_change_args(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    phases = Phases(since_process_start() if argv is None else 0.0)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        asked = parse_options(argv, build_parser())
        with ends_cleanly(), counting(phases):
            return _train(asked)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except Interrupted as end:  # before there was anything to go on with
        print("interrupted: nothing was trained yet", file=sys.stderr)
        return end.exit_code


def _train(asked: RunOptions | Change) -> int:
    if isinstance(asked, Change):
        with phase(IMPORTS), heavy_imports():
            from moleflow_fast.run.changes import changed_run
        return _execute(changed_run(asked))
    from moleflow_fast.data.decoder import Decoder

    decoder = Decoder(asked.num_workers)
    decoder.start()  # while torch is imported
    with demo_written_beside(asked), phase(IMPORTS), heavy_imports():
        from moleflow_fast.run.session import ContinualRun

    return _execute(ContinualRun(asked, decoder=decoder))


@contextmanager
def demo_written_beside(asked: RunOptions) -> Iterator[None]:
    """While the block runs another process writes the demo set, if the run wants it and it is not there.

    It is there at the end. Where it could not be written the run tries again itself, and says what is wrong.
    """
    if asked.dataset != "demo" or asked.data_path or asked.demo_folder.exists():
        yield
        return
    command = [sys.executable, "-P", "-m", "moleflow_fast.data.demo", str(asked.demo_folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield


def _execute(run: ContinualRun) -> int:
    try:
        run.execute()
    except (KeyboardInterrupt, Exception) as error:
        number = asked_to_end()
        if number is None or run.directory is None or isinstance(error, UserError):
            raise
        # Any other exception is the signal's doing too: decoding processes had it as well, and Ray raises its own.
        logging.getLogger(__name__).debug("ended by", exc_info=error)
        print(f"interrupted: {run.way_on} to go on with {run.directory.path}", file=sys.stderr)
        return Interrupted(number).exit_code
    return 0
