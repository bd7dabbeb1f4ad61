"""Values read back from a file against the types that a dataclass gives its fields."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints


def require_types(cls: type, values: Mapping[str, Any]) -> None:
    """Raise TypeError, naming the field, unless each value is one that JSON has for its field's type."""
    hints = get_type_hints(cls)
    for name, value in values.items():
        if name not in hints:
            raise TypeError(f"unknown option {name!r:.60}")
        if not _fits(value, hints[name]):
            raise TypeError(f"{name} is {value!r:.60}")


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_fits(item, get_args(kind)[0]) for item in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
