"""python -m moleflow_fast.export: see `moleflow export --help`."""

import sys

from moleflow_fast.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
