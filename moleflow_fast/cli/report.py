"""python -m moleflow_fast.report: the analysis of a set of runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from moleflow_fast.errors import UserError
from moleflow_fast.report.words import LANGUAGES


def main(argv: list[str] | None = None) -> int:
    """0 on success, 1 with one line on an error the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m moleflow_fast.report",
        description="Write report.md with figures and report.html: the analysis of a set of runs.",
        allow_abbrev=False,
    )
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
    args = parser.parse_args(argv)
    from moleflow_fast.report.write import write_report  # not at the top: it imports matplotlib

    try:
        html = write_report(args.runs, Path(args.output), args.lang, args.baseline, args.rival)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written to {html} and {html.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
