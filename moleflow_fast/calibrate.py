"""python -m moleflow_fast.calibrate: see `moleflow calibrate --help`."""

import sys

from moleflow_fast.cli.calibrate import main

if __name__ == "__main__":
    sys.exit(main())
