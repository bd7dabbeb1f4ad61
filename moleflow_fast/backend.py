"""Which implementation runs an operation: plain PyTorch, the compiled part, or Triton kernels; and in which precision.

`MOLEFLOW_BACKEND` or `use_backend` chooses among `BACKENDS`. "auto", the default, takes Triton kernels for tensors on a
GPU and the compiled part for those on a CPU; what they cannot take runs in plain PyTorch, and for a flow on a GPU one
warning says why. A backend that is named must run the flow, or that is an error; other operations have their plain
definition to fall back to. On a CPU "triton" runs in Triton's interpreter, which only tests want.
`MOLEFLOW_PRECISION` or `use_precision` chooses what matrix products read on a GPU.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.config.requested import (
    BACKENDS,
    PRECISIONS,
    BackendError,
    given_backend,
    given_precision,
    precision_chosen,
    requested_backend,
    requested_precision,
    use_backend,
)

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "BackendError",
    "flow_backend",
    "given_backend",
    "given_precision",
    "operator_on_triton",
    "product_operands",
    "requested_backend",
    "requested_precision",
    "runs_compiled",
    "runs_on_triton",
    "use_backend",
    "use_precision",
    "wants_triton",
    "why_not_compiled",
    "why_not_precision",
    "why_not_triton",
]
logger = logging.getLogger(__name__)


@contextmanager
def use_precision(name: str) -> Iterator[None]:
    """Choose the precision for the block: in this thread, and through torch's flags for every product of torch's."""
    with precision_chosen(name), _torch_uses_tf32(PRECISIONS[name].tf32):
        yield


@contextmanager
def _torch_uses_tf32(wanted: bool) -> Iterator[None]:
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    with _products_on_cpu_in_fp32():
        before = [flag.allow_tf32 for flag in flags]
        _set_tf32(flags, [wanted] * len(flags))
        try:
            yield
        finally:
            _set_tf32(flags, before)


@contextmanager
def _products_on_cpu_in_fp32() -> Iterator[None]:
    """A program may have allowed less (`set_float32_matmul_precision`), and gets that back.

    Raises:
        BackendError: it has done so in a way that torch does not let others read, or undo.
    """
    try:
        before, _ = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError as error:
        raise BackendError(
            "the precision of fp32 products was set by torch.backends...fp32_precision, which does not go with how "
            "it is set here: take torch.set_float32_matmul_precision or allow_tf32 (or MOLEFLOW_PRECISION=tf32)"
        ) from error
    loose = torch.backends.mkldnn.matmul.fp32_precision not in ("none", "ieee")  # type: ignore[attr-defined]
    if loose:
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if loose:
            torch.set_float32_matmul_precision(before)


def _set_tf32(flags: tuple[Any, ...], values: list[bool]) -> None:
    for flag, value in zip(flags, values, strict=True):
        if flag.allow_tf32 != value:  # torch counts even an assignment of the same value as a choice of its older API
            flag.allow_tf32 = value


def product_operands() -> str:
    """What the flow's Triton kernels store for their products: "fp32", of which tf32 is a rounding, or "bf16"."""
    return PRECISIONS[requested_precision()].operands


def flow_backend(device: torch.device) -> str:
    """The compiled backend that is tried on tensors of a device: "triton" on a GPU or where named, else "cpp"."""
    requested = requested_backend()
    return "triton" if requested == "triton" or (requested == "auto" and device.type == "cuda") else "cpp"


def runs_compiled(*tensors: Tensor, why_not: str | None = None, backend: str = "cpp") -> bool:
    """Whether `backend` takes these tensors; where "auto" would have Triton kernels and cannot, a warning says so once.

    Args:
        tensors: operands; for "cpp" all fp32 or all fp64, on the CPU; for "triton" all fp32, on a GPU.
        why_not: a reason of the caller's own against it, e.g. an unsupported configuration.

    Raises:
        BackendError: this very backend was asked for and cannot run this.
    """
    reason = why_not_compiled(*tensors, why_not=why_not, backend=backend)
    if reason and requested_backend() == backend:
        raise BackendError(f"backend {backend} cannot run this: {reason}; use --backend auto or MOLEFLOW_BACKEND=auto")
    if reason and backend == "triton" and requested_backend() == "auto":
        _warn_of_plain_flow(reason)
    return reason is None


@cache  # once a process and reason
def _warn_of_plain_flow(reason: str) -> None:
    logger.warning(
        "the flow runs in plain PyTorch, which is several times slower on a GPU than Triton kernels: %s. Change that, "
        "or take --backend eager (MOLEFLOW_BACKEND=eager) if it is meant",
        reason,
    )


def runs_on_triton(*tensors: Tensor, why_not: str | None = None) -> bool:
    """Whether Triton kernels are the backend here and take these tensors, arguments as for `runs_compiled`.

    It never raises: an operation beside the flow has its definition to fall back to.
    """
    chosen = flow_backend(tensors[0].device) == "triton"
    return chosen and why_not_compiled(*tensors, why_not=why_not, backend="triton") is None


def wants_triton(device: torch.device) -> bool:
    """Whether Triton kernels are to run on tensors of a device where they take them, whatever the dtype."""
    return flow_backend(device) == "triton" and why_not_triton(device.type) is None


def operator_on_triton(tensor: Tensor) -> bool:
    """Inside an operator that a compiled backend was chosen for: whether that is Triton.

    A backward pass on a GPU has a thread of its own, which does not know what was asked for.
    """
    return tensor.is_cuda or runs_on_triton(tensor)


def why_not_compiled(*tensors: Tensor, why_not: str | None = None, backend: str = "cpp") -> str | None:
    """What keeps `backend` from taking these tensors, or None; arguments as for `runs_compiled`."""
    requested = requested_backend()
    if requested not in ("auto", backend):
        return f"backend {requested} was asked for"
    return why_not or _obstacle(tensors, backend)


def _obstacle(tensors: tuple[Tensor, ...], backend: str) -> str | None:
    kinds = {(t.device.type, t.dtype) for t in tensors}
    if len(kinds) != 1:
        return f"operands differ in device or dtype: {sorted(map(str, kinds))}"
    device, dtype = kinds.pop()
    if backend == "triton":
        wrong = f"its state is float32, and the operands are {dtype}" if dtype != torch.float32 else None
        return why_not_triton(device) or wrong
    if device != "cpu":
        return f"it runs on the CPU, and the operands are on {device}"
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, and the operands are {dtype}"
    return None


def why_not_precision(device: str, why_not: str | None = None) -> str | None:
    """What keeps a flow on this type of device from the requested precision, or None.

    Args:
        why_not: what keeps the flow from running compiled, if anything does.
    """
    if product_operands() == "fp32":
        return None
    if requested_backend() not in ("auto", "triton"):
        return f"backend {requested_backend()} was asked for"
    if device != "cuda":
        return f"the device is {device}"
    return why_not or why_not_triton(device)


def why_not_triton(device: str) -> str | None:
    """What keeps any Triton kernel from running on tensors of this type of device, or None; "meta" stands for a GPU."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (pip install triton)"
    if device not in ("cuda", "meta") and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it runs on a GPU, and the operands are on {device}"
    return None
