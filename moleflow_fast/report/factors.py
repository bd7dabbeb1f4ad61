"""What can differ between two runs: their effective options, and the factors that options belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from moleflow_fast.config.identity import result_options
from moleflow_fast.config.option import Comparison
from moleflow_fast.config.options import OPTIONS, RunOptions

Effective = Mapping[str, Any]
Departures = Mapping[str, Mapping[str, Any]]

COMPONENT = "component_"  # begins the factor that is a component of the method, switched off or shaped otherwise


def factor_of(option: str) -> str:
    """The factor of an option; one that belongs to none is its own."""
    known = OPTIONS[option]
    return COMPONENT + known.component if known.component else known.factor or option


def _grouped(names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        found[factor_of(name)] = (*found.get(factor_of(name), ()), name)
    return MappingProxyType(found)


def _compared(*kinds: Comparison) -> frozenset[str]:
    return frozenset(name for name, option in OPTIONS.items() if option.comparison in kinds)


# Factor -> its options.
COMPONENTS = _grouped(name for name, option in OPTIONS.items() if option.component)
FACTORS = _grouped(name for name, option in OPTIONS.items() if option.is_identity and not option.component)

# Alike within a group, or it would be another group.
GROUP_OPTIONS = _compared(Comparison.GROUP)
# What makes figures comparable with published ones, beside what defines the group.
PROTOCOL = _compared(Comparison.GROUP, Comparison.PROTOCOL)
# What computes the same, another way.
EQUIVALENT = _compared(Comparison.EQUIVALENT)
# Where a run took place and with which seed: no part of a configuration.
_CIRCUMSTANCES = _compared(Comparison.CIRCUMSTANCE)


def effective_options(options: RunOptions) -> dict[str, Any]:
    """The options that act on a run's numbers, flat, without seed and place.

    What another option leaves without effect is left out, so that runs which compute the same are alike.
    """
    flat = result_options(options)
    flat |= flat.pop("ablation")
    flat["msk_size"] = options.mask_size
    flat = {name: value for name, value in flat.items() if name not in _CIRCUMSTANCES}
    if options.ablation.has_front:
        del flat["use_spatial_context"]
    return {name: value for name, value in flat.items() if _acts(name, flat)}


def _acts(name: str, flat: Effective) -> bool:
    """Whether an option has an effect: its switch, if it has one, stands as it must and has an effect itself."""
    condition = OPTIONS[name].acts_with
    if condition is None:
        return True
    switch, needed = condition
    return flat.get(switch) == needed and _acts(switch, flat)


def departures(options: Effective, baseline: Effective) -> dict[str, dict[str, Any]]:
    """Factor -> option -> value, where `options` differ from `baseline`; options of the group never do.

    An option that acts on one side alone follows from its switch and is no departure of its own, unless its factor
    has departed already: then it is what the factor was set to.
    """
    found: dict[str, dict[str, Any]] = {}
    for option, value in options.items():
        if option not in GROUP_OPTIONS and option in baseline and baseline[option] != value:
            found.setdefault(factor_of(option), {})[option] = value
    for option, value in options.items():
        if option not in baseline and factor_of(option) in found:
            found[factor_of(option)][option] = value
    return found


def values_text(values: Mapping[str, Any]) -> str:
    """Options with values as they read on a command line, `lr=0.0003, dia_n_blocks=6`."""
    return ", ".join(f"{option}={plain(value)}" for option, value in values.items())


def plain(value: Any) -> str:
    """A value of an option as text."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
