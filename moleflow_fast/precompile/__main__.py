"""python -m moleflow_fast.precompile: see `moleflow precompile --help`."""

import sys

from moleflow_fast.cli.precompile import main

if __name__ == "__main__":
    sys.exit(main())
