"""Runs that differ by seed alone as one configuration; configurations of the same data as one group."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.class_result import METRICS
from moleflow_fast.report.factors import (
    EQUIVALENT,
    GROUP_OPTIONS,
    PROTOCOL,
    Departures,
    Effective,
    departures,
    effective_options,
    values_text,
)
from moleflow_fast.report.published_rows import REFERENCE, options_of_presets, published_figures
from moleflow_fast.report.runs import Run
from moleflow_fast.report.statistics import Difference, Values, deviation, mean, paired_difference

BASELINE_NAME = "baseline"


@dataclass(eq=False)
class Configuration:
    """Runs of one configuration, one a seed; `name` and `departures` are relative to the group's baseline."""

    effective: Effective
    runs: list[Run]
    name: str = ""
    presets: tuple[str, ...] = ()
    departures: Departures = field(default_factory=dict)

    @property
    def options(self) -> RunOptions:
        return self.runs[0].options

    @property
    def seeds(self) -> list[int]:
        return [run.options.seed for run in self.runs]

    def mean(self, metric: str) -> float:
        """Mean over seeds, NaN where no run has the metric."""
        return mean(self._means(metric))

    def deviation(self, metric: str) -> float:
        return deviation(self._means(metric))

    def oracle(self, metric: str) -> float:
        return mean([run.oracle[metric] for run in self.runs if metric in run.oracle])

    def per_class(self, metric: str) -> Values:
        """Seed -> class -> value of a class metric; the mean as its only class where classes are not known."""
        if metric not in METRICS or not all(run.classes for run in self.runs):
            return {run.options.seed: {"": run.means[metric]} for run in self.runs if metric in run.means}
        return {run.options.seed: {c.class_name: getattr(c, metric) for c in run.classes} for run in self.runs}

    def _means(self, metric: str) -> list[float]:
        return [run.means[metric] for run in self.runs if metric in run.means]


@dataclass(eq=False)
class Group:
    """Configurations of the same data, tasks and backbone. `why` is a key of words: how the baseline was chosen."""

    configurations: list[Configuration]
    baseline: Configuration
    why: str
    protocol: Mapping[str, tuple[object, object]]
    reference: str
    prefix: str = ""
    _differences: dict[tuple[int, int, str], Difference | None] = field(default_factory=dict)

    @property
    def first(self) -> Run:
        return self.baseline.runs[0]

    @property
    def is_published(self) -> bool:
        return self.first.is_published

    @property
    def label(self) -> str:
        """Data set, scenario and backbone in one line; names of options' values, the same in any language."""
        options = self.first.options
        return f"{options.dataset}, {options.cl_scenario}, {options.backbone_name}"

    @property
    def classes(self) -> list[str]:
        """Empty for published rows, whose classes are those of the data set."""
        return [name for task in self.first.tasks for name in task]

    def difference(self, one: Configuration, metric: str, other: Configuration | None = None) -> Difference | None:
        """One configuration minus the other, or minus the baseline; without common seeds that of the means."""
        against = other or self.baseline
        key = (id(one), id(against), metric)
        if key not in self._differences:
            self._differences[key] = _difference(one, against, metric)
        return self._differences[key]

    def single(self, factor: str) -> list[Configuration]:
        """Configurations that depart from the baseline in one factor alone."""
        return [c for c in self.configurations if list(c.departures) == [factor]]

    def combined(self) -> list[Configuration]:
        return [c for c in self.configurations if len(c.departures) > 1]


def _difference(one: Configuration, other: Configuration, metric: str) -> Difference | None:
    paired = paired_difference(one.per_class(metric), other.per_class(metric))
    if paired is not None:
        return paired
    value = one.mean(metric) - other.mean(metric)
    return None if value != value else Difference(value)


@dataclass(frozen=True)
class Repeated:
    """A run that is left out because another has its configuration and seed."""

    left: str
    kept: str
    agrees: bool

    @property
    def key(self) -> str:
        """Key of its words."""
        return "repeated" if self.agrees else "repeated_differs"


