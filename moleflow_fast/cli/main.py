"""The program `moleflow`: which command is asked for. Nothing is imported but that command."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from moleflow_fast.cli.commands import COMMANDS, RARE, USUAL, command
from moleflow_fast.cli.mistyped import did_you_mean
from moleflow_fast.cli.parser import MISTYPED

_OVERVIEW = """\
moleflow learns product categories one after another and finds defects in all of them.

  moleflow demo                                       see it work on synthetic images, in a few minutes
  moleflow train --dataset folder --data_path parts   learn your own products: parts/<product>/train/good/*.png, ...

commands, in the order in which one needs them:
{usual}

seldom needed:
{rare}

moleflow COMMAND --help, or moleflow help COMMAND, shows a command's options and examples.
moleflow --version shows versions, the GPU and the compiled part.
moleflow COMMAND is the same as python -m moleflow_fast.COMMAND."""

_HELP = ("-h", "--help", "help")


def main(argv: list[str] | None = None) -> int:
    """The exit code of the command; argparse ends the program where a command line is wrong.

    Args:
        argv: its name and its arguments; those of the process if None.
    """
    words = sys.argv[1:] if argv is None else argv
    first, *rest = words or _HELP
    if first in _HELP:
        named = [word for word in rest if word not in _HELP]
        return main([named[0], "--help"]) if named else _overview()
    if first == "--version":
        from moleflow_fast.cli.version import version

        return version()
    if first not in COMMANDS:
        return _unknown(first)
    if argv is not None:
        return int(command(first).main(rest))
    del sys.argv[1]  # what is left are the command's own, as with `python -m`
    return int(command(first).main())


def _overview() -> int:
    print(_OVERVIEW.format(usual=_lines(USUAL), rare=_lines(RARE)))
    return 0


def _lines(commands: Mapping[str, str]) -> str:
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(f"  {name:<{width}}{text}" for name, text in commands.items())


def _unknown(word: str) -> int:
    if word.startswith("-"):
        option = word.partition("=")[0]
        owner = next((name for name in COMMANDS if option in command(name).build_parser().options), None)
        meant = f"; did you mean moleflow {owner} {option}?" if owner else did_you_mean(option, ("--help", "--version"))
        text = f"unrecognized option {option}{meant}"
    else:
        text = f"no command {word!r}{did_you_mean(word, COMMANDS)}"
    print(f"error: {text}\nsee moleflow --help", file=sys.stderr)
    return MISTYPED
