"""The options of a run: one dataclass, one parser, one place for every default."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moleflow_fast.config.ablation import AblationConfig, add_ablation_args, parse_ablation_args
from moleflow_fast.config.change import Change, Extension, add_change_args, change_of
from moleflow_fast.config.presets import LINE, OUR_NAMES, get_preset, listing, matching
from moleflow_fast.config.requested import (
    BACKBONE_PRECISIONS,
    BACKENDS,
    PRECISIONS,
    requested_backend,
    requested_precision,
)
from moleflow_fast.config.stored import require_types
from moleflow_fast.errors import UserError

DATASETS = ("demo", "mvtec", "visa", "mpdd", "folder", "csv", "coco", "datumaro", "real_iad")
INTERPOLATIONS = ("bilinear", "bicubic")
# The central square; the picture squeezed to the square; overlapping squares along its long side.
VIEWS = ("crop", "whole", "tiles")
PARALLEL_TASKS = ("off", "ray")
LOGGERS = ("tensorboard", "wandb", "mlflow")
BACKEND_HELP = (
    "what runs the flow: plain PyTorch (eager), the compiled part (cpp, on a CPU), Triton kernels (triton, on a GPU), "
    "or auto, which takes Triton kernels on a GPU and the compiled part on a CPU, where they can run"
)
PRECISION_HELP = (
    "what matrix products read on a GPU: fp32, tf32 (convolutions too), or bf16 (the flow's products, on Triton "
    "kernels alone); fp32 until the detection quality of the others has been measured on a GPU"
)


@dataclass(frozen=True)
class RunOptions:
    """Everything that decides a run. Field names are the option names; see `moleflow train --help`."""

    dataset: str = "demo"
    data_path: str | None = None
    task_classes: tuple[str, ...] | None = None
    cl_scenario: str = "1-1"
    img_size: int = 224
    msk_size: int | None = None
    view: str = "crop"
    use_rotation_aug: bool = False
    rotation_degrees: float = 180.0

    backbone_name: str = "wide_resnet50_2"
    backbone_weights: str | None = None
    random_backbone: bool = False
    backbone_layers: tuple[str, ...] | None = None
    vit_blocks: tuple[int, ...] | None = None
    use_high_res: bool = False
    backbone_precision: str = "fp32"
    embed_dim: int | None = None

    num_coupling_layers: int = 8
    lora_rank: int = 64
    lora_alpha: float = 1.0
    ablation: AblationConfig = field(default_factory=lambda: AblationConfig(lambda_logdet=1e-5))

    num_epochs: int = 60
    lr: float = 2e-4
    batch_size: int = 16
    seed: int = 0
    enable_slow_stage: bool = False
    slow_lr_ratio: float = 0.2
    slow_blocks_k: int = 2

    score_smooth_sigma: float = 4.0
    interp_mode: str = "bilinear"
    heatmaps: int = 6

    preset: str | None = None
    log_dir: str = "runs"
    experiment_name: str | None = None
    resume: bool = False
    state_seconds: float = 60.0
    load_checkpoint: str | None = None
    final_eval_only: bool = False
    run_diagnostics: bool = False
    logger: tuple[str, ...] | None = None
    tensorboard: bool = False
    published_csv: bool = False
    quiet: bool = False

    device: str = "auto"
    backend: str = field(default_factory=requested_backend)
    precision: str = field(default_factory=requested_precision)
    num_workers: int = 2
    no_feature_cache: bool = False
    cache_dir: str | None = None
    cache_limit_gb: float = 20.0
    device_cache_gb: float = 4.0
    parallel_tasks: str = "off"
    ray_address: str | None = None

    extensions: tuple[Extension, ...] = ()
    removed_tasks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _at_least(1, self, "img_size", "batch_size", "lora_rank")
        _at_least(1, self, *(name for name in ("msk_size", "embed_dim") if getattr(self, name) is not None))
        _at_least(0, self, "num_epochs", "num_coupling_layers", "num_workers", "slow_blocks_k", "heatmaps")
        _at_least(0, self, "state_seconds", "score_smooth_sigma")
        _one_of(BACKENDS, self, "backend")
        _one_of(tuple(PRECISIONS), self, "precision")
        _one_of(tuple(BACKBONE_PRECISIONS), self, "backbone_precision")
        _one_of(PARALLEL_TASKS, self, "parallel_tasks")
        for name in self.logger or ():
            if name not in LOGGERS:
                raise ValueError(f"--logger must be among {', '.join(LOGGERS)}, got {name!r}")
        _one_of(VIEWS, self, "view")
        if self.lr <= 0:
            raise ValueError(f"--lr must be positive, got {self.lr}")
        if self.num_epochs == 0 and not self.ablation.has_front:
            raise ValueError("--num_epochs 0 leaves an untrained flow: add --adapter_mode gaussian, or train")
        if self.dataset != "demo" and not self.data_path:
            raise ValueError(f"--dataset {self.dataset} needs --data_path, the folder that holds the class folders")
        if self.embed_dim is not None and self.embed_dim % 4:
            raise ValueError(f"--embed_dim must be a multiple of 4 (2-D positions), got {self.embed_dim}")
        if self.backbone_weights and self.random_backbone:
            raise ValueError("--backbone_weights and --random_backbone exclude each other: drop one")
        if self.evaluates_a_checkpoint and self.parallel_tasks != "off":
            raise ValueError("--load_checkpoint with --final_eval_only trains no tasks: drop one or --parallel_tasks")
        if self.ray_address and self.parallel_tasks != "ray":
            raise ValueError("--ray_address is for --parallel_tasks ray: add it or drop --ray_address")
        if self.num_coupling_layers == 0 and not self.ablation.use_dia:
            raise ValueError("--num_coupling_layers 0 with --no_dia leaves no flow at all: drop --no_dia or add some")
        if self.use_high_res and self.backbone_layers:
            raise ValueError("--use_high_res chooses the layers itself: drop it or --backbone_layers")

    @property
    def layout(self) -> str:
        """Name of the data set class that reads the files: the demo set lies in folders."""
        return "folder" if self.dataset == "demo" else self.dataset

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
        places = {name: getattr(self, name) for name in PATHS}
        full = {name: os.path.abspath(place) for name, place in places.items() if place is not None}
        return dataclasses.replace(self, **full)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> RunOptions:
        """Raises TypeError, ValueError or KeyError where the content is not what `to_json` gives."""
        values = {**_BEFORE_THEY_WERE_STORED, **content}
        values["msk_size"] = values.get("msk_size") or None  # 0 was taken for left out once
        values["ablation"] = _dataclass(AblationConfig, values["ablation"])
        values["extensions"] = tuple(_dataclass(Extension, extension) for extension in values["extensions"])
        require_types(cls, values)
        return cls(**{name: _hashable(value) for name, value in values.items()})


# Data that is learned as the preset `line` says, unless another preset is named.
LINE_DATASETS = ("demo", "folder", "csv", "coco", "datumaro", "real_iad")

# What the demo run uses where nothing is given: small enough for three minutes on two CPU cores.
DEMO_DEFAULTS: dict[str, Any] = {
    "backbone_name": "resnet18",
    "img_size": 128,
    "embed_dim": 128,
    "num_epochs": 30,
    "num_coupling_layers": 4,
    "lora_rank": 16,
    "lr": 1e-3,
}

# Options that decide neither the numbers of a run nor what is computed.
NOT_PART_OF_THE_RESULT = frozenset(
    {
        "preset", "log_dir", "experiment_name", "resume", "quiet", "num_workers", "cache_dir", "cache_limit_gb",
        "device_cache_gb", "logger", "tensorboard", "published_csv", "heatmaps", "no_feature_cache", "run_diagnostics",
        "parallel_tasks", "ray_address", "state_seconds",
    }
)  # fmt: skip

# Options that name a place: alike where they lead to the same one, and stored in full.
PATHS = ("data_path", "backbone_weights", "load_checkpoint")

# Runs whose options do not say, whatever is asked for now.
_BEFORE_THEY_WERE_STORED = {
    "backend": "auto", "precision": "fp32", "view": "crop", "extensions": [], "removed_tasks": [],
}  # fmt: skip

_LISTS = {"task_classes": str, "backbone_layers": str, "vit_blocks": int, "logger": str}

_GROUPS: dict[str, dict[str, str]] = {
    "data": {
        "dataset": "demo (synthetic, written on the spot), mvtec, visa, mpdd, or folder: any directory in MVTec "
        "AD layout (<class>/train/good, <class>/test/<type>, <class>/ground_truth/<type>); or lists of images: csv "
        "(columns image, label, split, mask, class), coco, datumaro, real_iad: see docs/data_formats.md",
        "data_path": "folder that holds the class folders, or the list of images",
        "task_classes": "classes to learn, in order; all of the data set if left out",
        "cl_scenario": "classes per task, base-inc: 1-1 one by one, 14-1 fourteen first, 3-3, 10-5, ...",
        "img_size": "side of the square images that the backbone sees, pixels",
        "msk_size": "side of masks and of the maps they are compared with, pixels; the image size if left out",
        "view": "what is seen of a picture that is not square: crop, the central square (as published); whole, all of "
        "it squeezed to the square; tiles, all of it in overlapping squares along its long side, with one map: the "
        "finest, at several times the work; whole for --dataset folder unless given",
        "use_rotation_aug": "rotate training images at random, anew every epoch (switches the feature cache off)",
        "rotation_degrees": "largest rotation",
    },
    "backbone": {
        "backbone_name": "any timm model",
        "backbone_weights": "file with its weights, safetensors or torch (tensors only; never runs pickled code)",
        "random_backbone": "go on with random weights (for trials: detection will be poor)",
        "backbone_layers": "CNN: module names whose feature maps are used, e.g. layer2 layer3",
        "vit_blocks": "ViT: zero-based blocks to average, e.g. 1 3 5 11",
        "use_high_res": "ResNets: layer1 too, so 56x56 patches at 224 px",
        "backbone_precision": "what the frozen backbone computes in; how far its features are from fp32 is reported",
        "embed_dim": "width of patch features; the backbone's usual one if left out",
    },
    "flow": {
        "num_coupling_layers": "coupling blocks of the shared base flow; 0 leaves the task flows alone",
        "lora_rank": "rank of the LoRA experts",
        "lora_alpha": "their scale: alpha / rank",
    },
    "training": {
        "num_epochs": "epochs per task; 0, with --adapter_mode gaussian, leaves the flow at the identity",
        "lr": "peak learning rate",
        "batch_size": "images per step",
        "seed": "decides initial weights, order of images and random backbones",
        "enable_slow_stage": "later tasks: spend the last 15 percent of epochs on the last base blocks (forgets)",
        "slow_lr_ratio": "its learning rate, as a fraction of --lr",
        "slow_blocks_k": "how many blocks it trains",
    },
    "evaluation": {
        "score_smooth_sigma": "Gaussian smoothing of pixel maps, pixels (fixed: never chosen on test data)",
        "interp_mode": "patch map to pixel map",
        "heatmaps": "pictures per class",
    },
    "run": {
        "preset": "start from a named experiment (see --list_presets); options given beside it win; folder and demo "
        "start from 'line', which detects well after one pass, unless it is 'published' or another one",
        "log_dir": "where run directories go",
        "experiment_name": "name of this run's directory",
        "resume": "go on with the interrupted run --experiment_name (in --log_dir), after its last complete task or "
        "inside the next; what decides its numbers is stored with it and need not be given again",
        "state_seconds": "between two states of a task in training, written after an epoch, from which a killed run "
        "goes on",
        "load_checkpoint": "start from a checkpoint: a run directory, or one of the published implementation",
        "final_eval_only": "evaluate once, after the last task; with --load_checkpoint: evaluate it, and train nothing",
        "run_diagnostics": "write diagnostics/task_<t>.json: densities, log-determinants, norms of the expert's parts",
        "published_csv": "also write the CSV files of the published package, for scripts that read them",
        "logger": "programs that get the run's curves and options: tensorboard (files in the run's directory), wandb "
        "(without a key files there, for `wandb sync`), mlflow (mlflow.db in --log_dir where MLFLOW_TRACKING_URI names "
        "no server). Each is an extra of its name: pip install 'moleflow_fast[wandb]'",
        "tensorboard": "the same as --logger tensorboard",
        "quiet": "no progress bars",
    },
    "machine": {
        "device": "auto, cpu, cuda or cuda:N",
        "backend": BACKEND_HELP + " (default $MOLEFLOW_BACKEND or auto)",
        "precision": PRECISION_HELP + " (default $MOLEFLOW_PRECISION or fp32)",
        "num_workers": "processes that decode images; 0 decodes in the main one",
        "no_feature_cache": "run the backbone every epoch instead of once per image",
        "cache_dir": "where features are kept between runs ($MOLEFLOW_CACHE or ~/.cache/moleflow_fast/features)",
        "cache_limit_gb": "largest size of that directory; least recently used features go first",
        "device_cache_gb": "features kept in the device's memory; the rest is read from the file",
        "parallel_tasks": "ray: train the first task here and the later ones at once on Ray workers, each with a GPU, "
        "or with a CPU for every thread of this run (OMP_NUM_THREADS); same bits (pip install 'moleflow_fast[sweep]')",
        "ray_address": "of a running Ray cluster, host:port or auto, whose machines see the data, --log_dir and "
        "--cache_dir under the same paths; Ray is started on this machine alone if left out",
    },
}  # fmt: skip

_CHOICES = {
    "dataset": DATASETS, "interp_mode": INTERPOLATIONS, "backend": BACKENDS, "precision": tuple(PRECISIONS),
    "backbone_precision": tuple(BACKBONE_PRECISIONS), "parallel_tasks": PARALLEL_TASKS, "view": VIEWS,
    "logger": LOGGERS,
}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """A parser of the options of a run."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_run_options(parser)
    return parser


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Published option names, in groups; an option left out is None here and gets its default later."""
    fields = dataclasses.fields(RunOptions)
    defaults = {f.name: None if f.default is dataclasses.MISSING else f.default for f in fields}
    for title, options in _GROUPS.items():
        group = parser.add_argument_group(title)
        for name, text in options.items():
            _add_option(group, name, text, defaults[name])
    parser.add_argument(
        "--list_presets", nargs="?", metavar="PATTERN", action=_ListPresets, help="published experiments"
    )
    add_ablation_args(parser)


def parse_options(argv: list[str] | None = None, parser: argparse.ArgumentParser | None = None) -> RunOptions | Change:
    """What a command line asks for: a run, or a change of a finished one.

    Errors end the program with a message as argparse's own do.

    Args:
        parser: knows the options of runs and of changes; a plain one if None.
    """
    if parser is None:
        parser = build_parser()
        add_change_args(parser)
    argv = sys.argv[1:] if argv is None else argv
    try:
        given = parser.parse_args(argv)
        return change_of(parser, given) or (_resumed(parser, argv) if given.resume else options_of(parser, argv))
    except UserError:
        raise
    except ValueError as error:
        parser.error(str(error))


def options_of(parser: argparse.ArgumentParser, argv: Sequence[str]) -> RunOptions:
    """Options of a command line whose words `parser` knows; those given beside a preset win.

    Raises:
        ValueError: an unknown preset, or options that do not go together.
    """
    given = parser.parse_args(argv)
    preset = given.preset or _preset_of_the_data(given)
    if preset is None:
        return options_from(given)
    return options_from(_beside(parser, preset, argv))


def _resumed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> RunOptions:
    """Those of the run that goes on, which need not be given again."""
    from moleflow_fast.run.resumed import resumed  # not at the top: it builds on this module

    given = parser.parse_args(argv)
    name = given.experiment_name or options_of(parser, argv).run_name
    path = Path(given.log_dir or RunOptions.log_dir) / name
    return resumed(_beside(parser, given.preset, argv) if given.preset else given, path)


def _beside(parser: argparse.ArgumentParser, preset: str, argv: Sequence[str]) -> argparse.Namespace:
    """The options of a preset, and those of a command line in their place."""
    given = parser.parse_args(argv)
    args = parser.parse_args([*get_preset(preset).options, *argv, "--preset", preset])
    # What a preset says of the adapter gives way to what is given, and does not contradict it.
    if given.use_whitening_adapter is not None and given.adapter_mode is None:
        args.adapter_mode = None
    if given.adapter_mode is not None and given.use_whitening_adapter is None:
        args.use_whitening_adapter = None
    return args


def _preset_of_the_data(given: argparse.Namespace) -> str | None:
    """For images of one's own `line`; but a checkpoint that is loaded may be a published one."""
    own = (given.dataset or RunOptions.dataset) in LINE_DATASETS
    return LINE if own and given.load_checkpoint is None else None


