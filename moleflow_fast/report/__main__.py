"""python -m moleflow_fast.report: see `moleflow report --help`."""

import sys

from moleflow_fast.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
