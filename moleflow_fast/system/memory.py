"""How much memory of the host may still be taken."""

from __future__ import annotations

import sys
from pathlib import Path

_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
_ELSEWHERE = 4 * 2**30  # bytes: what most machines have to spare


def free_memory() -> int:
    """Bytes that can be had without swapping and within the limit of a container.

    Systems other than Linux are taken to have `_ELSEWHERE`.
    """
    in_container = _free_in_container()
    return _free_on_machine() if in_container is None else min(_free_on_machine(), in_container)


def _free_on_machine() -> int:
    if sys.platform != "linux":
        return _ELSEWHERE
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _free_in_container() -> int | None:
    """None where there is no container, or one without a limit ("max")."""
    try:
        return max(0, int(_LIMIT.read_text()) - int(_USED.read_text()))
    except (OSError, ValueError):
        return None
