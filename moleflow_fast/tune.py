"""python -m moleflow_fast.tune: see `moleflow tune --help`."""

import sys

from moleflow_fast.cli.tune import main

if __name__ == "__main__":
    sys.exit(main())
