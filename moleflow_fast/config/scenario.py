"""Continual-learning scenarios: `14-1` is fourteen classes first, then one at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence


def split_into_tasks(classes: Sequence[str], scenario: str) -> list[list[str]]:
    """The classes of each task, in order; the last task may be smaller.

    Raises:
        ValueError: not `base-inc`, a zero, or a base larger than the number of classes.
    """
    match = re.fullmatch(r"(\d+)-(\d+)", scenario)
    if not match or int(match[1]) < 1 or int(match[2]) < 1:
        raise ValueError(f"--cl_scenario must read base-inc with positive numbers, as 1-1 or 14-1, got {scenario!r}")
    base, increment = int(match[1]), int(match[2])
    if base > len(classes):
        raise ValueError(f"--cl_scenario {scenario} starts with {base} classes, but only {len(classes)} are chosen")
    later = range(base, len(classes), increment)
    return [list(classes[:base]), *(list(classes[i : i + increment]) for i in later)]
