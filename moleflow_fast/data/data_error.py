"""What can be wrong with a data set."""

from __future__ import annotations

from collections.abc import Sequence

from moleflow_fast.errors import UserError, shown

_SHOWN = 12


class DataError(UserError, ValueError):
    """Files that are missing, damaged or not where the layout wants them; names them and the remedy."""


def raise_all(problems: Sequence[str]) -> None:
    """One DataError for a list of problems, if there are any."""
    if not problems:
        return
    listed = "\n".join(f"  {problem}" for problem in problems[:_SHOWN])
    more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise DataError(shown(f"{count} in the data set, nothing was started:\n{listed}{more}"))
