"""The configuration as scripts for the published code use it."""

import argparse
import copy
import dataclasses
import pickle
from typing import Any

import pytest

from moleflow_fast.config import (
    ABLATION_PRESETS,
    AblationConfig,
    add_ablation_args,
    get_ablation_config,
    parse_ablation_args,
)
from moleflow_fast.config.published_experiments import DEFAULTS, ELSEWHERE


def other(default: Any) -> Any:
    if isinstance(default, bool):
        return not default
    return (9,) if isinstance(default, tuple) else f"{default}x" if isinstance(default, str) else default + 1


def test_there_are_all_published_fields() -> None:
    ours = {"router_covariance", "front_directions"}
    assert len({f.name for f in dataclasses.fields(AblationConfig)} - ours) + len(DEFAULTS) == 114


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_field_that_no_published_result_uses(name: str) -> None:
    default = DEFAULTS[name]
    config = AblationConfig(**{name: default})
    setattr(config, name, default)
    assert getattr(config, name) == default and config == AblationConfig()
    for attempt in (lambda: AblationConfig(**{name: other(default)}), lambda: setattr(config, name, other(default))):
        with pytest.raises(ValueError, match=rf"^{name}=.*: (no published result uses it|give|pass)"):
            attempt()
    assert getattr(config, name) == default


def test_fields_are_assigned() -> None:
    config = AblationConfig()
    config.use_lora = False
    config.adapter_mode, config.use_whitening_adapter = "no_ln", False
    assert config == AblationConfig(use_lora=False, adapter_mode="no_ln", use_whitening_adapter=False)
    assert config.effective_adapter_mode == "no_ln"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tail_weight", 1.5, r"tail_weight must lie in \[0, 1\]"),
        ("spatial_context_kernel", 4, "odd number"),
        ("adapter_mode", "whitned", "adapter_mode must be one of"),
        ("scale_context_init_scale", 0.3, "scale_context_max_alpha"),
    ],
)
def test_a_refused_assignment_changes_nothing(name: str, value: Any, message: str) -> None:
    config = AblationConfig(tail_weight=0.7)
    with pytest.raises(ValueError, match=message):
        setattr(config, name, value)
    assert config == AblationConfig(tail_weight=0.7)


def test_a_field_that_does_not_exist_suggests_the_near_one() -> None:
    with pytest.raises(AttributeError, match="no field 'use_lorra': did you mean use_lora"):
        AblationConfig().use_lorra = False
    with pytest.raises(AttributeError, match="did you mean dia_n_blocks"):
        _ = AblationConfig().dia_nblocks
    with pytest.raises(TypeError, match="use_lorra"):
        AblationConfig(use_lorra=False)


def test_copies_and_pickles() -> None:
    config = AblationConfig(dia_n_blocks=3)
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), dataclasses.replace(config)):
        assert twin == config and type(twin) is AblationConfig
        twin.dia_n_blocks = 5
        assert config.dia_n_blocks == 3


def test_a_preset_is_not_changed_in_place() -> None:
    preset = ABLATION_PRESETS["full"]
    preset.use_lora = False
    assert ABLATION_PRESETS["full"].use_lora and get_ablation_config().use_lora
    assert get_ablation_config("lora_only").use_pos_embedding
    assert get_ablation_config(preset_name="wo_lora", dia_n_blocks=4).dia_n_blocks == 4


def test_published_names_of_configurations() -> None:
    whole = "wo_slowstage_v3_whitening_dia_ldet3e-5_sctx_depthwise_residual_scalectx_k3"
    assert AblationConfig().get_experiment_name() == whole
    plain = AblationConfig(
        use_lora=False, use_whitening_adapter=False, use_dia=False, lambda_logdet=0.0, use_spatial_context=False,
        use_scale_context=False,
    )  # fmt: skip
    assert plain.get_experiment_name() == "wo_lora_slowstage_taskbias_soft_ln_s0.01"
    assert plain.get_disabled_components() == ["LoRA", "SlowStage", "TaskBias"]
    assert plain.get_active_components() == ["Router", "TaskAdapter", "PosEmbed", "Mahalanobis"]


def parsed(*argv: str) -> AblationConfig:
    """With a parser that has options of its own, as the published runner's."""
    parser = argparse.ArgumentParser()
    for name in ELSEWHERE:
        parser.add_argument(f"--{name}", default=DEFAULTS[name])
    add_ablation_args(parser)
    return parse_ablation_args(parser.parse_args(argv))


def test_options_of_experiments() -> None:
    plain = parsed()
    assert parsed("--dsm_mode", "hybrid", "--ms_context_dilations", "1,2,4", "--lora_rank", "64") == plain
    for argv in (["--use_dsm"], ["--ogp_max_rank", "51"], ["--tc_ms_context_dilations", "1,2"]):
        with pytest.raises(ValueError, match=f"^{argv[0][2:]}=.* no published result uses it"):
            parsed(*argv)
