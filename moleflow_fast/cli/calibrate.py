"""moleflow calibrate RUN: measure anew what is normal for each product."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from moleflow_fast.cli.outcome import outcome
from moleflow_fast.cli.parser import FINE, CommandParser
from moleflow_fast.system.heavy_imports import heavy_imports

if TYPE_CHECKING:
    from moleflow_fast.detector.calibrate_again import Change
    from moleflow_fast.detector.calibration import TaskCalibration

_DESCRIPTION = """\
Measure anew what is normal for each product of a run: the scores above which images are defective, where regions begin,
and how far an unknown image lies. Experts and routing stay as they are; RUN/calibration.json is replaced once all is
measured, and stays as it was after an error. Detectors that are loaded afterwards go by it.

Do so when the camera, the light or the parts have changed a little and good ones are called defective, or for a run of
an older version, whose file has no scores to tell --false_alarms from."""

_EXAMPLES = """\
examples:
  moleflow calibrate runs/parts                              # on the run's own images
  moleflow calibrate runs/parts --data_path /mnt/parts       # which are in another place now
  moleflow calibrate runs/parts --data_path good --product bolt   # on a folder of good bolts
  moleflow calibrate runs/parts --data_path good             # good/bolt/*.png, good/nut/*.png

A folder of images must hold good ones alone, 20 or more of a product; 100 can tell one false alarm in a hundred.
They need not be of the run: the more they look like what the camera takes today, the better."""


def build_parser() -> CommandParser:
    parser = CommandParser("calibrate", "RUN [options]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, as printed by moleflow train")
    parser.add_argument(
        "--data_path",
        type=Path,
        metavar="FOLDER",
        help="normal images: those of --product, or a folder of them for each product, by name; or the run's data set, "
        "where it is now (default: where it was)",
    )
    parser.add_argument(
        "--product", nargs="+", default=[], metavar="NAME", help="measure these alone; the others stay as they are"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    args = build_parser().parse_args(argv)
    return outcome(lambda: _calibrate(args), f"{args.run / 'calibration.json'} is as it was")


def _calibrate(args: argparse.Namespace) -> int:
    with heavy_imports():
        from moleflow_fast.detector.calibrate_again import calibrate_again
        from moleflow_fast.run.directory import RunDirectory

    change = calibrate_again(RunDirectory.open(args.run), args.device, args.data_path, args.product)
    for note in (*change.notes, *change.after.of(change.measured).warnings):
        logging.warning(note)
    _report(change)
    print(f"written to {args.run / 'calibration.json'}")
    return FINE


def _report(change: Change) -> None:
    """Old and new limits of what was measured."""
    for task_id in change.measured:
        new = change.after.tasks[task_id]
        old = None if change.before is None else change.before.tasks.get(task_id)
        print(f"{', '.join(new.class_names)}: {new.images} normal images")
        before = {} if old is None else _limits(old)
        for name, limit in _limits(new).items():
            was = f" (was {before[name]:.6g})" if before else ""
            print(f"  {name:16s} {limit:.6g}{was}")


def _limits(task: TaskCalibration) -> dict[str, float]:
    return {
        "defective above": task.threshold,
        "regions above": task.pixel_threshold,
        "unknown beyond": task.distance_limit,
    }
