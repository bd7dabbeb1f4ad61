"""Which implementation runs an operation: plain PyTorch or the compiled part.

`MOLEFLOW_BACKEND` or `use_backend` chooses among `BACKENDS`; "auto", the default, takes the fastest that can run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from moleflow_fast.errors import UserError

BACKENDS = ("auto", "eager", "cpp")
_override: ContextVar[str | None] = ContextVar("moleflow_backend", default=None)


class BackendError(UserError):
    """A backend that does not exist, or cannot run what it is asked to."""


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend for the block, in this thread."""
    token = _override.set(_known(name))
    try:
        yield
    finally:
        _override.reset(token)


def requested_backend() -> str:
    """One of `BACKENDS`: that of `use_backend`, else of `MOLEFLOW_BACKEND`, else "auto"."""
    return _override.get() or _known(os.environ.get("MOLEFLOW_BACKEND", "auto"))


def runs_compiled(*tensors: Tensor, why_not: str | None = None) -> bool:
    """Whether the compiled CPU part takes these tensors.

    Args:
        tensors: operands; all must be fp32 or all fp64, on the CPU.
        why_not: a reason of the caller's own against it, e.g. an unsupported configuration.

    Raises:
        BackendError: "cpp" was asked for and cannot run this.
    """
    reason = why_not_compiled(*tensors, why_not=why_not)
    if reason and requested_backend() == "cpp":
        raise BackendError(f"backend cpp cannot run this: {reason}; set MOLEFLOW_BACKEND=auto")
    return reason is None


def why_not_compiled(*tensors: Tensor, why_not: str | None = None) -> str | None:
    """What keeps the compiled CPU part from taking these tensors, or None; arguments as for `runs_compiled`."""
    if requested_backend() == "eager":
        return "backend eager was asked for"
    return why_not or _obstacle(tensors)


def _obstacle(tensors: tuple[Tensor, ...]) -> str | None:
    kinds = {(t.device.type, t.dtype) for t in tensors}
    if len(kinds) != 1:
        return f"operands differ in device or dtype: {sorted(map(str, kinds))}"
    device, dtype = kinds.pop()
    if device != "cpu":
        return f"it runs on the CPU, and the operands are on {device}"
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, and the operands are {dtype}"
    return None


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; MOLEFLOW_BACKEND must be one of {', '.join(BACKENDS)}")
    return name