def options_from(args: argparse.Namespace) -> RunOptions:
    """Defaults of the data set, then the options given."""
    dataset = args.dataset or RunOptions.dataset
    values: dict[str, Any] = dict(DEMO_DEFAULTS) if dataset == "demo" else {}
    for options in _GROUPS.values():
        for name in options:
            given = getattr(args, name)
            if given is not None:
                values[name] = tuple(given) if name in _LISTS else given
    if args.backbone_name is not None and args.embed_dim is None:
        values.pop("embed_dim", None)
    if "view" not in values:
        as_published = dataset not in LINE_DATASETS or dataset == "demo" or args.preset not in (None, LINE)
        values["view"] = _stored_view(values.get("load_checkpoint")) or ("crop" if as_published else "whole")
    return RunOptions(**values, ablation=parse_ablation_args(args))


def _stored_view(checkpoint: str | None) -> str | None:
    """Of the run that is started from: where none is said its own counts, not today's default."""
    if checkpoint is None:
        return None
    file = Path(checkpoint, "config.json")
    if not file.exists():
        return "crop"  # the published implementation knows no other
    try:
        return json.loads(file.read_bytes())["options"].get("view", _BEFORE_THEY_WERE_STORED["view"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # whoever opens the run says what is wrong with it


class _ListPresets(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, _: object, pattern: Any, __: str | None = None) -> None:
        chosen = matching(pattern)
        if not chosen:
            parser.error(f"no preset matches {pattern!r}; --list_presets alone shows all")
        print(listing(chosen))
        parser.exit()


def _add_option(group: Any, name: str, text: str, default: Any) -> None:
    if isinstance(default, bool):
        group.add_argument(f"--{name}", action="store_const", const=True, default=None, help=text)
        return
    shown = "" if default is None else f" (default {default})"
    if name in DEMO_DEFAULTS and default is not None:
        shown = f" (default {default}; demo {DEMO_DEFAULTS[name]})"
    help_text = re.sub("%", "%%", text + shown)
    if name in _LISTS:
        kind, choices = _LISTS[name], _CHOICES.get(name)
        group.add_argument(f"--{name}", nargs="+", type=kind, choices=choices, default=None, help=help_text)
        return
    kind = {"embed_dim": int, "msk_size": int}.get(name, str if default is None else type(default))
    group.add_argument(f"--{name}", type=kind, choices=_CHOICES.get(name), default=None, help=help_text)


def _dataclass(kind: type, content: dict[str, Any]) -> Any:
    require_types(kind, content)
    return kind(**{name: _hashable(value) for name, value in content.items()})


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _at_least(bound: float, options: RunOptions, *names: str) -> None:
    for name in names:
        if getattr(options, name) < bound:
            raise ValueError(f"--{name} must be at least {bound}, got {getattr(options, name)}")


def _one_of(choices: tuple[str, ...], options: RunOptions, name: str) -> None:
    if getattr(options, name) not in choices:
        raise ValueError(f"--{name} must be one of {', '.join(choices)}, got {getattr(options, name)!r}")
