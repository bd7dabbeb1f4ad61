"""Which kernels a function launches, and for which arguments: found on meta tensors, by Triton's own launcher.

The launcher specialises each launch as ever (what is 1, what 16 divides, types, constants) and is stopped where it
would compile. What it was about to compile is kept, so the key in the cache is the launcher's by construction. Triton's
own record of a specialisation, for `JITFunction.preload`, would not do: it takes a constant "bf16" for the type.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import driver
from triton.runtime.jit import JITFunction

_WARP = 32
_numbers = itertools.count()  # a kernel remembers what it knows of a device number


class Launch(NamedTuple):
    """A kernel and one specialisation of it, in Triton's terms."""

    kernel: Any  # triton.runtime.jit.JITFunction
    signature: dict[str, Any]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: Any  # of the backend
    scalars: dict[str, Any]  # arguments that are no tensors, of the first launch that came to this

    def compiled(self, arch: int) -> Any:
        """The kernel for sm_<arch>, from Triton's cache or put there; as `JITFunction.run` has it made."""
        source = ASTSource(self.kernel, self.signature, self.constants, self.attributes)
        return triton.compile(source, target=_target(arch), options=self.options.__dict__)


def launches(run: Callable[[], object], arch: int) -> list[Launch]:
    """Every distinct launch that `run`, on meta tensors, comes to on sm_<arch>, in order.

    Operators of ours run, where torch would only work out the shapes of their results. Whatever the host reads back is
    finite and true: 0 where it is a whole number, such as a task id or an error code, else 1.

    Raises:
        RuntimeError: kernels were decorated for Triton's interpreter (TRITON_INTERPRET=1).
    """
    if knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET=1 leaves nothing to compile: unset it")
    driver.set_active(_StandIn(arch, next(_numbers)))  # from here on this process can launch nothing
    found: dict[tuple[int, str], Launch] = {}
    with _noted(found), _OperatorsRun():
        run()
    return list(found.values())


@contextmanager
def _noted(found: dict[tuple[int, str], Launch]) -> Iterator[None]:
    """In the block launches end up in `found`, by kernel and the launcher's key of the specialisation."""

    def stop(
        kernel: Any, key: str, signature: Any, device: int, constants: Any, options: Any, attributes: Any, warmup: bool
    ) -> None:
        launch = Launch(kernel, signature, constants, attributes, options, dict(given))
        found.setdefault((id(kernel), key), launch)

    def note(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        given.clear()
        arguments = {**dict(zip(kernel.arg_names, args, strict=False)), **options}
        given.update((name, value) for name, value in arguments.items() if isinstance(value, int | float | str))
        launch_it(kernel, *args, grid=grid, warmup=True, **options)

    given: dict[str, Any] = {}
    launch_it, compile_it = JITFunction.run, JITFunction._do_compile
    JITFunction.run, JITFunction._do_compile = note, stop
    try:
        yield
    finally:
        JITFunction.run, JITFunction._do_compile = launch_it, compile_it


def _target(arch: int) -> GPUTarget:
    return GPUTarget("cuda", arch, _WARP)


class _StandIn:
    """As much of a Triton driver as specialising and compiling ask for."""

    def __init__(self, arch: int, number: int) -> None:
        self._target = _target(arch)
        self._number = number

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._number

    def get_current_stream(self, device: int) -> int:
        return 0


class _OperatorsRun(TorchDispatchMode):
    """The package's operators run on meta tensors as on a GPU's, and a host that reads a tensor gets an answer."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "moleflow":
            return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return _answer((), args[0].dtype).item()
        if func is torch.ops.aten._to_copy.default and args[0].is_meta and _to_host(kwargs):
            return _answer(args[0].shape, args[0].dtype).to(kwargs.get("dtype") or args[0].dtype)
        return func(*args, **kwargs)


def _to_host(options: dict[str, Any]) -> bool:
    return options.get("device") is not None and torch.device(options["device"]).type == "cpu"


def _answer(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    whole = not (dtype.is_floating_point or dtype == torch.bool)
    return torch.full(shape, 0 if whole else 1, dtype=dtype)
