"""python -m moleflow_fast.train: learn product categories one after another."""

from __future__ import annotations

import logging
import sys

from moleflow_fast.config.options import parse_options
from moleflow_fast.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """0 on success, 1 with one clear message on an error the user can mend, 130 on Ctrl-C."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        options = parse_options(argv)
        from moleflow_fast.run import ContinualRun  # not at the top: decoding processes import this module again

        ContinualRun(options).execute()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: add --resume --experiment_name NAME to go on after the last complete task", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
