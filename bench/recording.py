"""What a benchmark leaves in the results beside its times."""

from __future__ import annotations

from typing import Any

from counts import Work


def record(benchmark: Any, group: str, work: Work | None = None, **extra: Any) -> None:
    """Set the group and the extra information: needed multiply-adds and bytes (in units of 1e9), and `extra`.

    Of which tables know `peak_mib`; `images`, where their rate is of interest; `precision` of the products, where it is
    not fp32; and `calls`, where what was timed is that many times what the row is about.
    """
    benchmark.group = group
    if work is not None:
        benchmark.extra_info["gmac"] = float(f"{work.macs / 1e9:.4g}")
        benchmark.extra_info["gigabytes"] = float(f"{work.bytes / 1e9:.4g}")
    benchmark.extra_info.update(extra)
