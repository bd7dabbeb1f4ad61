"""The method's switches: which component is on, in which mode, with which strength.

Field names and defaults are those of the published implementation, so that its recorded
configurations (and `--ablation_preset` names) keep their meaning.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from moleflow_fast.config import published_experiments

ADAPTER_MODES = ("whitening", "whitening_no_ln", "soft_ln", "standard", "no_ln", "no_ln_after_task0", "gaussian")
SPATIAL_CONTEXT_MODES = ("depthwise", "depthwise_residual", "local_stats", "full")
ROUTER_COVARIANCES = ("published", "class_ledoit_wolf", "pooled")
SCORE_AGGREGATION_MODES = ("percentile", "top_k", "top_k_percent", "max", "mean", "spatial_cluster")


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass
class Switches:
    """The fields that decide something, and what they must be."""

    use_lora: bool = True
    use_router: bool = True
    use_task_adapter: bool = True
    use_pos_embedding: bool = True
    use_task_bias: bool = True
    use_mahalanobis: bool = True
    router_covariance: str = "published"

    adapter_mode: str = "whitening"
    use_whitening_adapter: bool = True
    soft_ln_init_scale: float = 0.01
    front_directions: int = 32

    use_dia: bool = True
    dia_n_blocks: int = 2
    dia_hidden_ratio: float = 0.5

    use_spatial_context: bool = True
    spatial_context_mode: str = "depthwise_residual"
    spatial_context_kernel: int = 3
    use_scale_context: bool = True
    scale_context_kernel: int = 3
    scale_context_init_scale: float = 0.1
    scale_context_max_alpha: float = 0.2

    lambda_logdet: float = 3e-5
    use_tail_aware_loss: bool = False
    tail_weight: float = 0.3
    tail_top_k_ratio: float = 0.05

    score_aggregation_mode: str = "percentile"
    score_aggregation_percentile: float = 0.99
    score_aggregation_top_k: int = 10
    score_aggregation_top_k_percent: float = 0.05
    cluster_weight: float = 0.5
    cluster_high_score_percentile: float = 0.9

    use_regular_linear: bool = False
    use_task_separated: bool = False
    use_spectral_norm: bool = False
    no_freeze_base: bool = False

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise ValueError, naming the fields, unless the values are possible and go together."""
        _require_choice("adapter_mode", self.adapter_mode, ADAPTER_MODES)
        _require_choice("spatial_context_mode", self.spatial_context_mode, SPATIAL_CONTEXT_MODES)
        _require_choice("router_covariance", self.router_covariance, ROUTER_COVARIANCES)
        _require_choice("score_aggregation_mode", self.score_aggregation_mode, SCORE_AGGREGATION_MODES)
        for name in ("spatial_context_kernel", "scale_context_kernel"):
            if getattr(self, name) < 1 or getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be an odd number of patches, got {getattr(self, name)}")
        for name in ("tail_weight", "cluster_weight"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in (
            "tail_top_k_ratio",
            "score_aggregation_top_k_percent",
            "score_aggregation_percentile",
            "cluster_high_score_percentile",
        ):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a fraction in (0, 1], got {getattr(self, name)}")
        if not 0.0 < self.scale_context_init_scale < self.scale_context_max_alpha:
            raise ValueError(
                "scale_context_init_scale must lie strictly between 0 and scale_context_max_alpha, got "
                f"{self.scale_context_init_scale} and {self.scale_context_max_alpha}"
            )
        if self.score_aggregation_top_k < 1 or self.dia_n_blocks < 1:
            raise ValueError("score_aggregation_top_k and dia_n_blocks must be at least 1")
        if self.front_directions < 0:
            raise ValueError(f"front_directions must be at least 0, got {self.front_directions}")
        if self.use_regular_linear and self.use_spectral_norm:
            raise ValueError("use_regular_linear and use_spectral_norm exclude each other: choose one")
        if self.has_front and self.use_spectral_norm:
            raise ValueError("after a Gaussian front couplings begin with weights of 0, which have no spectral norm")

    @property
    def effective_adapter_mode(self) -> str:
        """The adapter that is built: `use_whitening_adapter` wins over `adapter_mode`; soft_ln if neither names one."""
        if self.use_whitening_adapter:
            return "whitening"
        return "soft_ln" if self.adapter_mode == "whitening" else self.adapter_mode

    @property
    def has_front(self) -> bool:
        """Whether each task has a Gaussian front, which is estimated and not trained."""
        return self.use_task_adapter and self.effective_adapter_mode == "gaussian"

    @property
    def has_mixer(self) -> bool:
        """Whether patches are mixed with their neighbours: not after a front, as mixing has no log-determinant."""
        return self.use_spatial_context and not self.has_front

    @property
    def warnings(self) -> list[str]:
        """Switches that other switches leave without effect."""
        inert = [name for name in ("use_regular_linear", "use_spectral_norm") if getattr(self, name)]
        found = []
        if self.use_scale_context:
            found += [f"--{name} has no effect with the scale context: add --no_scale_context" for name in inert]
        if self.router_covariance != "published" and not self.use_mahalanobis:
            found.append(f"--router_covariance {self.router_covariance} has no effect with --no_mahalanobis: drop one")
        return found


class AblationConfig(Switches):
    """One configuration of the method.

    Fields may be assigned until a model is built from it: `config.use_lora = False`. Each assignment is checked, and
    one that is refused changes nothing. The fields of `published_experiments` are there at their defaults.

    Raises:
        ValueError: a value that is not possible or does not go with the others.
        AttributeError: an assignment to a field that does not exist.
        TypeError: such a field given to the constructor.
    """

    def __init__(self, *values: Any, **switches: Any) -> None:
        unused = switches.keys() & published_experiments.DEFAULTS.keys()
        for name in sorted(unused):
            published_experiments.require_default(name, switches.pop(name))
        super().__init__(*values, **switches)

    def __hash__(self) -> int:
        """By its values: one that is a key is not to be changed."""
        return hash(tuple(vars(self).items()))

    def __getattr__(self, name: str) -> Any:
        if name in published_experiments.DEFAULTS:
            return published_experiments.DEFAULTS[name]
        raise AttributeError(f"AblationConfig has no field {name!r}{_near(name)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in published_experiments.DEFAULTS:
            published_experiments.require_default(name, value)
            return
        if name not in _FIELDS:
            raise AttributeError(f"AblationConfig has no field {name!r}{_near(name)}")
        before = dict(vars(self))
        super().__setattr__(name, value)
        if len(before) < len(_FIELDS):  # in the making: checked at its end
            return
        try:
            self.check()
        except ValueError:
            super().__setattr__(name, before[name])
            raise

    def get_active_components(self) -> list[str]:
        """Components that are on, by their published names."""
        return [name for name, on in self._components().items() if on]

    def get_disabled_components(self) -> list[str]:
        """Of the first seven components those that are off, by their published names."""
        return [name for name, on in list(self._components().items())[:_NAMED_IF_OFF] if not on]

    def get_experiment_name(self) -> str:
        """The published name of the configuration, as folders have it: `wo_lora_slowstage_v3_whitening_dia_...`.

        The slow stage is named as off: it is no part of the configuration here.
        """
        off = [name.lower() for name in self.get_disabled_components()]
        on = [short for name, short in _SHORT.items() if self._components()[name]]
        mode = self.effective_adapter_mode
        parts = ["wo", *off]
        parts += ["v3", *on] if on else [f"soft_ln_s{self.soft_ln_init_scale}" if mode == "soft_ln" else mode]
        if self.lambda_logdet > 0:
            digits, _, exponent = f"{self.lambda_logdet:.0e}".partition("e")
            parts.append(f"ldet{digits}e{int(exponent)}")
        parts += [f"sctx_{self.spatial_context_mode}"] if self.use_spatial_context else []
        parts += [f"scalectx_k{self.scale_context_kernel}"] if self.use_scale_context else []
        return "_".join(parts)

    def _components(self) -> dict[str, bool]:
        return {
            "LoRA": self.use_lora,
            "Router": self.use_router,
            "TaskAdapter": self.use_task_adapter,
            "PosEmbed": self.use_pos_embedding,
            "SlowStage": False,
            "TaskBias": self.use_task_bias and self.use_lora,
            "Mahalanobis": self.use_mahalanobis,
            "WhiteningAdapter": self.use_whitening_adapter,
            "DIA": self.use_dia,
        }


_NAMED_IF_OFF = 7
_SHORT = {"WhiteningAdapter": "whitening", "DIA": "dia"}  # in the name of an experiment


_FIELDS = frozenset(field.name for field in fields(AblationConfig))


def _near(name: str) -> str:
    found = difflib.get_close_matches(name, [*_FIELDS, *published_experiments.DEFAULTS], 1)
    return f": did you mean {found[0]}?" if found else ""


class _Presets(Mapping[str, AblationConfig]):
    """Presets by name; each access gives a configuration of one's own."""

    def __init__(self, presets: Mapping[str, AblationConfig]) -> None:
        self._presets = presets

    def __getitem__(self, name: str) -> AblationConfig:
        return replace(self._presets[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._presets)

    def __len__(self) -> int:
        return len(self._presets)


# What `MoLESpatialAwareNF(ablation_config=None)` means in the published code.
BARE_MODEL_CONFIG = AblationConfig(adapter_mode="soft_ln", use_whitening_adapter=False, use_dia=False)

ABLATION_PRESETS: Mapping[str, AblationConfig] = _Presets(
    {
        "full": AblationConfig(),
        "wo_lora": AblationConfig(use_lora=False),
        "wo_router": AblationConfig(use_router=False),
        "wo_adapter": AblationConfig(use_task_adapter=False),
        "wo_pos_embed": AblationConfig(use_pos_embedding=False),
        "wo_router_adapter": AblationConfig(use_router=False, use_task_adapter=False),
        "baseline_nf": AblationConfig(
            use_lora=False,
            use_router=False,
            use_task_adapter=False,
            use_pos_embedding=False,
            use_task_bias=False,
        ),
        "lora_only": AblationConfig(use_router=False, use_task_adapter=False),
    }
)


def get_ablation_config(preset_name: str | None = None, **overrides: Any) -> AblationConfig:
    """A preset (None: the full method) with fields replaced by `overrides`.

    Raises:
        ValueError: an unknown preset, or a value outside its range.
        TypeError: an override that is no field of `AblationConfig`.
    """
    name = preset_name or "full"
    if name not in ABLATION_PRESETS:
        raise ValueError(f"unknown ablation preset {name!r}; choose one of {', '.join(ABLATION_PRESETS)}")
    return replace(ABLATION_PRESETS[name], **overrides)


# Flags that switch a field off (or on); every other field takes a value.
_SWITCHES: tuple[tuple[str, str, bool, str], ...] = (
    ("--no_lora", "use_lora", False, "no LoRA adapters (and no task biases): later tasks share the frozen base"),
    ("--no_router", "use_router", False, "evaluate with the true task id instead of routing by prototypes"),
    ("--no_task_adapter", "use_task_adapter", False, "no input adapter per task"),
    ("--no_pos_embedding", "use_pos_embedding", False, "no 2-D sinusoidal positions"),
    ("--no_task_bias", "use_task_bias", False, "no bias per task in the LoRA layers"),
    ("--no_mahalanobis", "use_mahalanobis", False, "route by Euclidean instead of Mahalanobis distance"),
    ("--use_whitening_adapter", "use_whitening_adapter", True, "whitening input adapter (the default)"),
    ("--no_whitening_adapter", "use_whitening_adapter", False, "use the adapter named by --adapter_mode, or soft_ln"),
    ("--use_dia", "use_dia", True, "a small invertible flow per task after the base flow (the default)"),
    ("--no_dia", "use_dia", False, "no small flow per task"),
    ("--no_spatial_context", "use_spatial_context", False, "no spatial mixing before the flow"),
    ("--no_scale_context", "use_scale_context", False, "scale network without neighbourhood context"),
    ("--use_tail_aware_loss", "use_tail_aware_loss", True, "add the top-k patches of an image to the loss"),
    ("--use_regular_linear", "use_regular_linear", True, "V6 NoLoRA: full layers per task instead of LoRA"),
    ("--use_task_separated", "use_task_separated", True, "V6 TaskSeparated: a whole flow per task"),
    ("--use_spectral_norm", "use_spectral_norm", True, "V6 SpectralNorm: normalise the base weights"),
    ("--no_freeze_base", "no_freeze_base", True, "sequential training: the base goes on learning, and forgets"),
)

_VALUES: tuple[tuple[str, type, tuple[str, ...] | None, str], ...] = (
    (
        "adapter_mode",
        str,
        ADAPTER_MODES,
        "input adapter; 'gaussian' is estimated in one pass and takes the place of "
        "spatial mixing too; another one than 'whitening' implies --no_whitening_adapter",
    ),
    (
        "router_covariance",
        str,
        ROUTER_COVARIANCES,
        "covariance that routing distances are measured with: each task's own with 1e-5 on its diagonal (published), "
        "each task's own, shrunk by Ledoit and Wolf's rule, or one within-task covariance of all tasks, shrunk alike "
        "(pooled), which errs least with few images",
    ),
    ("soft_ln_init_scale", float, None, "start of the LayerNorm blend of the soft_ln adapter"),
    ("front_directions", int, None, "adapter 'gaussian': directions kept at each position; 0 keeps its mean alone"),
    ("dia_n_blocks", int, None, "coupling blocks in each task's own flow"),
    ("dia_hidden_ratio", float, None, "hidden width of those blocks, as a fraction of embed_dim"),
    ("lambda_logdet", float, None, "weight of mean(logdet^2) in the loss"),
    ("spatial_context_mode", str, SPATIAL_CONTEXT_MODES, "spatial mixer before the flow"),
    ("spatial_context_kernel", int, None, "its kernel, in patches (odd)"),
    ("scale_context_kernel", int, None, "context kernel of the scale network, in patches (odd)"),
    ("scale_context_init_scale", float, None, "initial strength of that context"),
    ("scale_context_max_alpha", float, None, "largest strength of that context"),
    ("tail_weight", float, None, "weight of the tail in the tail-aware loss"),
    ("tail_top_k_ratio", float, None, "fraction of an image's patches that make its tail"),
    ("score_aggregation_mode", str, SCORE_AGGREGATION_MODES, "patch scores to image score"),
    ("score_aggregation_percentile", float, None, "fraction for mode percentile"),
    ("score_aggregation_top_k", int, None, "patches for mode top_k"),
    ("score_aggregation_top_k_percent", float, None, "fraction for mode top_k_percent"),
    ("cluster_weight", float, None, "weight of clustered patches in mode spatial_cluster"),
    ("cluster_high_score_percentile", float, None, "quantile above which a patch is high in spatial_cluster"),
)


def add_ablation_args(parser: argparse.ArgumentParser) -> None:
    """Add `--ablation_preset` and one option for every field; unset options leave the preset's value."""
    defaults = AblationConfig()
    group = parser.add_argument_group("method and ablations")
    group.add_argument(
        "--ablation_preset", choices=sorted(ABLATION_PRESETS), default="full", help="where the switches start"
    )
    for flag, field, value, text in _SWITCHES:
        group.add_argument(flag, dest=field, action="store_const", const=value, default=None, help=text)
    for field, kind, choices, text in _VALUES:
        default = _COMMAND_LINE_DEFAULTS.get(field, getattr(defaults, field))
        group.add_argument(f"--{field}", type=kind, choices=choices, default=None, help=f"{text} (default {default})")
    for field, default in published_experiments.DEFAULTS.items():
        if field not in published_experiments.ELSEWHERE and default is not True:
            group.add_argument(f"--{field}", default=None, help=argparse.SUPPRESS, **_kind(default))


def _kind(default: Any) -> dict[str, Any]:
    if default is False:
        return {"action": "store_const", "const": True}
    if isinstance(default, tuple):
        return {"type": lambda text: tuple(map(int, text.split(",")))}
    return {"type": type(default)}


# The published command line has a smaller default than the dataclass.
_COMMAND_LINE_DEFAULTS: Mapping[str, Any] = MappingProxyType({"lambda_logdet": 1e-5})


def parse_ablation_args(args: argparse.Namespace) -> AblationConfig:
    """The configuration that parsed options name: preset, then command-line defaults, then options."""
    for name in published_experiments.DEFAULTS.keys() - published_experiments.ELSEWHERE.keys():
        if getattr(args, name, None) is not None:
            published_experiments.require_default(name, getattr(args, name))
    overrides = dict(_COMMAND_LINE_DEFAULTS)
    for field in fields(AblationConfig):
        value = getattr(args, field.name, None)
        if value is not None:
            overrides[field.name] = value
    asked = overrides.get("adapter_mode")
    if asked not in (None, "whitening"):
        if overrides.get("use_whitening_adapter"):
            raise ValueError(f"--use_whitening_adapter and --adapter_mode {asked} contradict each other: drop one")
        overrides["use_whitening_adapter"] = False
    return get_ablation_config(args.ablation_preset, **overrides)
