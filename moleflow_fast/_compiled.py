"""The one door to the compiled part."""

from __future__ import annotations

try:
    import moleflow_fast._C as compiled
except ImportError as error:
    raise ImportError(
        "moleflow_fast's compiled part is missing: install the package with `pip install .`. If it is installed, "
        "Python found the source folder first: start elsewhere, or with `python -P`, which leaves the current "
        f"folder out of the search ({error})"
    ) from error

__all__ = ["compiled"]
