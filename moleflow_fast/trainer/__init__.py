"""Learning one task after another."""

from __future__ import annotations

from moleflow_fast.lazy import names_of

_MODULE_OF = {
    "MoLEContinualTrainer": "continual_trainer",
}
__all__ = sorted(_MODULE_OF)
__getattr__ = names_of(__name__, _MODULE_OF)
