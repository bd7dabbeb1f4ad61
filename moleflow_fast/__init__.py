"""MoLE-Flow (DeCoFlow): continual industrial anomaly detection with a normalizing flow and LoRA experts.

Here are the names that the published package has at its top level, and `Detector`. Each is imported when it is first
asked for: commands need not wait for torch.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from moleflow_fast._source_tree import leave_source_tree

leave_source_tree(__file__)

from moleflow_fast import runner_registry  # noqa: E402 - of the package that is left, if it was the bare one

if TYPE_CHECKING:
    from moleflow_fast.config.ablation import (
        ABLATION_PRESETS,
        AblationConfig,
        add_ablation_args,
        get_ablation_config,
        parse_ablation_args,
    )
    from moleflow_fast.data.datasets import (
        DATASET_REGISTRY,
        MPDD,
        MPDD_CLASS_NAMES,
        MVTEC,
        MVTEC_CLASS_NAMES,
        VISA,
        VISA_CLASS_NAMES,
        TaskDataset,
        create_task_dataset,
        get_class_names,
        get_dataset_class,
    )
    from moleflow_fast.detector.detector import Detector
    from moleflow_fast.evaluation.evaluator import (
        evaluate_all_tasks,
        evaluate_class,
        evaluate_routing_performance,
    )
    from moleflow_fast.extractors import (
        CNNPatchCoreExtractor,
        PatchCoreExtractor,
        ViTPatchCoreExtractor,
        create_feature_extractor,
        get_backbone_type,
        is_cnn_backbone,
        is_vit_backbone,
    )
    from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
    from moleflow_fast.models.position_embedding import PositionalEmbeddingGenerator
    from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer
    from moleflow_fast.utils.config import get_config, get_default_config
    from moleflow_fast.utils.diagnostics import FlowDiagnostics, run_diagnostics_on_model
    from moleflow_fast.utils.helpers import init_seeds, setting_lr_parameters
    from moleflow_fast.utils.logger import TrainingLogger, setup_training_logger

_NAMES = {
    "config.ablation": (
        "ABLATION_PRESETS", "AblationConfig", "add_ablation_args", "get_ablation_config", "parse_ablation_args",
    ),
    "data.datasets": (
        "DATASET_REGISTRY", "MPDD", "MPDD_CLASS_NAMES", "MVTEC", "MVTEC_CLASS_NAMES", "VISA", "VISA_CLASS_NAMES",
        "TaskDataset", "create_task_dataset", "get_class_names", "get_dataset_class",
    ),
    "detector.detector": ("Detector",),
    "evaluation.evaluator": ("evaluate_all_tasks", "evaluate_class", "evaluate_routing_performance"),
    "extractors": (
        "CNNPatchCoreExtractor", "PatchCoreExtractor", "ViTPatchCoreExtractor", "create_feature_extractor",
        "get_backbone_type", "is_cnn_backbone", "is_vit_backbone",
    ),
    "models.mole_nf": ("MoLESpatialAwareNF",),
    "models.position_embedding": ("PositionalEmbeddingGenerator",),
    "trainer.continual_trainer": ("MoLEContinualTrainer",),
    "utils.config": ("get_config", "get_default_config"),
    "utils.diagnostics": ("FlowDiagnostics", "run_diagnostics_on_model"),
    "utils.helpers": ("init_seeds", "setting_lr_parameters"),
    "utils.logger": ("TrainingLogger", "setup_training_logger"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted([*_MODULE_OF, "__version__"])

runner_registry.register("moleflow_fast.packing.compiled_runner:CompiledFlowRunner")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _MODULE_OF:
        near = difflib.get_close_matches(name, __all__, 1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("moleflow_fast")
    except PackageNotFoundError:
        return "source tree"
