"""The command line: published names, defaults, contradictions."""

import dataclasses
import json
from dataclasses import fields
from pathlib import Path

import pytest

from moleflow_fast.config import ABLATION_PRESETS, AblationConfig
from moleflow_fast.config.command_line import DEMO_DEFAULTS, build_parser
from moleflow_fast.config.identity import identity
from moleflow_fast.config.options import RunOptions
from moleflow_fast.run.asked import parse_options

MVTEC = ["--dataset", "mvtec", "--data_path", "somewhere"]

PUBLISHED = [
    "--dataset", "--data_path", "--task_classes", "--cl_scenario", "--backbone_name", "--img_size", "--msk_size",
    "--embed_dim", "--num_epochs", "--lr", "--batch_size", "--num_coupling_layers", "--lora_rank", "--seed",
    "--log_dir", "--experiment_name", "--enable_slow_stage", "--slow_lr_ratio", "--slow_blocks_k",
    "--ablation_preset", "--no_lora", "--no_router", "--no_task_adapter", "--no_pos_embedding", "--no_task_bias",
    "--no_mahalanobis", "--no_freeze_base", "--adapter_mode", "--soft_ln_init_scale", "--use_whitening_adapter",
    "--no_whitening_adapter", "--use_dia", "--no_dia", "--dia_n_blocks", "--dia_hidden_ratio", "--lambda_logdet",
    "--no_spatial_context", "--spatial_context_mode", "--spatial_context_kernel", "--no_scale_context",
    "--scale_context_kernel", "--scale_context_init_scale", "--scale_context_max_alpha", "--use_tail_aware_loss",
    "--tail_weight", "--tail_top_k_ratio", "--score_aggregation_mode", "--score_aggregation_percentile",
    "--score_aggregation_top_k", "--score_aggregation_top_k_percent", "--use_regular_linear",
    "--use_task_separated", "--use_spectral_norm", "--use_rotation_aug", "--rotation_degrees",
    "--run_diagnostics", "--use_high_res", "--vit_blocks", "--lora_alpha", "--score_smooth_sigma",
    "--interp_mode", "--load_checkpoint", "--final_eval_only",
]  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names_are_offered_and_explained(name: str) -> None:
    actions = [action for action in build_parser()._actions if name in action.option_strings]
    assert len(actions) == 1
    assert actions[0].help


def test_published_defaults() -> None:
    options = parse_options(MVTEC)
    assert options.backbone_name == "wide_resnet50_2"
    assert (options.img_size, options.num_epochs, options.lr, options.batch_size) == (224, 60, 2e-4, 16)
    assert (options.lora_rank, options.lora_alpha, options.num_coupling_layers, options.seed) == (64, 1.0, 8, 0)
    assert options.ablation == AblationConfig(lambda_logdet=1e-5)


def test_the_demo_has_its_own_small_defaults_which_options_override() -> None:
    options = parse_options(["--preset", "published"])
    assert {name: getattr(options, name) for name in DEMO_DEFAULTS} == DEMO_DEFAULTS
    assert (parse_options([]).backbone_name, parse_options([]).img_size) == ("resnet18", 128)
    assert parse_options(["--num_epochs", "3"]).num_epochs == 3
    assert parse_options(["--backbone_name", "resnet34"]).embed_dim is None


def test_images_of_ones_own_start_from_line() -> None:
    folder = ["--dataset", "folder", "--data_path", "parts"]
    line, named = parse_options(folder), parse_options([*folder, "--preset", "line"])
    assert line == named and line.run_name.startswith("folder-")
    assert line.ablation.has_front and parse_options([]).ablation == line.ablation
    assert parse_options([*folder, "--num_coupling_layers", "3"]) == dataclasses.replace(line, num_coupling_layers=3)
    for other in (["--preset", "published"], ["--load_checkpoint", "model.pt"]):
        assert parse_options([*folder, *other]).ablation == AblationConfig(lambda_logdet=1e-5)
    assert parse_options([*folder, "--use_whitening_adapter"]).ablation.effective_adapter_mode == "whitening"
    assert not parse_options(MVTEC).ablation.has_front


def test_no_epochs_need_a_front() -> None:
    assert parse_options([*MVTEC, "--num_epochs", "0", "--adapter_mode", "gaussian"]).num_epochs == 0
    with pytest.raises(ValueError, match="--num_epochs 0 leaves an untrained flow: add --adapter_mode gaussian"):
        RunOptions(num_epochs=0)


