"""Names of a package whose modules are imported when one is first asked for: most take torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names_of(package: str, module_of: Mapping[str, str]) -> Callable[[str], Any]:
    """What a package takes as its `__getattr__`.

    Args:
        module_of: name -> module below the package.
    """

    def find(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return find