@dataclass(frozen=True)
class Grouped:
    """`groups`: the main one first. `contradictions`: published rows with the same options and other figures."""

    groups: list[Group]
    repeated: list[Repeated]
    contradictions: list[tuple[str, str]]


def group_runs(runs: Iterable[Run], baseline: str | None = None) -> Grouped:
    """Groups of configurations, each with its baseline, names and departures.

    Measured groups stand before published ones, larger before smaller.

    Args:
        baseline: a preset's name, with or without the beginning that most share, or a run directory's.

    Raises:
        UserError: nothing has the name `baseline`.
    """
    by_data: dict[object, list[Configuration]] = {}
    repeated: list[Repeated] = []
    contradictions: list[tuple[str, str]] = []
    for run in runs:
        _add(run, by_data.setdefault(_data(run), []), repeated, contradictions)
    groups = [_group(configurations, baseline) for configurations in by_data.values()]
    if baseline is not None and not any(group.why == "why_asked" for group in groups):
        names = sorted({name for g in groups for c in g.configurations for name in _known_names(c)})
        raise UserError(f"--baseline {baseline}: no run has this name; there are {', '.join(names)}")
    groups.sort(key=lambda g: (g.is_published, -len(g.configurations)))
    return Grouped(groups, repeated, contradictions)


def _data(run: Run) -> object:
    options = run.options
    return run.is_published, options.dataset, run.tasks, options.cl_scenario, options.backbone_name


def _add(
    run: Run,
    configurations: list[Configuration],
    repeated: list[Repeated],
    contradictions: list[tuple[str, str]],
) -> None:
    """To the configuration that it is a run of, or to a new one.

    Published rows may have the same options and seed: with the same figures they are one row with several names, with
    other figures two rows that contradict each other.
    """
    effective = effective_options(run.options)
    effective = {name: value for name, value in effective.items() if name not in GROUP_OPTIONS}
    contradicted = None
    for configuration in configurations:
        if configuration.effective != effective:
            continue
        same = next((r for r in configuration.runs if r.options.seed == run.options.seed), None)
        if same is None:
            configuration.runs.append(run)
            return
        if not run.is_published:
            repeated.append(Repeated(run.where, same.where, same.means == run.means))
            return
        if same.means == run.means:
            _rename(configuration, same, run)
            return
        contradicted = contradicted or same
    if contradicted is not None:
        contradictions.append((contradicted.where, run.where))
    configurations.append(Configuration(effective, [run]))


def _rename(configuration: Configuration, same: Run, run: Run) -> None:
    names = (*same.names, *run.names)
    configuration.runs[configuration.runs.index(same)] = Run(same.where, names, same.options, same.means)


def _group(configurations: list[Configuration], wanted: str | None) -> Group:
    shared = _shared_departures([run for c in configurations for run in c.runs])
    for configuration in configurations:
        configuration.presets = _presets_of(configuration, shared)
        configuration.runs.sort(key=lambda run: run.options.seed)
    prefix = _common_prefix([name for c in configurations for name in c.presets])
    baseline, why = _baseline(configurations, wanted, prefix)
    for configuration in configurations:
        configuration.departures = departures(configuration.effective, baseline.effective)
    _name(configurations, baseline, prefix)
    reference = next((name for name in baseline.presets if name in options_of_presets()), REFERENCE)
    return Group(configurations, baseline, why, _protocol(baseline, reference), reference, prefix)


# -- names -----------------------------------------------------------------------------------------------


def _from_preset(run: Run, name: str) -> dict[str, object]:
    """Option -> value where a run departs from a preset, but for what defines its group and what computes the same."""
    ours, theirs = effective_options(run.options), effective_options(options_of_presets()[name])
    return {
        option: ours.get(option)
        for option in {**ours, **theirs}
        if option not in GROUP_OPTIONS | EQUIVALENT and ours.get(option) != theirs.get(option)
    }


