"""moleflow export RUN --format torch|onnx: a run's detector as one file for other runtimes."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moleflow_fast.cli.outcome import outcome
from moleflow_fast.cli.parser import FINE, CommandParser
from moleflow_fast.config.threshold_options import add_threshold_options, level_of, separated
from moleflow_fast.system.heavy_imports import heavy_imports

if TYPE_CHECKING:
    from moleflow_fast.export.exporting import Exported

_DESCRIPTION = """\
Write the whole detector of a run as one program: backbone, patch pooling, routing, the experts of all tasks, scores,
labels and maps. It takes bytes (batch, S, S, 3): pictures in RGB, the short side resized to S and the centre cropped.
Any batch size will do, and whoever runs it needs neither this package nor, with ONNX, torch.

Before the file gets its name it is run on real images, of all tasks mixed, at several batch sizes, and compared with
the detector; a program that differs is not kept."""

_EXAMPLES = """\
examples:
  moleflow export runs/parts --format onnx                 # runs/parts/export/detector.onnx
  moleflow export runs/parts --format onnx -o line3.onnx --threshold 0.3
  moleflow export runs/parts --format torch --aot          # also compiled code for this processor
  moleflow export runs/parts --format onnx --data_path /mnt/my_parts    # the images have moved
  moleflow export runs/parts --format onnx --images photos              # or are gone

outputs: score, calibrated, task_id, distances, label (0 normal, 1 defective, 2 unknown), patch_map, pixel_map.
Class names, thresholds and the figures of the comparison are in the file's metadata and in a JSON file beside it.
--format onnx needs: pip install 'moleflow_fast[export]'"""


def build_parser() -> CommandParser:
    parser = CommandParser("export", "RUN --format torch|onnx [options]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, as printed by moleflow train")
    parser.add_argument("--format", required=True, choices=("torch", "onnx"), help="torch: .pt2, onnx: .onnx")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="replaced if it is there (default RUN/export/detector.*)"
    )
    parser.add_argument("--aot", action="store_true", help="with torch: also FILE.aot.pt2, compiled by AOTInductor")
    add_threshold_options(parser)
    parser.add_argument("--data_path", type=Path, help="where the run's images are now; its test images are the check")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="check with the pictures below it instead")
    parser.add_argument(
        "--check_images", type=int, default=8, metavar="N", help="images of each class to check with (default 8)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    args = build_parser().parse_args(separated(sys.argv[1:] if argv is None else argv))
    return outcome(lambda: _export(args), "no file was written that was not checked")


def _export(args: argparse.Namespace) -> int:
    with heavy_imports():
        from moleflow_fast.export.exporting import Request, export

    request = Request(
        args.run,
        args.format,
        args.output,
        args.aot,
        level_of(args.threshold, "--threshold"),
        level_of(args.false_alarms, "--false_alarms"),
        args.data_path,
        args.images,
        args.check_images,
    )
    _report(export(request))
    return FINE


def _report(exported: Exported) -> None:
    print(f"checked with {exported.images} images; largest differences from the detector:")
    for one in exported.checked:
        parity = one.parity
        print(
            f"  {one.runtime:12s} scores {parity.score:.1e}, maps {parity.maps:.1e}, distances {parity.distances:.1e}, "
            f"routes and labels equal; {one.milliseconds:.1f} ms per image"
        )
    for note in exported.notes:
        print(f"note: {note}")
    for file in exported.files:
        print(f"written to {file} ({file.stat().st_size / 2**20:.1f} MiB)")
