"""moleflow report RUNS: the analysis of a set of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from moleflow_fast.cli.outcome import outcome
from moleflow_fast.cli.parser import FINE, CommandParser
from moleflow_fast.report.words import LANGUAGES

_DESCRIPTION = """\
Compare finished runs in one document: report.html, and report.md with figures beside it."""

_EXAMPLES = """\
examples:
  moleflow report runs -o report                      # all runs in a folder
  moleflow report runs/all published -o report        # a sweep beside the published figures"""


def build_parser() -> CommandParser:
    parser = CommandParser("report", "RUNS... -o DIR [options]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "runs", nargs="+", metavar="RUNS", help="a run directory, a directory with run directories, or 'published'"
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="where the report goes")
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="language of the report (default en)")
    parser.add_argument(
        "--baseline", metavar="NAME", help="compare with this preset or run directory (default: see the report)"
    )
    parser.add_argument(
        "--rival", type=Path, metavar="CSV", help="compare with nearest neighbours too: a file of bench/patch_knn.py"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return outcome(lambda: _report(args), f"{args.output} may hold a part of the report: give the command again")


def _report(args: argparse.Namespace) -> int:
    from moleflow_fast.report.write import write_report  # not at the top: it imports matplotlib

    html = write_report(args.runs, Path(args.output), args.lang, args.baseline, args.rival)
    print(f"written to {html} and {html.with_suffix('.md')}")
    return FINE
