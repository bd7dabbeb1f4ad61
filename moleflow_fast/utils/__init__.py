"""What scripts for the published package use around a model: seeds, configurations, a logger, diagnostics."""

from __future__ import annotations

from moleflow_fast.lazy import names_of

_MODULE_OF = {
    "init_seeds": "helpers",
    "setting_lr_parameters": "helpers",
    "get_config": "config",
    "get_default_config": "config",
    "load_yaml": "config",
    "TrainingLogger": "logger",
    "setup_training_logger": "logger",
    "FlowDiagnostics": "diagnostics",
    "run_diagnostics_on_model": "diagnostics",
}
__all__ = sorted(_MODULE_OF)
__getattr__ = names_of(__name__, _MODULE_OF)
