"""What scripts for the published package use around a model: seeds, configurations, a logger, diagnostics."""

from __future__ import annotations

from importlib import import_module
from typing import Any

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


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
