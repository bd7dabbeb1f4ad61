"""moleflow predict RUN INPUT... -o OUT: scores, labels and pictures of image files."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from moleflow_fast.cli.parser import FAILED, FINE, CommandParser
from moleflow_fast.config.threshold_options import add_threshold_options, level_of, separated
from moleflow_fast.errors import UserError
from moleflow_fast.system.heavy_imports import heavy_imports
from moleflow_fast.system.interruption import Interrupted, end_waits, ends_cleanly

if TYPE_CHECKING:
    from moleflow_fast.console import Console
    from moleflow_fast.detector.detector import Detector
    from moleflow_fast.predict.output import Output

SOME_UNREADABLE = 2
_NAMED = 20  # unreadable files in the last message; scores.csv has them all


_DESCRIPTION = """\
Score images with a finished run. Writes scores.csv, scores.jsonl, heat maps and masks into a new folder."""

_EXAMPLES = """\
examples:
  moleflow predict runs/parts photos -o found --html              # and a page to look through them
  moleflow predict runs/parts photos -o found --product bolt      # all show bolts
  moleflow predict runs/parts photos -o found --false_alarms 0.01 # call one good image in a hundred defective"""

_EXIT_CODES = """\
exit codes: 0 all fine, 1 the command line is wrong or nothing more could be done, 2 some files could not be read (see
scores.csv), 130 ended by Ctrl-C, 143 ended by SIGTERM (what was scored so far is written)"""


def build_parser() -> CommandParser:
    usage = "RUN INPUT... -o OUT [options]"
    parser = CommandParser("predict", usage, _DESCRIPTION, _EXAMPLES, _EXIT_CODES, mistyped=FAILED)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, as printed by moleflow train")
    parser.add_argument(
        "input", type=Path, nargs="+", metavar="INPUT", help="image files, and folders that are searched below"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="where the results go")
    add_threshold_options(parser)
    parser.add_argument(
        "--product",
        metavar="NAME",
        help="what all images show, where that is known: its expert scores them, wherever they would be routed "
        "(default: each image is routed to the product that it is nearest to)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--batch_size", type=int, help="images the device takes at a time (default: the run's)")
    parser.add_argument("--data_path", type=Path, help="the run's images, for a run without calibration.json")
    parser.add_argument("--html", action="store_true", help="also write index.html, to look through the results")
    parser.add_argument("--no_pictures", action="store_true", help="write no overlays and masks")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    args = build_parser().parse_args(separated(sys.argv[1:] if argv is None else argv))
    done = _Done()
    try:
        with ends_cleanly():
            _predict(args, done)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except Interrupted as end:
        print(f"interrupted: {done.of_all}" + (f", written to {args.output}" if done.images else ""), file=sys.stderr)
        return end.exit_code
    _say_unreadable(done.unreadable)
    return SOME_UNREADABLE if done.unreadable else FINE


@dataclass
class _Done:
    """How far it came."""

    paths: Sequence[Path] = ()
    """All that there is to do."""
    labels: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        return self.labels.total()

    @property
    def of_all(self) -> str:
        return f"{self.images} of {len(self.paths)} images are scored" if self.images else "nothing was scored yet"


def _predict(args: argparse.Namespace, done: _Done) -> None:
    with heavy_imports():
        from moleflow_fast.detector.detector import Detector
        from moleflow_fast.detector.images import files_of
        from moleflow_fast.predict.output import Output
        from moleflow_fast.predict.records import require_none_in

    require_none_in(args.output)
    done.paths = list(dict.fromkeys(path for given in args.input for path in files_of(given)))
    detector = Detector.load(
        args.run,
        args.device,
        threshold=level_of(args.threshold, "--threshold"),
        false_alarms=level_of(args.false_alarms, "--false_alarms"),
        batch_size=args.batch_size,
        data_path=args.data_path,
    )
    detector.task_of(args.product)  # an unknown one is said before anything is written
    name = args.run.resolve().name
    try:
        with Output.in_folder(args.output, page=args.html, draws=not args.no_pictures) as output:
            thresholds = {limit.calibrated for limit in detector.limits.values()}
            try:
                _write_all(detector, output, args, done)
            except Interrupted:
                output.finish(f"{name}: interrupted, {done.of_all}", thresholds)
                raise
            with end_waits("when the page is written"):
                output.finish(f"{name}: {len(done.paths)} images", thresholds)
    except OSError as error:
        raise UserError(f"{args.output}: cannot be written ({error}); free some space or choose another -o") from error


def _write_all(detector: Detector, output: Output, args: argparse.Namespace, done: _Done) -> None:
    from moleflow_fast.console import Console
    from moleflow_fast.predict.drawing import Drawing

    drawing = Drawing(detector.calibration, to_files=not args.no_pictures, to_page=args.html)
    console = Console(args.quiet)
    if args.threshold or args.false_alarms:
        _say_limits(detector, console)
    everything, labels, unreadable = done.paths, done.labels, done.unreadable
    drawn_stream = detector.stream_drawn(everything, drawing.side, drawing, args.product)
    with console.counting("images") as progress, closing(drawn_stream) as stream:
        for drawn in stream:
            with end_waits(""):  # no half of a row
                record = output.add(drawn)
                labels[record["label"]] += 1
                if record["error"] is not None:
                    unreadable.append(record["error"])
            progress(done.images, len(everything))
    counted = ", ".join(f"{labels[label]} {label}" for label in ("normal", "defective", "unknown"))
    console.say(f"{len(everything)} images: {counted}" + (f", {len(unreadable)} unreadable" if unreadable else ""))
    console.say(f"written to {args.output}")


def _say_limits(detector: Detector, console: Console) -> None:
    for task_id, limit in detector.limits.items():
        names = ", ".join(detector.calibration.tasks[task_id].class_names)
        console.say(f"{names}: defective above a score of {limit.score:.6g} (calibrated {limit.calibrated:.4f})")


def _say_unreadable(errors: Sequence[str]) -> None:
    for error in errors[:_NAMED]:
        print(f"unreadable: {error}", file=sys.stderr)
    if len(errors) > _NAMED:
        print(f"and {len(errors) - _NAMED} more: see the column error of scores.csv", file=sys.stderr)
