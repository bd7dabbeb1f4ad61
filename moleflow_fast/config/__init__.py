from moleflow_fast.config.ablation import (
    ABLATION_PRESETS,
    AblationConfig,
    add_ablation_args,
    get_ablation_config,
    parse_ablation_args,
)

__all__ = [
    "ABLATION_PRESETS",
    "AblationConfig",
    "add_ablation_args",
    "get_ablation_config",
    "parse_ablation_args",
]
