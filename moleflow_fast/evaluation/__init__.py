"""Scores of test images, and what is measured of them."""

from __future__ import annotations

from moleflow_fast.lazy import names_of

_MODULE_OF = {
    "evaluate_all_tasks": "evaluator",
    "evaluate_class": "evaluator",
    "evaluate_routing_performance": "evaluator",
}
__all__ = sorted(_MODULE_OF)
__getattr__ = names_of(__name__, _MODULE_OF)
