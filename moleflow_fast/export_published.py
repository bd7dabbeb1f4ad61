"""python -m moleflow_fast.export_published: see `moleflow export_published --help`."""

import sys

from moleflow_fast.cli.export_published import main

if __name__ == "__main__":
    sys.exit(main())
