"""Which class runs the flow of a new model, by its name: models import no engine, and commands no torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_registered = ""


def register(name: str) -> None:
    """Let new models take the class `name`, "<module>:<class>", which is imported when the first is made."""
    global _registered
    _registered = name


def new_runner() -> Any:
    """An object of the registered class, a `models.flow_runner.FlowRunner`."""
    module, _, name = _registered.partition(":")
    return getattr(import_module(module), name)()
