"""What to run next: a configuration for each goal, settings to avoid, settings without influence."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence

from moleflow_fast.report.command_line import command_line
from moleflow_fast.report.configurations import Configuration, Group
from moleflow_fast.report.context import HEADLINE, Context, mean_cell, signed
from moleflow_fast.report.document import Block, Bullets, Caution, Code, Heading, Table, Text
from moleflow_fast.report.factors import COMPONENTS
from moleflow_fast.report.sections.hyperparameters import factor_label, factors_of
from moleflow_fast.report.statistics import Difference

# Without an interval: a loss worth a warning, and a difference too small to matter.
_LOSS = 0.002
_NEGLIGIBLE = 0.001


def recommendations(context: Context) -> list[Block]:
    """Three goals, then what to avoid and what does not matter."""
    words, group = context.words, context.main
    blocks: list[Block] = [Heading(words("recommendations"))]
    placed = [c for c in context.ranked if not any(math.isnan(c.mean(metric)) for metric in HEADLINE)]
    if len(placed) < 2:
        return blocks + context.missing("missing_recommendations")
    for goal, choose in GOALS.items():
        blocks += _goal(context, goal, choose(placed), placed)
    blocks += [Heading(words("avoid"), 3), *_avoid(context)]
    return blocks + [Heading(words("no_influence"), 3), *_without_influence(context, group)]


def _highest(metric: str) -> Callable[[Sequence[Configuration]], Configuration]:
    return lambda placed: max(placed, key=lambda c: c.mean(metric))


def balanced(placed: Sequence[Configuration]) -> Configuration:
    """The smallest sum of ranks in both headline metrics; equals share the better rank, image AUROC decides a draw."""
    ranks = {id(c): sum(_rank(c, placed, metric) for metric in HEADLINE) for c in placed}
    return min(placed, key=lambda c: (ranks[id(c)], -c.mean("image_auroc")))


def _rank(configuration: Configuration, placed: Sequence[Configuration], metric: str) -> int:
    return sum(other.mean(metric) > configuration.mean(metric) for other in placed)


GOALS: dict[str, Callable[[Sequence[Configuration]], Configuration]] = {
    "goal_image_auroc": _highest("image_auroc"),
    "goal_pixel_ap": _highest("pixel_ap"),
    "goal_balanced": balanced,
}


def _goal(context: Context, goal: str, chosen: Configuration, placed: Sequence[Configuration]) -> list[Block]:
    words, group = context.words, context.main
    columns = ("configuration", "n", *HEADLINE)
    shown = [chosen] if chosen is group.baseline else [chosen, group.baseline]
    rows = [(c.name, str(len(c.runs)), *(mean_cell(c, metric) for metric in HEADLINE)) for c in shown]
    arguments = command_line(chosen.options)
    arguments += [] if chosen.options.dataset == "demo" else ["--data_path", "DIR"]
    command = "moleflow train " + shlex.join(arguments)
    blocks: list[Block] = [Heading(words(goal), 3), Text(words(f"{goal}_rule", count=len(placed)))]
    blocks += [Code(command), Table([words(column) for column in columns], rows)]
    if chosen is group.baseline:
        blocks.append(Text(words("chosen_is_baseline")))
    for metric in filter(lambda metric: _matters(goal, metric), HEADLINE):
        if chosen is not group.baseline:
            blocks.append(_verdict(context, metric, group.difference(chosen, metric)))
        tied = _tied(group, chosen, placed, metric)
        if tied:
            blocks.append(Text(words("chosen_tied", metric=words(metric), count=tied)))
    return blocks


def _tied(group: Group, chosen: Configuration, placed: Sequence[Configuration], metric: str) -> int:
    """How many others cannot be told from the chosen one."""
    differences = [group.difference(chosen, metric, other) for other in placed if other is not chosen]
    return sum(d is not None and d.verdict == "noise" for d in differences)


def _matters(goal: str, metric: str) -> bool:
    return goal in ("goal_balanced", f"goal_{metric}")


def _verdict(context: Context, metric: str, difference: Difference | None) -> Block:
    words = context.words
    if difference is None or not difference.has_interval:
        return Caution(words("chosen_no_interval", metric=words(metric)))
    text = words(f"chosen_{difference.verdict}", metric=words(metric), difference=context.differs(difference))
    return Caution(text) if difference.verdict == "noise" else Text(text)


# -- avoid, no influence -------------------------------------------------------------------------------------


def _avoid(context: Context) -> list[Block]:
    """Single departures that lose image AUROC, the largest loss first."""
    words, group = context.words, context.main
    single = [c for c in group.configurations if len(c.departures) == 1 and not set(c.departures) & set(COMPONENTS)]
    judged = [(c, d) for c in single if (d := group.difference(c, "image_auroc")) is not None]
    losing = [(c, d) for c, d in judged if _loses(d)]
    losing.sort(key=lambda pair: pair[1].value)
    rule = Text(words("avoid_rule", loss=f"{_LOSS:g}"))
    if not losing:
        return [rule, Text(words("avoid_none"))]
    return [rule, Bullets([_loss(context, c, d) for c, d in losing])]


def _loses(difference: Difference) -> bool:
    if difference.has_interval:
        return difference.verdict == "lower"
    return round(difference.value, 6) <= -_LOSS


def _loss(context: Context, configuration: Configuration, difference: Difference) -> str:
    words = context.words
    ((factor, values),) = configuration.departures.items()
    setting = f"{words.or_same('factor', factor)}: {factor_label(context, factor, values)}"
    note = "" if difference.has_interval else f" ({words('verdict_no_interval')})"
    return f"{setting}: {words('image_auroc')} {context.differs(difference)}{note}"


def _without_influence(context: Context, group: Group) -> list[Block]:
    """Factors none of whose rows leaves the noise, or differs by more than a trifle where there is no interval."""
    words = context.words
    found = []
    for factor in factors_of(words, group):
        differences = [group.difference(c, metric) for c in group.single(factor) for metric in HEADLINE]
        known = [d for d in differences if d is not None]
        if known and all(_negligible(d) for d in known):
            largest = max(known, key=lambda d: abs(d.value))
            found.append(f"{words.or_same('factor', factor)}: {words('at_most', difference=signed(largest.value))}")
    rule = Text(words("no_influence_rule", least=f"{_NEGLIGIBLE:g}"))
    return [rule, Bullets(found) if found else Text(words("no_influence_none"))]


def _negligible(difference: Difference) -> bool:
    if difference.has_interval:
        return difference.verdict == "noise"
    return abs(round(difference.value, 6)) <= _NEGLIGIBLE
