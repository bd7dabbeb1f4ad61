"""Which runs a sweep is made of: presets, or a grid of options, times seeds."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from moleflow_fast.config.command_line import build_parser, options_of
from moleflow_fast.config.identity import identity
from moleflow_fast.config.options import OPTIONS, RunOptions
from moleflow_fast.config.presets import Preset, matching
from moleflow_fast.errors import UserError

_DECIDED_HERE = frozenset(f"--{name}" for name, option in OPTIONS.items() if option.decided_by_sweep)


@dataclass(frozen=True)
class PlannedRun:
    """A run to be done, under all the names that ask for it.

    Attributes:
        identity: hash of the options that decide its numbers.
        names: presets and grid points with these options; the first one names its directory.
    """

    identity: str
    names: tuple[str, ...]
    options: RunOptions

    @property
    def label(self) -> str:
        return f"{self.names[0]}-seed{self.options.seed}"


@dataclass(frozen=True)
class Plan:
    """Runs in the order in which they start, and presets that were asked for but cannot be repeated."""

    runs: tuple[PlannedRun, ...]
    left_out: tuple[Preset, ...]


def make_plan(
    patterns: Sequence[str],
    seeds: Sequence[int] | None,
    grid: Mapping[str, Sequence[str]],
    data: Mapping[str, str],
    given: Sequence[str],
    parser: argparse.ArgumentParser | None = None,
) -> Plan:
    """Every preset that matches, at every grid point, with every seed; a seed's runs come together.

    Args:
        patterns: preset names, or patterns of them as `--list_presets` takes; none: the given options alone.
        seeds: None: the preset's own, or 0.
        grid: option name -> values as on a command line; `on` and `off` for options without a value.
        data: kind of data set (mvtec, visa, mpdd) -> its folder, for runs whose options name none.
        given: options of `moleflow train` for every run; they win over a preset's.
        parser: knows them, and ends the program where they are wrong; a plain one if None.

    Raises:
        UserError: a pattern that matches nothing, an option value out of range, or a data set without folder.
    """
    own = [word for word in given if word in _DECIDED_HERE]
    if own:
        raise UserError(f"{', '.join(own)}: a sweep decides that itself; use --presets, --seeds and -o")
    chosen = _presets(patterns)
    bases: list[Preset | None] = [p for p in chosen if p.options] if chosen else [None]
    parser = parser or build_parser()
    runs: dict[str, PlannedRun] = {}
    wanted: Sequence[int | None] = seeds or [None]
    for seed, preset, point in itertools.product(wanted, bases, _points(grid)):
        name = _name(preset, point)
        run = _planned(parser, name, preset, [*given, *_words(point), *_seed(seed)], data)
        known = runs.get(run.identity)
        runs[run.identity] = run if known is None else dataclasses.replace(known, names=(*known.names, name))
    return Plan(tuple(runs.values()), tuple(p for p in chosen if not p.options))


def _presets(patterns: Sequence[str]) -> list[Preset]:
    found: dict[str, Preset] = {}
    for pattern in patterns:
        exact = [p for p in matching(pattern) if p.name == pattern]
        some = exact or matching(pattern)
        if not some:
            raise UserError(f"--presets {pattern}: no preset matches (moleflow train --list_presets)")
        found.update((p.name, p) for p in some)
    return list(found.values())


def _points(grid: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _seed(seed: int | None) -> list[str]:
    return [] if seed is None else ["--seed", str(seed)]


def _name(preset: Preset | None, point: Mapping[str, str]) -> str:
    settings = [name if value == "on" else f"{name}={value}" for name, value in point.items() if value != "off"]
    return "+".join([*([preset.name] if preset else []), *settings]) or "run"


def _words(point: Mapping[str, str]) -> list[str]:
    words: list[str] = []
    for name, value in point.items():
        if value != "off":
            words += [f"--{name}", *([] if value == "on" else value.split())]
    return words


def _planned(
    parser: argparse.ArgumentParser, name: str, preset: Preset | None, argv: list[str], data: Mapping[str, str]
) -> PlannedRun:
    argv = argv if preset is None else ["--preset", preset.name, *argv]
    try:
        options = options_of(parser, [*_data_path(parser, argv, preset, data), *argv]).in_full()
    except ValueError as error:
        remedy = " (for presets of several data sets: --data mvtec=DIR visa=DIR mpdd=DIR)"
        raise UserError(f"{name}: {error}{remedy if '--data_path' in str(error) else ''}") from error
    return PlannedRun(identity(options), (name,), options)


def _data_path(
    parser: argparse.ArgumentParser, argv: Sequence[str], preset: Preset | None, data: Mapping[str, str]
) -> list[str]:
    args = parser.parse_args([*(preset.options if preset else ()), *argv])
    return ["--data_path", data[args.dataset]] if args.data_path is None and args.dataset in data else []
