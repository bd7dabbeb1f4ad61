"""python -m moleflow_fast.predict: see `moleflow predict --help`."""

import sys

from moleflow_fast.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
