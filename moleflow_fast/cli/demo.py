"""moleflow demo: learn the synthetic demo set, find defects in a few of its test images, and say where to look."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moleflow_fast.cli import predict, train
from moleflow_fast.cli.outcome import outcome
from moleflow_fast.cli.parser import FINE, CommandParser
from moleflow_fast.errors import UserError

_DESCRIPTION = """\
See it work: learn six synthetic categories one after another, as moleflow train does by default, then score a few of
their test images, and say which pictures show a defect that was found. It takes a few minutes on two CPU cores. The
images are drawn, so figures measured on them say nothing about real inspection.

The same command again goes on where it was interrupted, or scores the images again."""

_EXAMPLES = """\
examples:
  moleflow demo                             # runs/demo-data: the images, runs/demo: the run and what it found
  moleflow demo -o trial                    # the same below trial
  moleflow demo --random_backbone           # without a network, from which the backbone's weights come

every other option is one of moleflow train"""

_SIGNALLED = 128
_DECIDED_HERE = (
    "--dataset", "--data_path", "--log_dir", "--experiment_name", "--resume", "--extend", "--remove", "--again",
    "--task_classes", "--load_checkpoint", "--final_eval_only",
)  # fmt: skip


def build_parser() -> CommandParser:
    parser = CommandParser("demo", "[-o DIR] [options]", _DESCRIPTION, _EXAMPLES, beside=train.build_parser())
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("runs"), metavar="DIR", help="where all is written (default runs)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args, given = build_parser().parse_known_args(argv)
    options = train.build_parser().parse_args(given)
    run: Path = args.output / "demo"
    if code := outcome(lambda: _learn(args.output, run, given), "nothing was trained yet"):
        return code
    found = run / "found"
    device = [] if options.device is None else ["--device", options.device]
    quiet = ["--quiet"] if options.quiet else []
    images = _test_images(args.output / "demo-data")
    shutil.rmtree(found, ignore_errors=True)  # of an earlier demo
    if code := predict.main([str(run), *images, "-o", str(found), "--html", *device, *quiet]):
        return code
    _show(run, found)
    return FINE


def _learn(folder: Path, run: Path, given: Sequence[str]) -> int:
    own = [word for word in given if word.partition("=")[0] in _DECIDED_HERE]
    if own:
        raise UserError(f"{', '.join(own)}: the demo decides that itself; moleflow train takes it")
    if (run / "summary.json").exists():
        if given:
            raise UserError(f"{run} is finished: drop {' '.join(given)}, or choose another folder with -o")
        print(f"learned before in {run}")
        return FINE
    way = ["--resume"] if (run / "config.json").exists() else []
    code = train.main(["--dataset", "demo", "--log_dir", str(folder), "--experiment_name", run.name, *way, *given])
    if code > _SIGNALLED:
        print("or give the same command again", file=sys.stderr)
    return code


def _test_images(data: Path) -> list[str]:
    """The first test image of each kind, defective and good, of each class."""
    return [str(kind / "000.png") for kind in sorted(data.glob("*/test/*"))]


def _show(run: Path, found: Path) -> None:
    records = [json.loads(line) for line in (found / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    print()
    shown = surest(records)
    if not shown:
        print(
            "none of these defects was found: train longer, or with a pretrained backbone (see moleflow train --help)"
        )
    for record in shown:
        print(f"{record['classes'][0]}: {Path(record['path']).parent.name} found, {found / record['overlay']}")
    print(f"heat maps of all test images of a class: {run / 'heatmaps'}")
    print(f"open in a browser: {found / 'index.html'}")


def surest(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the images that do have a defect the one with the highest score of each class, if it is called defective."""
    best: dict[str, dict[str, Any]] = {}
    for record in records:
        name = Path(record["path"]).parent.parent.parent.name
        if record["label"] != "defective" or "/test/good/" in Path(record["path"]).as_posix():
            continue
        if name not in best or record["calibrated"] > best[name]["calibrated"]:
            best[name] = record
    return list(best.values())