@pytest.mark.parametrize("name", ABLATION_PRESETS)
def test_presets(name: str) -> None:
    ablation = parse_options([*MVTEC, "--ablation_preset", name, "--dia_n_blocks", "6"]).ablation
    preset = ABLATION_PRESETS[name]
    changed = {f.name for f in fields(AblationConfig) if getattr(ablation, f.name) != getattr(preset, f.name)}
    assert changed == {"dia_n_blocks", "lambda_logdet"}


def test_another_adapter_takes_effect() -> None:
    assert parse_options(["--adapter_mode", "soft_ln"]).ablation.effective_adapter_mode == "soft_ln"
    assert parse_options(["--no_whitening_adapter"]).ablation.effective_adapter_mode == "soft_ln"


def test_json_round_trip() -> None:
    options = parse_options([*MVTEC, "--task_classes", "bottle", "cable", "--vit_blocks", "1", "3", "--no_dia"])
    assert RunOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dataset", "mvtec"], "--dataset mvtec needs --data_path"),
        (["--lr", "0"], "--lr must be positive"),
        (["--msk_size", "-5"], "--msk_size must be at least 1, got -5"),
        (["--msk_size", "0"], "--msk_size must be at least 1, got 0"),
        (["--embed_dim", "0"], "--embed_dim must be at least 1, got 0"),
        (["--logger", "neptune"], "invalid choice"),
        (["--num_epochs", "-1"], "--num_epochs must be at least 0"),
        (["--num_epochs", "0", "--preset", "published"], "add --adapter_mode gaussian, or train"),
        (["--embed_dim", "30"], "--embed_dim must be a multiple of 4"),
        (["--backbone_weights", "a", "--random_backbone"], "exclude each other"),
        (["--num_coupling_layers", "0", "--no_dia"], "no flow at all"),
        (["--use_high_res", "--backbone_layers", "layer1"], "--use_high_res chooses the layers itself"),
        (["--adapter_mode", "soft_ln", "--use_whitening_adapter"], "contradict each other"),
        (["--tail_weight", "1.5"], "tail_weight must lie in"),
        (["--spatial_context_kernel", "4"], "odd number of patches"),
        (["--scale_context_init_scale", "0.3"], "strictly between 0 and"),
        (["--dataset", "cifar"], "invalid choice"),
        (["--router_covariance", "mine"], "invalid choice"),
        (["--epochs", "3"], "unrecognized arguments"),
    ],
)
def test_contradictions_are_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_options(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_mask_size_of_0_meant_left_out_once() -> None:
    stored = json.loads(json.dumps(parse_options(MVTEC).to_json()))
    assert RunOptions.from_json({**stored, "msk_size": 0}).mask_size == 224


def test_loggers_are_named_once() -> None:
    assert parse_options(["--tensorboard"]).loggers == ("tensorboard",)
    assert parse_options(["--logger", "wandb", "tensorboard", "--tensorboard"]).loggers == ("wandb", "tensorboard")
    assert parse_options([]).loggers == ()


def test_spelling_of_a_path_is_not_part_of_what_a_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "somewhere")
    spelled = [identity(parse_options([*MVTEC[:3], path])) for path in ("somewhere", "./somewhere/", "link")]
    assert len(set(spelled)) == 1
    assert parse_options(MVTEC).in_full().data_path == str(tmp_path / "somewhere")


def test_runs_from_before_the_router_had_kinds_are_published_ones() -> None:
    options = parse_options(MVTEC)
    stored = json.loads(json.dumps(options.to_json()))
    del stored["ablation"]["router_covariance"]
    assert RunOptions.from_json(stored) == options and options.ablation.router_covariance == "published"
    assert identity(RunOptions.from_json(stored)) == identity(options)
    pooled = parse_options([*MVTEC, "--router_covariance", "pooled"])
    assert pooled.ablation.router_covariance == "pooled" and identity(pooled) != identity(options)


def test_switches_without_effect_are_mentioned() -> None:
    pooled = AblationConfig(router_covariance="pooled", use_mahalanobis=False)
    assert pooled.warnings == ["--router_covariance pooled has no effect with --no_mahalanobis: drop one"]
    assert "--no_scale_context" in AblationConfig(use_regular_linear=True).warnings[0]
    assert AblationConfig(use_regular_linear=True, use_scale_context=False).warnings == []
    assert AblationConfig().warnings == []
