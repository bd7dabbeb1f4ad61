"""python -m moleflow_fast.sweep: see `moleflow sweep --help`."""

import sys

from moleflow_fast.cli.sweep import main

if __name__ == "__main__":
    sys.exit(main())
