"""Where the time of a run goes."""

from __future__ import annotations

from moleflow_fast.report.context import Context, percent
from moleflow_fast.report.document import Block, Heading, Table, Text
from moleflow_fast.report.statistics import mean
from moleflow_fast.system.phases import PHASES


def time(context: Context) -> list[Block]:
    """Seconds by phase of the baseline's runs, the longest first."""
    words, base = context.words, context.main.baseline
    blocks: list[Block] = [Heading(words("time"))]
    counted = [run.seconds for run in base.runs if run.seconds]
    if not counted:
        return blocks + context.missing("missing_time")
    means = {name: mean([run.get(name, 0.0) for run in counted]) for name in PHASES}
    whole = sum(means.values())
    longest = sorted((item for item in means.items() if item[1] > 0), key=lambda item: -item[1])
    rows = [(words(f"phase_{name}"), f"{seconds:.1f}", percent(seconds / whole)) for name, seconds in longest]
    lead = Text(words("time_lead", baseline=base.name, seconds=f"{whole:.1f}", seeds=len(counted)))
    return [*blocks, lead, Table([words(c) for c in ("phase", "seconds", "share")], rows)]
