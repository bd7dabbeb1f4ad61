"""python -m moleflow_fast.evaluate: see `moleflow evaluate --help`."""

import sys

from moleflow_fast.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
