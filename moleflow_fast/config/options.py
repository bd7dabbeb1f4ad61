"""The options of a run: every field of two dataclasses, what they must be together, and how they are stored.

Everything else that is known of an option stands with its field: see `moleflow_fast.config.option`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.config.change import Extension
from moleflow_fast.config.data_sets import DEMO, FOLDER
from moleflow_fast.config.learning_options import LearningOptions
from moleflow_fast.config.option import Option, Work, check_options, option, options_in
from moleflow_fast.config.presets import OUR_NAMES
from moleflow_fast.config.running_options import RunningOptions
from moleflow_fast.config.stored import require_types


@dataclass(frozen=True)
class RunOptions(RunningOptions, LearningOptions):
    """Everything that decides a run. Field names are the option names; see `moleflow train --help`.

    Raises:
        ValueError: a value that is not possible or does not go with the others.
    """

    extensions: tuple[Extension, ...] = option(None, (), "what --extend has added", work=Work.TIME)
    removed_tasks: tuple[int, ...] = option(None, (), "ids of the tasks that --remove has taken out", work=Work.TIME)

    def __post_init__(self) -> None:
        check_options(self, dashes="--")
        _require_that_they_go_together(self)

    @property
    def layout(self) -> str:
        """Name of the data set class that reads the files: the demo set lies in folders."""
        return FOLDER if self.dataset == DEMO else self.dataset

    @property
    def demo_folder(self) -> Path:
        """Where the demo set is written that no `--data_path` names."""
        return Path(self.log_dir) / "demo-data"

    @property
    def mask_size(self) -> int:
        """Side of masks and pixel maps: `--msk_size`, or the image size as in the published evaluation."""
        return self.msk_size or self.img_size

    @property
    def loggers(self) -> tuple[str, ...]:
        """Programs that get the run's curves, each once."""
        return tuple(dict.fromkeys([*(self.logger or ()), *(["tensorboard"] if self.tensorboard else [])]))

    @property
    def evaluates_a_checkpoint(self) -> bool:
        """Whether a checkpoint is evaluated and nothing is trained."""
        return self.final_eval_only and self.load_checkpoint is not None

    @property
    def run_name(self) -> str:
        if self.experiment_name is None and self.preset not in (None, *OUR_NAMES):
            return f"{self.preset}-seed{self.seed}"
        return self.experiment_name or f"{self.dataset}-{self.backbone_name}-seed{self.seed}"

    def in_full(self) -> RunOptions:
        """With paths that mean the same in every working directory."""
        places = {name: getattr(self, name) for name, option in options_in(type(self)).items() if option.is_path}
        full = {name: os.path.abspath(place) for name, place in places.items() if place is not None}
        return dataclasses.replace(self, **full)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> RunOptions:
        """Raises TypeError, ValueError or KeyError where the content is not what `to_json` gives."""
        values = {name: option.default for name, option in options_in(cls).items()} | content
        values["msk_size"] = values["msk_size"] or None  # 0 was taken for left out once
        values["ablation"] = _dataclass(AblationConfig, values["ablation"])
        values["extensions"] = tuple(_dataclass(Extension, extension) for extension in values["extensions"])
        require_types(cls, values)
        return cls(**{name: _hashable(value) for name, value in values.items()})


OPTIONS: Mapping[str, Option] = MappingProxyType({**options_in(RunOptions), **options_in(AblationConfig)})
"""Every option of a run and of its method by name; no name is in both."""


def _require_that_they_go_together(options: RunOptions) -> None:
    """Raise ValueError, with what to add or drop, where one option rules another out."""
    if options.num_epochs == 0 and not options.ablation.has_front:
        raise ValueError("--num_epochs 0 leaves an untrained flow: add --adapter_mode gaussian, or train")
    if options.dataset != DEMO and not options.data_path:
        raise ValueError(f"--dataset {options.dataset} needs --data_path, the folder that holds the class folders")
    if options.backbone_weights and options.random_backbone:
        raise ValueError("--backbone_weights and --random_backbone exclude each other: drop one")
    if options.evaluates_a_checkpoint and options.parallel_tasks != "off":
        raise ValueError("--load_checkpoint with --final_eval_only trains no tasks: drop one or --parallel_tasks")
    if options.ray_address and options.parallel_tasks != "ray":
        raise ValueError("--ray_address is for --parallel_tasks ray: add it or drop --ray_address")
    if options.num_coupling_layers == 0 and not options.ablation.use_dia:
        raise ValueError("--num_coupling_layers 0 with --no_dia leaves no flow at all: drop --no_dia or add some")
    if options.use_high_res and options.backbone_layers:
        raise ValueError("--use_high_res chooses the layers itself: drop it or --backbone_layers")


def _dataclass(kind: type, content: dict[str, Any]) -> Any:
    require_types(kind, content)
    return kind(**{name: _hashable(value) for name, value in content.items()})


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
