"""What a function would launch on a GPU, counted without one: Triton kernels, and torch operators that compute.

Of products, split sums and casts inside a library's call count as the one operator that was called.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that start no kernel, beside views and our own, whose kernels are counted inside.
FREE = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh", "_unsafe_view",
    "_reshape_alias", "scalar_tensor", "set_", "resize_",
}  # fmt: skip
# Ours that are one call of a library on a GPU.
CALLS = {"moleflow::convolution"}


class Launches(TorchDispatchMode):
    """In the block counts launches, by name of the kernel or operator."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._launching = False  # the interpreter copies a kernel's operands

    @property
    def total(self) -> int:
        return self.counts.total()

    def __enter__(self) -> Launches:
        self._interpreted, self._compiled = _launchers()
        for kind in (self._interpreted, self._compiled):
            self._watch(kind)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for kind in (self._interpreted, self._compiled):
            kind.run = kind.run.plain

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in CALLS:
            self.counts[func.name()] += 1
            return func(*args, **(kwargs or {}))
        if func.namespace == "moleflow":
            # A mode does not see what an operator of ours calls, so its function is called in its place.
            with _Inside(self):
                return OPDEFS[func.name()]._init_fn(*args, **(kwargs or {}))
        name, result = func.overloadpacket.__name__, func(*args, **(kwargs or {}))
        if not self._launching and not func.is_view and name not in FREE and _has_elements(result):
            self.counts[f"torch.{name}"] += 1
        return result

    def _watch(self, kind: Any) -> None:
        plain = kind.run

        def run(kernel: Any, *args: Any, **options: Any) -> Any:
            self.counts[kernel.fn.__name__] += 1
            self._launching = True
            try:
                return plain(kernel, *args, **options)
            finally:
                self._launching = False

        run.plain = plain  # type: ignore[attr-defined]
        kind.run = run


class _Inside(TorchDispatchMode):
    """The same counting, one operator deeper."""

    def __init__(self, outer: Launches) -> None:
        super().__init__()
        self._outer = outer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._outer.__torch_dispatch__(func, types, args, kwargs)


@contextlib.contextmanager
def no_interpreting() -> Iterator[None]:
    """In the block the interpreter runs no kernel, where they are only counted: what they write keeps any value."""
    interpreted, _ = _launchers()
    plain, interpreted.run = interpreted.run, lambda *args, **options: None
    try:
        yield
    finally:
        interpreted.run = plain


def _has_elements(result: Any) -> bool:
    results = result if isinstance(result, (tuple, list)) else [result]
    return not results or any(getattr(r, "numel", lambda: 1)() for r in results if r is not None)


def _launchers() -> tuple[Any, Any]:
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    return InterpretedFunction, JITFunction
