"""Every name of the published package's top level and modules is here, with its parameters and their defaults."""

import importlib
import inspect
import subprocess
import sys

import pytest

import moleflow_fast

TOP = [
    "MoLESpatialAwareNF", "MoLEContinualTrainer", "ViTPatchCoreExtractor", "CNNPatchCoreExtractor",
    "PatchCoreExtractor", "create_feature_extractor", "get_backbone_type", "is_vit_backbone", "is_cnn_backbone",
    "PositionalEmbeddingGenerator", "TrainingLogger", "setup_training_logger", "init_seeds", "setting_lr_parameters",
    "get_config", "get_default_config", "evaluate_class", "evaluate_all_tasks", "evaluate_routing_performance",
    "FlowDiagnostics", "run_diagnostics_on_model", "AblationConfig", "ABLATION_PRESETS", "get_ablation_config",
    "add_ablation_args", "parse_ablation_args", "MVTEC", "MVTEC_CLASS_NAMES", "VISA", "VISA_CLASS_NAMES", "MPDD",
    "MPDD_CLASS_NAMES", "create_task_dataset", "TaskDataset", "get_dataset_class", "get_class_names",
    "DATASET_REGISTRY",
]  # fmt: skip

SIGNATURES = {
    "models.mole_nf:MoLESpatialAwareNF": "embed_dim coupling_layers clamp_alpha lora_rank lora_alpha device "
    "ablation_config",
    "trainer.continual_trainer:MoLEContinualTrainer": "vit_extractor pos_embed_generator nf_model args device "
    "slow_lr_ratio "
    "slow_blocks_k ablation_config logger",
    "trainer.continual_trainer:MoLEContinualTrainer.train_task": "self task_id task_classes train_loader num_epochs lr "
    "log_interval global_class_to_idx",
    "trainer.continual_trainer:MoLEContinualTrainer.inference": "self images task_id",
    "trainer.continual_trainer:MoLEContinualTrainer.set_logger": "self logger",
    "extractors.vit_extractor:ViTPatchCoreExtractor": "backbone_name blocks_to_extract input_shape "
    "target_embed_dimension "
    "device remove_cls_token",
    "extractors.cnn_extractor:CNNPatchCoreExtractor": "backbone_name layers input_shape patch_size patch_stride "
    "target_embed_dimension device",
    "extractors:create_feature_extractor": "backbone_name input_shape target_embed_dimension device blocks_to_extract "
    "remove_cls_token layers patch_size patch_stride",
    "models.position_embedding:PositionalEmbeddingGenerator": "device",
    "utils.logger:TrainingLogger": "log_dir experiment_name",
    "utils.logger:setup_training_logger": "log_dir experiment_name",
    "utils.helpers:init_seeds": "seed",
    "utils.helpers:setting_lr_parameters": "args",
    "utils.config:load_yaml": "file_path",
    "utils.config:get_config": "img_size data_path overrides",
    "evaluation.evaluator:evaluate_class": "trainer class_name args task_id ground_truth_task_id target_size",
    "evaluation.evaluator:evaluate_all_tasks": "trainer args use_router target_size",
    "evaluation.evaluator:evaluate_routing_performance": "trainer args target_size",
    "config.ablation:get_ablation_config": "preset_name overrides",
    "config.ablation:add_ablation_args": "parser",
    "data.datasets:get_dataset_class": "name",
    "data.datasets:TaskDataset": "data class_names class_to_idx",
    "data.datasets:create_task_dataset": "args task_classes global_class_to_idx train use_rotation_aug "
    "rotation_degrees",
    "utils.diagnostics:FlowDiagnostics": "save_dir max_samples",
    "utils.diagnostics:run_diagnostics_on_model": "trainer args task_id save_dir max_samples",
    "models.routing:TaskPrototype": "task_id task_classes device",
    "models.routing:PrototypeRouter": "device use_mahalanobis",
    "models.routing:PrototypeRouter.add_prototype": "self task_id prototype",
}


@pytest.mark.parametrize("name", TOP)
def test_a_name_of_the_top_level(name: str) -> None:
    assert getattr(moleflow_fast, name) is not None and name in moleflow_fast.__all__ and name in dir(moleflow_fast)


PATHS = {
    "data": "MVTEC VISA MPDD MVTEC_CLASS_NAMES create_task_dataset get_dataset_class DATASET_REGISTRY TaskDataset",
    "data.mvtec": "MVTEC MVTEC_CLASS_NAMES",
    "data.visa": "VISA VISA_CLASS_NAMES",
    "data.mpdd": "MPDD MPDD_CLASS_NAMES",
    "models": "MoLESpatialAwareNF PositionalEmbeddingGenerator PrototypeRouter TaskPrototype",
    "models.lora": "LoRALinear MoLESubnet MoLEContextSubnet DeepInvertibleAdapter",
    "models.adapters": "WhiteningAdapter TaskInputAdapter SoftLNTaskInputAdapter FeatureStatistics create_task_adapter",
    "trainer": "MoLEContinualTrainer",
    "evaluation": "evaluate_class evaluate_all_tasks evaluate_routing_performance",
    "utils": "TrainingLogger setup_training_logger init_seeds setting_lr_parameters get_config FlowDiagnostics",
    "config": "AblationConfig ABLATION_PRESETS get_ablation_config add_ablation_args parse_ablation_args",
}


@pytest.mark.parametrize("module", PATHS)
def test_a_published_path(module: str) -> None:
    found = importlib.import_module(f"moleflow_fast.{module}")
    for name in PATHS[module].split():
        assert getattr(found, name) is not None
    with pytest.raises(AttributeError):
        _ = found.no_such_name


@pytest.mark.parametrize("place", SIGNATURES)
def test_a_signature(place: str) -> None:
    module, _, path = place.partition(":")
    found = importlib.import_module(f"moleflow_fast.{module}")
    for name in path.split("."):
        found = getattr(found, name)
    expected = SIGNATURES[place].split()
    assert list(inspect.signature(found).parameters)[: len(expected)] == expected


def test_a_name_that_does_not_exist_suggests_the_near_one() -> None:
    with pytest.raises(AttributeError, match="did you mean evaluate_class"):
        _ = moleflow_fast.evaluate_clas


def test_asking_for_the_package_alone_imports_no_torch() -> None:
    check = "import sys, moleflow_fast; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", check]).returncode == 0
