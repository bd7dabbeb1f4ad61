"""The options of a run that goes on: those it was started with, and what is said now of the machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from moleflow_fast.config.ablation import AblationConfig, get_ablation_config
from moleflow_fast.config.arguments import given_by_environment, given_options
from moleflow_fast.config.options import OPTIONS, RunOptions
from moleflow_fast.run.directory import RunDirectory, RunDirectoryError


def resumed(args: argparse.Namespace, path: Path) -> RunOptions:
    """The options that the run at `path` goes on with.

    Args:
        args: what was given, beside a preset that was named; None where nothing was.

    Raises:
        RunDirectoryError: no such run, or an option that contradicts it.
        DamagedRunFile: its config.json is not one of ours.
    """
    if not path.exists():
        raise RunDirectoryError(f"nothing to resume: {path} does not exist (check --experiment_name, --log_dir)")
    stored = RunDirectory.open(path).options()
    known = {**vars(stored), **vars(stored.ablation)}
    asked = _asked(args)
    require_alike(path, known, {name: value for name, value in asked.items() if OPTIONS[name].is_identity})
    free = {name: value for name, value in asked.items() if not OPTIONS[name].is_identity}
    own = {"preset": stored.preset, "resume": True, "log_dir": str(path.parent), "experiment_name": path.name}
    return replace(stored, **free | own)


def require_alike(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise RunDirectoryError, with both values, unless what is asked for now is what the run at `path` has.

    Paths are alike that lead to the same place.
    """
    changed = [
        f"--{name}: was {before[name]!r}, now {value!r}" for name, value in now.items() if not _same(name, before, now)
    ]
    if changed:
        raise RunDirectoryError(
            f"{path} was started with other options: {'; '.join(changed)}. Leave them out to go on as it was started, "
            "or start another run under another --experiment_name"
        )


def _same(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    one, other = before[name], now[name]
    if name in OPTIONS and OPTIONS[name].is_path and one is not None and other is not None:
        return os.path.realpath(one) == os.path.realpath(other)
    return bool(one == other)


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """Name -> value of the options that were given, those of the method among them; also by the environment."""
    preset = vars(get_ablation_config(args.ablation_preset))
    of_preset = {name: value for name, value in preset.items() if value != getattr(AblationConfig(), name)}
    given = given_options(args, RunOptions) | given_options(args, AblationConfig)
    return given_by_environment(RunOptions) | of_preset | given
