"""python -m moleflow_fast: the same as `moleflow`."""

import sys

from moleflow_fast.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
