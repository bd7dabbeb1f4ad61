"""The published rows as if they were runs: one seed each, means only, no classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from moleflow_fast.config.command_line import build_parser, options_from
from moleflow_fast.config.options import OPTIONS, RunOptions
from moleflow_fast.config.presets import presets

PUBLISHED = "published"
REFERENCE = "MVTec-WRN50-60ep-lr2e4-dia4"

# Not in any preset, and not to be taken from this machine's environment either.
_BY_ENVIRONMENT = {name: option.default for name, option in OPTIONS.items() if option.environment}
_UNSAID = ("--data_path", PUBLISHED, *(f"--{name}={default}" for name, default in _BY_ENVIRONMENT.items()))


@cache
def options_of_presets() -> Mapping[str, RunOptions]:
    """Options of every preset that can be repeated; where its images lie is not said, so `data_path` is a word."""
    parser = build_parser()
    found = {}
    for name, preset in presets().items():
        if preset.options:
            args = parser.parse_args([*preset.options, "--preset", name, *_UNSAID])
            found[name] = options_from(args)
    return found


def published_figures(name: str) -> dict[str, float]:
    """Metric -> published figure as a fraction; a metric that was not published is left out."""
    figures = dict(presets()[name].published)
    if "routing" in figures:
        figures["routing_accuracy"] = figures.pop("routing") / 100
    return figures


def published_results() -> list[tuple[str, RunOptions, dict[str, float]]]:
    """(name, options, figures) of every row whose options are known."""
    return [(name, options, published_figures(name)) for name, options in options_of_presets().items()]


def without_options() -> tuple[str, ...]:
    """Rows with figures but without options."""
    return tuple(name for name, preset in presets().items() if not preset.options)
