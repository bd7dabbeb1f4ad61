"""Scores of test images, and what is measured of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULE_OF = {
    "evaluate_all_tasks": "evaluator",
    "evaluate_class": "evaluator",
    "evaluate_routing_performance": "evaluator",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Imported when first asked for: whoever wants another module of the package need not wait for these."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
