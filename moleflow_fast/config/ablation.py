"""One configuration of the method, presets of it, and the command line that names one."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from moleflow_fast.config import published_experiments
from moleflow_fast.config.arguments import add_option, unsaid
from moleflow_fast.config.option import options_in
from moleflow_fast.config.switches import METHOD, Switches


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


def command_line_ablation() -> AblationConfig:
    """The configuration of a command line that says nothing of it."""
    return AblationConfig(**unsaid(AblationConfig))


def add_ablation_args(parser: argparse.ArgumentParser) -> None:
    """Add `--ablation_preset` and one option for every field; unset options leave the preset's value."""
    group = parser.add_argument_group(METHOD)
    group.add_argument(
        "--ablation_preset", choices=sorted(ABLATION_PRESETS), default="full", help="where the switches start"
    )
    options = options_in(AblationConfig)
    for name in sorted(options, key=lambda name: not isinstance(options[name].default, bool)):  # switches first
        add_option(group, AblationConfig, name)
    for field, default in published_experiments.DEFAULTS.items():
        if field not in published_experiments.ELSEWHERE and default is not True:
            group.add_argument(f"--{field}", default=None, help=argparse.SUPPRESS, **_kind(default))


def _kind(default: Any) -> dict[str, Any]:
    if default is False:
        return {"action": "store_const", "const": True}
    if isinstance(default, tuple):
        return {"type": lambda text: tuple(map(int, text.split(",")))}
    return {"type": type(default)}


def parse_ablation_args(args: argparse.Namespace) -> AblationConfig:
    """The configuration that parsed options name: preset, then command-line defaults, then options."""
    for name in published_experiments.DEFAULTS.keys() - published_experiments.ELSEWHERE.keys():
        if getattr(args, name, None) is not None:
            published_experiments.require_default(name, getattr(args, name))
    overrides = unsaid(AblationConfig)
    for name in options_in(AblationConfig):
        value = getattr(args, name, None)
        if value is not None:
            overrides[name] = value
    asked = overrides.get("adapter_mode")
    if asked not in (None, "whitening"):
        if overrides.get("use_whitening_adapter"):
            raise ValueError(f"--use_whitening_adapter and --adapter_mode {asked} contradict each other: drop one")
        overrides["use_whitening_adapter"] = False
    return get_ablation_config(args.ablation_preset, **overrides)
