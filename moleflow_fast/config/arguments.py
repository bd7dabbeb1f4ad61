"""Options as arguments of a command line. One that is left out is None there and gets its default later."""

from __future__ import annotations

import argparse
import types
from collections.abc import Iterable
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from moleflow_fast.config.option import Option, options_in


def add_groups(parser: argparse.ArgumentParser, cls: type) -> None:
    """An argument for every option of a dataclass, under the headings of their groups."""
    groups: dict[str, Any] = {}
    for name, option in options_in(cls).items():
        if option.group is None:
            continue
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        add_option(groups[option.group], cls, name)


def add_option(group: Any, cls: type, name: str) -> None:
    """The arguments of one option of a dataclass, to a parser or a group of one."""
    option = options_in(cls)[name]
    if isinstance(option.default, bool):
        for argument, value, text in _switch(name, option):
            group.add_argument(argument, dest=name, action="store_const", const=value, default=None, help=text)
        return
    _add_value(group, cls, name, option.help + _default(option))


def add_evaluation_options(parser: argparse.ArgumentParser, cls: type) -> None:
    """The options with which a run may be evaluated otherwise than it was trained."""
    for name, option in options_in(cls).items():
        if option.environment:
            _add_value(parser, cls, name, f"{option.help} (default ${option.environment.variable} or the run's)")
        elif isinstance(option.default, bool) and option.evaluate:
            parser.add_argument(f"--{name}", action="store_const", const=True, help=option.evaluate)
        elif option.evaluate:
            _add_value(parser, cls, name, option.evaluate)


def given_options(args: argparse.Namespace, cls: type) -> dict[str, Any]:
    """Name -> value of the options of a dataclass that a command line gives."""
    given = {name: getattr(args, name) for name in options_in(cls) if getattr(args, name, None) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def unsaid(cls: type) -> dict[str, Any]:
    """Options whose value is not the default where a command line leaves them out."""
    return {name: option.command_line for name, option in options_in(cls).items() if option.command_line is not None}


def given_by_environment(cls: type) -> dict[str, Any]:
    """Name -> value of the options of a dataclass that variables of the environment give."""
    read = {name: option.environment.given() for name, option in options_in(cls).items() if option.environment}
    return {name: value for name, value in read.items() if value is not None}


def _switch(name: str, option: Option) -> Iterable[tuple[str, bool, str]]:
    if option.help:
        yield f"--{name}", True, option.help
    if option.off:
        yield f"--no_{name.removeprefix('use_')}", False, option.off


def _add_value(group: Any, cls: type, name: str, text: str) -> None:
    kind, is_list = _kind(_hints(cls)[name])
    many = {"nargs": "+"} if is_list else {}
    choices = options_in(cls)[name].choices or None
    group.add_argument(f"--{name}", type=kind, choices=choices, default=None, help=text.replace("%", "%%"), **many)


_hints = cache(get_type_hints)


def _kind(hint: Any) -> tuple[type, bool]:
    """The type of a value, or of each of several, without None."""
    if isinstance(hint, types.UnionType):
        (hint,) = (one for one in get_args(hint) if one is not types.NoneType)
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    return hint, False


def _default(option: Option) -> str:
    """What help says of it."""
    default = option.default if option.command_line is None else option.command_line
    if default is None:
        return ""
    if option.environment:
        return f" (default ${option.environment.variable} or {default})"
    return f" (default {default})" if option.demo is None else f" (default {default}; demo {option.demo})"
