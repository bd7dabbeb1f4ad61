"""Fields of the published configuration that no published result uses.

They are taken at the published default and refused at any other value, so that nothing runs as something else than it
says.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "use_slow_stage": False, "use_class_level_adapters": False, "lora_rank": 32, "lora_alpha": 1.0,
        "use_ms_context": False, "ms_context_dilations": (1, 2, 4), "ms_context_use_regional": True,
        "use_feature_bank": False, "feature_bank_size": 500, "feature_bank_selection": "random",
        "use_distillation": False, "distillation_mode": "logprob", "distillation_temperature": 2.0,
        "distillation_weight": 1.0, "use_ewc": False, "ewc_lambda": 1000.0,
        "use_adaptive_unfreeze": False, "adaptive_unfreeze_ratio": 0.4, "adaptive_unfreeze_lr_ratio": 0.1,
        "use_hybrid_routing": False, "hybrid_routing_top_k": 2, "hybrid_routing_proto_weight": 0.6,
        "use_regional_prototype": False, "regional_prototype_grid": 4,
        "use_semantic_projector": False, "semantic_bottleneck_ratio": 0.5, "use_task_adaptive_context": False,
        "use_global_context": False, "global_context_regions": 4, "global_context_reduction": 4,
        "use_relative_position": False, "relative_position_max_dist": 7, "relative_position_num_heads": 4,
        "use_dual_branch": False, "use_local_consistency": False, "local_consistency_kernel": 3,
        "local_consistency_temperature": 1.0, "use_improved_dual_branch": False, "dual_branch_init_alpha": 0.7,
        "dual_branch_min_alpha": 0.3, "dual_branch_max_alpha": 0.9, "use_score_guided_dual": False,
        "score_guided_temperature": 1.0, "score_guided_min_alpha": 0.2,
        "use_multiscale_consistency": False, "multiscale_kernel_sizes": "3,5,7",
        "use_multi_orientation": False, "multi_orientation_n": 4,
        "use_content_based_pe": False, "content_pe_n_prototypes": 16, "content_pe_temperature": 0.1,
        "content_pe_blend_grid": True, "use_hybrid_pe": False, "hybrid_pe_n_prototypes": 16,
        "use_tape": False, "tape_init_value": 0.0, "use_rotation_aug": False, "rotation_degrees": 180.0,
        "use_stn": False, "stn_mode": "rotation", "stn_hidden_dim": 128, "stn_dropout": 0.1,
        "stn_rotation_reg_weight": 0.01, "stn_pretrain_epochs": 0,
        "use_ogp": False, "ogp_threshold": 0.99, "ogp_max_rank": 50, "ogp_n_samples": 300,
        "use_task_conditioned_ms_context": False, "tc_ms_context_dilations": (1, 2, 4),
        "tc_ms_context_use_regional": True, "tc_ms_context_lora_rank": 16,
        "use_dsm": False, "dsm_mode": "hybrid", "dsm_alpha": 0.5, "dsm_sigma_min": 0.01, "dsm_sigma_max": 1.0,
        "dsm_n_projections": 1, "dsm_use_sliced": True, "dsm_noise_mode": "geometric", "dsm_clean_penalty": 0.0,
    }
)  # fmt: skip

# What is not the configuration's to decide, and where it is; for the others nothing does the same.
ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "use_slow_stage": "pass args with enable_slow_stage to the trainer (--enable_slow_stage)",
        "lora_rank": "give lora_rank to MoLESpatialAwareNF (--lora_rank)",
        "lora_alpha": "give lora_alpha to MoLESpatialAwareNF (--lora_alpha)",
        "use_rotation_aug": "give use_rotation_aug to create_task_dataset (--use_rotation_aug)",
        "rotation_degrees": "give rotation_degrees to create_task_dataset (--rotation_degrees)",
    }
)


def require_default(field: str, value: Any) -> None:
    """Raise ValueError, with what to do instead, unless `value` is the published default of an unused `field`."""
    default = DEFAULTS[field]
    if value == default or (isinstance(default, tuple) and tuple(value) == default):
        return
    remedy = ELSEWHERE.get(field, "no published result uses it, and it does not exist here: leave it out")
    raise ValueError(f"{field}={value!r} cannot be had in a configuration, {default!r} alone: {remedy}")
