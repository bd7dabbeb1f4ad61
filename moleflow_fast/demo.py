"""python -m moleflow_fast.demo: see `moleflow demo --help`."""

import sys

from moleflow_fast.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
