"""What can differ between two runs: their effective options, and the factors that options belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moleflow_fast.config.options import RunOptions
from moleflow_fast.run.directory import result_options

Effective = Mapping[str, Any]
Departures = Mapping[str, Mapping[str, Any]]

# Where a run took place and with which seed: no part of a configuration.
_CIRCUMSTANCES = frozenset({"seed", "data_path", "device"})

# Alike within a group, or it would be another group.
GROUP_OPTIONS = frozenset({"dataset", "task_classes", "cl_scenario", "backbone_name"})

FACTORS: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "dia_blocks": ("dia_n_blocks",),
    "coupling_layers": ("num_coupling_layers",),
    "lora_rank": ("lora_rank",),
    "front_directions": ("front_directions",),
    "epochs": ("num_epochs",),
    "logdet_weight": ("lambda_logdet",),
    "tail_loss": ("use_tail_aware_loss", "tail_weight", "tail_top_k_ratio"),
    "aggregation": (
        "score_aggregation_mode",
        "score_aggregation_top_k",
        "score_aggregation_top_k_percent",
        "score_aggregation_percentile",
        "cluster_weight",
        "cluster_high_score_percentile",
    ),
    "spatial_kernel": ("spatial_context_kernel",),
    "scale_kernel": ("scale_context_kernel",),
    "backbone": (
        "backbone_weights",
        "random_backbone",
        "backbone_layers",
        "vit_blocks",
        "use_high_res",
        "backbone_precision",
        "embed_dim",
    ),
}

COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "component_dia": ("use_dia",),
    "component_adapter": ("use_task_adapter",),
    "component_whitening": ("use_whitening_adapter", "adapter_mode", "soft_ln_init_scale"),
    "component_router": ("use_router",),
    "component_mahalanobis": ("use_mahalanobis", "router_covariance"),
    "component_lora": ("use_lora",),
    "component_task_bias": ("use_task_bias",),
    "component_positions": ("use_pos_embedding",),
    "component_spatial": ("use_spatial_context",),
    "component_scale": ("use_scale_context",),
    "component_freeze": ("no_freeze_base",),
    "component_separated": ("use_task_separated",),
    "component_regular_linear": ("use_regular_linear",),
    "component_spectral": ("use_spectral_norm",),
}

_FACTOR_OF = {option: factor for factor, options in {**FACTORS, **COMPONENTS}.items() for option in options}

# Option -> (switch, value of the switch with which the option acts).
_ACTS_WITH: Mapping[str, tuple[str, Any]] = {
    "dia_n_blocks": ("use_dia", True),
    "dia_hidden_ratio": ("use_dia", True),
    "lora_rank": ("use_lora", True),
    "lora_alpha": ("use_lora", True),
    "use_mahalanobis": ("use_router", True),
    "router_covariance": ("use_mahalanobis", True),
    "use_whitening_adapter": ("use_task_adapter", True),
    "adapter_mode": ("use_whitening_adapter", False),
    "soft_ln_init_scale": ("adapter_mode", "soft_ln"),
    "front_directions": ("adapter_mode", "gaussian"),
    "spatial_context_mode": ("use_spatial_context", True),
    "spatial_context_kernel": ("use_spatial_context", True),
    "scale_context_kernel": ("use_scale_context", True),
    "scale_context_init_scale": ("use_scale_context", True),
    "scale_context_max_alpha": ("use_scale_context", True),
    "tail_weight": ("use_tail_aware_loss", True),
    "tail_top_k_ratio": ("use_tail_aware_loss", True),
    "score_aggregation_top_k": ("score_aggregation_mode", "top_k"),
    "score_aggregation_top_k_percent": ("score_aggregation_mode", "top_k_percent"),
    "score_aggregation_percentile": ("score_aggregation_mode", "percentile"),
    "cluster_weight": ("score_aggregation_mode", "spatial_cluster"),
    "cluster_high_score_percentile": ("score_aggregation_mode", "spatial_cluster"),
    "rotation_degrees": ("use_rotation_aug", True),
    "slow_lr_ratio": ("enable_slow_stage", True),
    "slow_blocks_k": ("enable_slow_stage", True),
}


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
    for option, (switch, needed) in _ACTS_WITH.items():  # switches stand before what depends on them
        if flat.get(switch) != needed:
            flat.pop(option, None)
    return flat


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


def factor_of(option: str) -> str:
    """The factor of an option; one that belongs to none is its own."""
    return _FACTOR_OF.get(option, option)


def values_text(values: Mapping[str, Any]) -> str:
    """Options with values as they read on a command line, `lr=0.0003, dia_n_blocks=6`."""
    return ", ".join(f"{option}={plain(value)}" for option, value in values.items())


def plain(value: Any) -> str:
    """A value of an option as text."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
