"""Triton's interpreter without what it does again and again: a third of the time of a kernel in the tests."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any


def patch_once_a_launch() -> None:
    """Calls of device functions replace the functions of `triton.language` where the launch has not done so.

    Triton looks for them anew in every such call: forward and backward of a small flow are 54 launches with 3,709
    calls, 5.1 s on a CPU, and 3.4 s without, to the same bits.
    """
    with contextlib.suppress(ImportError):  # no Triton on this system: its tests are skipped
        import triton.language as tl
        from triton.runtime import interpreter

        @cache
        def languages(function: Any) -> list[Any]:
            """Those that a function sees: kernels `tl`, and Triton's own functions `tl.core`."""
            return [value for value in function.__globals__.values() if value is tl or value is tl.core]

        def call(function: interpreter.InterpretedFunction, *args: Any, **kwargs: Any) -> Any:
            if any(tl.core.is_builtin(language.load) for language in languages(function.fn)):
                interpreter._patch_lang(function.fn)
            try:
                return function.rewrite()(*args, **kwargs)
            except Exception as e:
                raise interpreter.InterpreterError(repr(e)) from e

        interpreter.InterpretedFunction.__call__ = call
