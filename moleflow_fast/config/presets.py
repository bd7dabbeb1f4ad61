"""Experiments by name: ours, and the published ones with the options that repeat each and the figures it reached.

`presets.csv` has one row a run. What the published table of results has no column for (tail loss, aggregation of
scores, sequential training) follows from a row's name or from rows with the same figures, and stands under `inferred`.
"""

from __future__ import annotations

import csv
import difflib
import fnmatch
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

METRICS = ("image_auroc", "pixel_auroc", "pixel_ap", "routing")


@dataclass(frozen=True)
class Preset:
    """One experiment.

    Attributes:
        options: command-line options of `moleflow train` that repeat it, beside `--data_path`.
        inferred: what in them is a conclusion rather than in the record.
        published: metric of `METRICS` -> figure, those that were published; routing in percent.
        source: where the figures stand.
    """

    name: str
    options: tuple[str, ...]
    inferred: str
    published: Mapping[str, float]
    source: str


# What `--dataset folder` and the demo take where no preset is named.
LINE = "line"
_OURS = (
    Preset(
        LINE,
        (
            *("--adapter_mode", "gaussian", "--router_covariance", "pooled"),
            *("--no_pos_embedding", "--num_coupling_layers", "0"),
            *("--dia_n_blocks", "2", "--num_epochs", "3", "--lr", "2e-4"),
        ),
        "",
        MappingProxyType({}),
        "docs/results.md: for a line: a Gaussian front, a pooled router and a small flow of each task's own",
    ),
    Preset(
        "published",
        ("--use_whitening_adapter",),
        "",
        MappingProxyType({}),
        "docs/results.md: the published method with its published defaults",
    ),
)

OUR_NAMES = tuple(preset.name for preset in _OURS)


@cache
def presets() -> Mapping[str, Preset]:
    """Every published experiment by name, in the order of the source."""
    lines = files(__package__).joinpath("presets.csv").read_text().splitlines()
    return MappingProxyType({row["name"]: _preset(row) for row in csv.DictReader(lines)})


def get_preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        ValueError: there is none, or what it ran was never published.
    """
    known = _known()
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.3)
        raise ValueError(f"unknown preset {name!r}; near it: {', '.join(near) or 'none'} (--list_presets shows all)")
    if not known[name].options:
        raise ValueError(f"preset {name} cannot be repeated: {known[name].inferred}")
    return known[name]


def matching(pattern: str | None) -> list[Preset]:
    """Published presets whose names contain the pattern, or match it where it has wildcards; ours by their names alone.

    Upper and lower case are alike. None: all of them.
    """
    wanted = (pattern or "*").lower()
    own = [preset for preset in _OURS if pattern is None or preset.name == wanted]
    wanted = wanted if set(wanted) & set("*?[") else f"*{wanted}*"
    return own + [p for name, p in presets().items() if fnmatch.fnmatchcase(name.lower(), wanted)]


def listing(chosen: Sequence[Preset]) -> str:
    """Presets as text: published figures, then options, what is inferred, and the source."""
    lines = [f"{'image AUROC':>11} {'pixel AUROC':>11} {'pixel AP':>8} {'routing':>8}  preset"]
    for preset in chosen:
        image, pixel, precision, routing = (preset.published.get(metric) for metric in METRICS)
        percent = "-" if routing is None else f"{routing:.2f}%"
        lines.append(f"{_four(image):>11} {_four(pixel):>11} {_four(precision):>8} {percent:>8}  {preset.name}")
        lines.append(f"{'':43}{shlex.join(preset.options) or 'cannot be repeated'}")
        lines += [f"{'':43}inferred: {preset.inferred}"] if preset.inferred else []
        lines.append(f"{'':43}figures: {preset.source}")
    return "\n".join(lines)


def _known() -> Mapping[str, Preset]:
    return {**{preset.name: preset for preset in _OURS}, **presets()}


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _preset(row: Mapping[str, str]) -> Preset:
    published = {metric: float(row[metric]) for metric in METRICS if row[metric]}
    return Preset(row["name"], tuple(row["options"].split()), row["inferred"], published, row["source"])
