"""Processes that were forked from one in which torch had computed: they lack its threads, and would wait for them."""

from __future__ import annotations

import os

import torch

from moleflow_fast.errors import UserError


class _State:
    computed = False
    parent_computed = False


_state = _State()


def require_usable(device: torch.device) -> None:
    """To be called before torch computes for a detector.

    Raises:
        UserError: torch would hang here, or CUDA refuse.
    """
    if _state.parent_computed and (torch.get_num_threads() > 1 or device.type == "cuda"):
        alone = "" if device.type == "cuda" else ", or call torch.set_num_threads(1) here first"
        raise UserError(
            "this process was forked from one in which a detector was at work, and torch does not survive that: start "
            f"it by multiprocessing.get_context('spawn'), to which a Detector can be sent{alone}"
        )
    _state.computed = True


def _forked() -> None:
    _state.parent_computed = _state.parent_computed or _state.computed


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
