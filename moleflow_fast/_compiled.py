"""The one door to the compiled part."""

from __future__ import annotations

try:
    import moleflow_fast._C as compiled
except ImportError as error:
    raise ImportError(
        f"moleflow_fast's compiled part cannot be loaded: install the package again with `pip install .` ({error})"
    ) from error

__all__ = ["compiled"]
