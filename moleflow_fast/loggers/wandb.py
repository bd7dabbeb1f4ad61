"""Weights & Biases: online where it knows a key, else in files that `wandb sync` sends later."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from typing import Any

from moleflow_fast.config.options import RunOptions
from moleflow_fast.run.directory import RunDirectory

logger = logging.getLogger(__name__)

PROJECT = "moleflow_fast"


def load() -> Any:
    """The package.

    Raises:
        ImportError: it is not installed.
    """
    import wandb

    return wandb


class WandbLogger:
    """A `Logger`. A run that is resumed, or extended, goes on with its curves: its id follows from its directory.

    `WANDB_MODE`, `WANDB_PROJECT` and all else of W&B's own variables count as ever.
    """

    def __init__(self, directory: RunDirectory, options: RunOptions) -> None:
        wandb = load()
        place = directory.path.absolute()
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=place.name,
            id=hashlib.sha256(os.fsencode(os.path.realpath(place))).hexdigest()[:16],
            resume="allow",
            dir=str(place),
            mode=_mode(wandb, str(place)),
            config=options.to_json(),
        )
        self._axes: set[str] = set()

    def log(self, values: Mapping[str, float], axis: str, step: int) -> None:
        group = next(iter(values)).split("/")[0]
        position = f"{group}/{axis}"
        if position not in self._axes:  # W&B's own steps only ever grow, and each task's epochs begin at 0
            self._axes.add(position)
            self._run.define_metric(position, hidden=True)
            self._run.define_metric(f"{group}/*", step_metric=position)
        self._run.log({**values, position: step})

    def close(self) -> None:
        self._run.finish()


def _mode(wandb: Any, place: str) -> str | None:
    """None leaves it to W&B, which would ask for a key where it has none."""
    if "WANDB_MODE" in os.environ or wandb.api.api_key:
        return None
    logger.warning("W&B has no key here (wandb login): curves go to %s/wandb; `wandb sync` sends them", place)
    return "offline"
