"""What was analysed, under which protocol, against which baseline, and what could not be analysed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moleflow_fast.config.options import OPTIONS
from moleflow_fast.report.configurations import Group
from moleflow_fast.report.context import Context
from moleflow_fast.report.document import Block, Bullets, Caution, Details, Heading, Table, Text
from moleflow_fast.report.factors import plain
from moleflow_fast.report.runs import Trouble
from moleflow_fast.report.statistics import FEWEST, RESAMPLES


def overview(context: Context) -> list[Block]:
    """Title, warnings, protocol, counts, baseline, how to read the tables, troubles."""
    words = context.words
    blocks: list[Block] = [Heading(words("title"), 1)]
    if any(run.options.dataset == "demo" for run in context.found.runs):
        blocks.append(Caution(words("synthetic")))
    blocks += _protocol(context)
    blocks.append(Heading(words("overview")))
    blocks.append(_counts(context))
    blocks.append(Text(_baseline(context)))
    blocks += [Heading(words("how_to_read"), 3), Bullets(_how_to_read(context))]
    return blocks + _names(context) + _troubles(context)


def _protocol(context: Context) -> list[Block]:
    words, group = context.words, context.main
    if group.is_published:
        return [Caution(words("protocol_published"))]
    items = [
        words("instead", option=words.or_same("option", option), here=_value(context, here, option), there=there_text)
        for option, (here, there) in group.protocol.items()
        for there_text in [_value(context, there, option)]
    ]
    known = group.reference in group.baseline.presets
    lead = words("protocol_named" if known else "protocol_unnamed", preset=group.reference)
    if not items:
        return [Text(words("protocol_same", preset=group.reference))]
    return [Caution(words("protocol_departs")), Text(lead), Bullets(items)]


def _value(context: Context, value: object, option: str) -> str:
    words = context.words
    if isinstance(value, bool):
        return words("on" if value else "off")
    if value is None:
        return words("all_classes" if option == "task_classes" else "left_to_default")
    if OPTIONS[option].is_path:
        return Path(str(value)).name  # where it lies is one machine's matter
    if isinstance(value, tuple) and len(value) > 1 and all(isinstance(v, str) for v in value):
        return f"{', '.join(map(str, value))} ({len(value)})"
    return plain(value)


def _counts(context: Context) -> Table:
    words, found, groups = context.words, context.found, context.grouped.groups
    published = sum(run.is_published for run in found.runs)
    rows = [
        ("count_finished", len(found.runs) - published),
        ("count_published", published),
        ("count_configurations", sum(len(group.configurations) for group in groups)),
        ("count_groups", len(groups)),
        ("count_failed", len(found.failed)),
        ("count_unfinished", len(found.unfinished)),
        ("count_damaged", len(found.damaged)),
    ]
    return Table((words("what"), words("count")), [(words(key), str(count)) for key, count in rows])


def _baseline(context: Context) -> str:
    words, group = context.words, context.main
    seeds = ", ".join(map(str, group.baseline.seeds))
    lines = [
        words("main_group", group=describe(context, group), count=len(group.configurations)),
        words("baseline_is", name=group.baseline.name, why=words(group.why), seeds=seeds),
    ]
    if group.prefix:
        lines.append(words("prefix", prefix=group.prefix))
    return " ".join(lines)


def describe(context: Context, group: Group) -> str:
    """A group in one phrase: origin, data set, scenario, backbone, classes."""
    words = context.words
    origin = words("published_rows" if group.is_published else "measured_runs")
    classes = f", {words('n_classes', n=len(group.classes))}" if group.classes else ""
    return f"{origin}: {group.label}{classes}"


def _how_to_read(context: Context) -> list[str]:
    words = context.words
    return [
        words("read_means"),
        words("read_interval", resamples=f"{RESAMPLES:,}"),
        words("read_noise"),
        words("read_no_interval", fewest=FEWEST),
        words("read_many"),
    ]


def _names(context: Context) -> list[Block]:
    words = context.words
    named = [(group, c) for group in context.grouped.groups for c in group.configurations if len(c.presets) > 1]
    rows = [(c.name, ", ".join(name.removeprefix(group.prefix) for name in c.presets[1:])) for group, c in named]
    if not rows:
        return []
    table = Table((words("configuration"), words("also_called")), rows)
    return [Details(words("several_names", count=len(rows)), [table])]


def _troubles(context: Context) -> list[Block]:
    words, found, grouped = context.words, context.found, context.grouped
    blocks: list[Block] = []
    if found.failed:
        blocks += [Heading(words("failed_runs"), 3), _table(context, "error", found.failed)]
    if found.unfinished:
        blocks += [Heading(words("unfinished_runs"), 3), Text(words("unfinished_remedy"))]
        blocks.append(Bullets([trouble.where for trouble in found.unfinished]))
    if found.damaged:
        blocks += [Heading(words("damaged_runs"), 3), _table(context, "reason", found.damaged)]
    if grouped.repeated:
        pairs = [words(r.key, left=r.left, kept=r.kept) for r in grouped.repeated]
        blocks += [Heading(words("repeated_runs"), 3), Bullets(pairs)]
    if grouped.contradictions:
        pairs = [words("contradiction", first=first, second=second) for first, second in grouped.contradictions]
        blocks.append(Details(words("contradictions", count=len(pairs)), [Bullets(pairs)]))
    if found.without_options:
        blocks.append(Text(words("without_options", names=", ".join(found.without_options))))
    return blocks


def _table(context: Context, column: str, troubles: Sequence[Trouble]) -> Table:
    words = context.words
    rows = [(t.where, " ".join(filter(None, [t.reason and words(f"reason_{t.reason}"), t.detail]))) for t in troubles]
    return Table((words("run"), words(column)), rows)
