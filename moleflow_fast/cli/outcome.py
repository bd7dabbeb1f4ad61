"""How a command ends: its exit code, and one line where it did not do what was asked."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from moleflow_fast.cli.parser import FAILED
from moleflow_fast.errors import UserError
from moleflow_fast.system.interruption import Interrupted, asked_to_end, ends_cleanly


def outcome(work: Callable[[], int], interrupted: str) -> int:
    """The exit code of a command: that of its work, 1 on an error the user can mend, 130 and 143 on a signal.

    Args:
        interrupted: what is said when a signal ended the work: what there is now.
    """
    with ends_cleanly():
        try:
            return work()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILED
        except KeyboardInterrupt:  # libraries raise their own where a signal meets them
            print(f"interrupted: {interrupted}", file=sys.stderr)
            return Interrupted(asked_to_end() or signal.SIGINT).exit_code
