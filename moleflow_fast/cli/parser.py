"""The parser of every command: one form of help, and mistakes answered with what was probably meant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from moleflow_fast.cli.commands import COMMANDS, command
from moleflow_fast.cli.mistyped import did_you_mean

FINE, FAILED, MISTYPED = 0, 1, 2
EXIT_CODES = """\
exit codes: 0 done, 1 an error and its remedy were printed, 2 the command line is wrong, 130 ended by Ctrl-C,
143 ended by SIGTERM"""


class CommandParser(argparse.ArgumentParser):
    """Of `moleflow NAME`.

    Args:
        name: of the command.
        usage: what follows it, e.g. "RUN [options]".
        description: in lines of at most 120 columns.
        notes: below the options, e.g. examples.
        exit_codes: what the command ends with.
        mistyped: the one for a command line that is wrong.
        beside: takes the options that this parser leaves.
    """

    def __init__(
        self,
        name: str,
        usage: str,
        description: str,
        notes: str = "",
        exit_codes: str = EXIT_CODES,
        mistyped: int = MISTYPED,
        beside: argparse.ArgumentParser | None = None,
    ) -> None:
        super().__init__(
            prog=f"moleflow {name}",
            usage=f"moleflow {name} {usage}".strip(),
            description=description.strip(),
            epilog="\n\n".join(filter(None, (notes.strip(), exit_codes))),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._mistyped = mistyped
        self._beside = beside

    @property
    def options(self) -> set[str]:
        """All that it takes, e.g. "--device"."""
        return {name for action in self._actions for name in action.option_strings}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        self._require_known(words)
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ")
        self.exit(self._mistyped, f"error: {text}\nsee {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        text = f"invalid choice: {str(value)!r}{did_you_mean(str(value), choices)} (choose from {', '.join(choices)})"
        raise argparse.ArgumentError(action, text)

    def _require_known(self, words: Sequence[str]) -> None:
        """Before argparse, which would first complain of what is missing because an option's name is mistyped."""
        known = self.options | (set() if self._beside is None else set(self._beside._option_string_actions))
        if {"-h", "--help"}.intersection(words):
            return
        for word in words:
            name = word.partition("=")[0]
            if name == "--":
                return
            if name.startswith("--") and name not in known:
                self.error(f"unrecognized option {name}{_hint(name, known)}")


def _hint(option: str, known: set[str]) -> str:
    """Where the option belongs, else which one was meant."""
    owners = [f"moleflow {name}" for name in COMMANDS if option in command(name).build_parser().options]
    if owners:
        return f"; it is an option of {', '.join(owners)}"
    return did_you_mean(option, sorted(known))
