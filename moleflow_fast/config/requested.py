"""Which backend and which precision are asked for: by a block, by the environment, or by nobody.

Command lines read this before torch is imported; what becomes of a request is in `moleflow_fast.backend`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType

from moleflow_fast.errors import UserError

BACKENDS = ("auto", "eager", "cpp", "triton")


@dataclass(frozen=True)
class Precision:
    """What products on a GPU read; state, log-determinant, losses and parameters are fp32 in each.

    Attributes:
        operands: what the Triton kernels of the flow store for their products, see `engine.plan.Plan`.
        tf32: whether products and convolutions of fp32 operands, torch's and the kernels', round them to tf32.
    """

    operands: str
    tf32: bool


PRECISIONS = MappingProxyType(
    {
        "fp32": Precision("fp32", tf32=False),
        "tf32": Precision("fp32", tf32=True),
        "bf16": Precision("bf16", tf32=False),
    }
)
BACKBONE_PRECISIONS = MappingProxyType({"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"})  # dtypes of torch
_backend: ContextVar[str | None] = ContextVar("moleflow_backend", default=None)
_precision: ContextVar[str | None] = ContextVar("moleflow_precision", default=None)


class BackendError(UserError):
    """A backend that does not exist, or cannot run what it is asked to."""


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend for the block, in this thread."""
    token = _backend.set(_known_backend(name))
    try:
        yield
    finally:
        _backend.reset(token)


def given_backend() -> str | None:
    """The backend of `use_backend`, else of `MOLEFLOW_BACKEND`, else None."""
    from_environment = os.environ.get("MOLEFLOW_BACKEND")
    return _backend.get() or (None if from_environment is None else _known_backend(from_environment))


def requested_backend() -> str:
    """One of `BACKENDS`: the given one, else "auto"."""
    return given_backend() or "auto"


@contextmanager
def precision_chosen(name: str) -> Iterator[None]:
    """Choose the precision for the block, in this thread, without a word to torch: see `backend.use_precision`."""
    token = _precision.set(_known_precision(name))
    try:
        yield
    finally:
        _precision.reset(token)


def given_precision() -> str | None:
    """The precision of `use_precision`, else of `MOLEFLOW_PRECISION`, else None."""
    from_environment = os.environ.get("MOLEFLOW_PRECISION")
    return _precision.get() or (None if from_environment is None else _known_precision(from_environment))


def requested_precision() -> str:
    """One of `PRECISIONS`: the given one, else "fp32".

    Only `use_precision`, in which every run is, sets torch's flags; elsewhere they decide between fp32 and tf32.
    """
    return given_precision() or "fp32"


def _known_backend(name: str) -> str:
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; MOLEFLOW_BACKEND must be one of {', '.join(BACKENDS)}")
    return name


def _known_precision(name: str) -> str:
    if name not in PRECISIONS:
        raise BackendError(f"unknown precision {name!r}; MOLEFLOW_PRECISION must be one of {', '.join(PRECISIONS)}")
    return name
