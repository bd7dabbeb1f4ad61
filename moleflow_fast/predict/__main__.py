"""python -m moleflow_fast.predict RUN INPUT... -o OUT: scores, labels and pictures of image files."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from moleflow_fast.config.threshold_options import add_threshold_options, level_of, separated
from moleflow_fast.errors import UserError
from moleflow_fast.heavy_imports import heavy_imports

if TYPE_CHECKING:
    from moleflow_fast.console import RunConsole
    from moleflow_fast.detector.detector import Detector
    from moleflow_fast.predict.output import Output

FINE, FAILED, SOME_UNREADABLE = 0, 1, 2
_NAMED = 20  # unreadable files in the last message; scores.csv has them all


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """argparse would exit with 2, which here says that some files could not be read."""
        self.print_usage(sys.stderr)
        self.exit(FAILED, f"{self.prog}: error: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m moleflow_fast.predict",
        description="Score images with a finished run. Writes scores.csv, scores.jsonl and pictures into a new folder.",
        epilog="exit status: 0 all fine, 1 nothing more could be done, 2 some files could not be read (see scores.csv)",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="run directory, as printed by moleflow_fast.train")
    parser.add_argument("input", type=Path, nargs="+", help="image files, and folders that are searched below")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="where the results go")
    add_threshold_options(parser)
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
    try:
        unreadable = _predict(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    _say_unreadable(unreadable)
    return SOME_UNREADABLE if unreadable else FINE


def _predict(args: argparse.Namespace) -> list[str]:
    """Returns the names of the files that could not be read."""
    with heavy_imports():
        from moleflow_fast.detector.detector import Detector
        from moleflow_fast.detector.images import files_of
        from moleflow_fast.predict.output import Output
        from moleflow_fast.predict.records import require_none_in

    require_none_in(args.output)
    paths = list(dict.fromkeys(path for given in args.input for path in files_of(given)))
    detector = Detector.load(
        args.run,
        args.device,
        threshold=level_of(args.threshold, "--threshold"),
        false_alarms=level_of(args.false_alarms, "--false_alarms"),
        batch_size=args.batch_size,
        data_path=args.data_path,
    )
    try:
        with Output.in_folder(args.output, page=args.html, draws=not args.no_pictures) as output:
            unreadable = _write_all(detector, paths, output, args)
            thresholds = {limit.calibrated for limit in detector.limits.values()}
            output.finish(f"{args.run.resolve().name}: {len(paths)} images", thresholds)
    except OSError as error:
        raise UserError(f"{args.output}: cannot be written ({error}); free some space or choose another -o") from error
    return unreadable


def _write_all(detector: Detector, paths: Sequence[Path], output: Output, args: argparse.Namespace) -> list[str]:
    from moleflow_fast.console import RunConsole
    from moleflow_fast.predict.drawing import Drawing

    drawing = Drawing(detector.calibration, to_files=not args.no_pictures, to_page=args.html)
    console = RunConsole(args.quiet)
    if args.threshold or args.false_alarms:
        _say_limits(detector, console)
    labels: Counter[str] = Counter()
    unreadable = []
    with console.counting("images") as progress, closing(detector.stream_drawn(paths, drawing.side, drawing)) as stream:
        for done, drawn in enumerate(stream, 1):
            record = output.add(drawn)
            labels[record["label"]] += 1
            if record["error"] is not None:
                unreadable.append(record["error"])
            progress(done, len(paths))
    counted = ", ".join(f"{labels[label]} {label}" for label in ("normal", "defective", "unknown"))
    console.say(f"{len(paths)} images: {counted}" + (f", {len(unreadable)} unreadable" if unreadable else ""))
    console.say(f"written to {args.output}")
    return unreadable


def _say_limits(detector: Detector, console: RunConsole) -> None:
    for task_id, limit in detector.limits.items():
        names = ", ".join(detector.calibration.tasks[task_id].class_names)
        console.say(f"{names}: defective above a score of {limit.score:.6g} (calibrated {limit.calibrated:.4f})")


def _say_unreadable(errors: Sequence[str]) -> None:
    for error in errors[:_NAMED]:
        print(f"unreadable: {error}", file=sys.stderr)
    if len(errors) > _NAMED:
        print(f"and {len(errors) - _NAMED} more: see the column error of scores.csv", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