def _shared_departures(runs: Sequence[Run]) -> dict[str, object]:
    """Option -> value where runs depart from their own presets and all of them agree: the protocol of the whole set.

    A run whose preset has that value already agrees, and so does one on which the option does not act.
    """
    named = [(run, run.options.preset) for run in runs if run.options.preset in options_of_presets()]
    found = {o: v for run, preset in named if preset is not None for o, v in _from_preset(run, preset).items()}
    values = [effective_options(run.options) for run, _ in named]
    return {option: value for option, value in found.items() if all(v.get(option, value) == value for v in values)}


def _presets_of(configuration: Configuration, shared: Mapping[str, object]) -> tuple[str, ...]:
    """Presets whose configuration this is but for the shared protocol."""
    names = dict.fromkeys(name for run in configuration.runs for name in run.names if name in options_of_presets())
    run = configuration.runs[0]
    kept = []
    for name in names:
        own = _from_preset(run, name)
        if all(option in shared and shared[option] == value for option, value in own.items()):
            kept.append(name)
    return tuple(kept)


def _common_prefix(names: Sequence[str]) -> str:
    """The longest beginning up to a hyphen that at least half of the names share, and that leaves them different."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split("-")
        counts.update("-".join(parts[:i]) + "-" for i in range(1, len(parts)))
    shared = [prefix for prefix, count in counts.items() if count > 1 and 2 * count >= len(names)]
    prefix = max(shared, key=len, default="")
    cut = [name.removeprefix(prefix) for name in names]
    return prefix if len(set(cut)) == len(set(names)) else ""


def _name(configurations: Sequence[Configuration], baseline: Configuration, prefix: str) -> None:
    used: Counter[str] = Counter()
    for configuration in configurations:
        values = {o: v for departed in configuration.departures.values() for o, v in departed.items()}
        fallback = BASELINE_NAME if configuration is baseline else values_text(values)
        presets = configuration.presets
        own = presets[0].removeprefix(prefix) if presets else fallback or configuration.runs[0].where
        used[own] += 1
        configuration.name = own if used[own] == 1 else f"{own} ({used[own]})"


# -- baseline and protocol ---------------------------------------------------------------------------------


def _known_names(configuration: Configuration) -> set[str]:
    directories = {os.path.basename(run.where) for run in configuration.runs if not run.is_published}
    return {*(name for run in configuration.runs for name in run.names), *configuration.presets, *directories}


def _baseline(configurations: Sequence[Configuration], wanted: str | None, prefix: str) -> tuple[Configuration, str]:
    for configuration in configurations:
        if wanted is not None and {wanted, prefix + wanted} & _known_names(configuration):
            return configuration, "why_asked"
    for configuration in configurations:
        if REFERENCE in configuration.presets:
            return configuration, "why_reference"
    if len(configurations) == 1:
        return configurations[0], "why_only"
    return max(configurations, key=lambda c: _neighbours(c, configurations)), "why_neighbours"


def _neighbours(centre: Configuration, configurations: Sequence[Configuration]) -> int:
    return sum(len(departures(c.effective, centre.effective)) == 1 for c in configurations)


def _protocol(baseline: Configuration, reference: str) -> dict[str, tuple[object, object]]:
    """Option -> (here, published) where the baseline departs from a published row.

    A baseline with that row's name departs by protocol alone; of any other one only options of the protocol count.
    """
    ours = effective_options(baseline.options)
    theirs = effective_options(options_of_presets()[reference])
    if baseline.runs[0].tasks:
        ours["task_classes"] = tuple(name for task in baseline.runs[0].tasks for name in task)
    everything = reference in baseline.presets
    names = [option for option in {**theirs, **ours} if option not in EQUIVALENT and (everything or option in PROTOCOL)]
    return {o: (ours.get(o), theirs.get(o)) for o in names if ours.get(o) != theirs.get(o)}


def published_difference(preset: str, baseline: Configuration, metric: str) -> tuple[float, float] | None:
    """(figure, difference to the published baseline) of a preset; None where either was not published."""
    figures = published_figures(preset)
    base = next((published_figures(name) for name in baseline.presets), {})
    if metric not in figures or metric not in base:
        return None
    return figures[metric], figures[metric] - base[metric]
