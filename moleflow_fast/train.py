"""python -m moleflow_fast.train: see `moleflow train --help`."""

import sys

from moleflow_fast.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
