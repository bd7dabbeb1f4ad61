"""Options that say above which score an image is defective: one number for all products, or numbers by product."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from moleflow_fast.errors import UserError

ALL = ""  # in place of a product: those that are not named
Level = float | Mapping[str, float]
"""One number for all products, or numbers by product, with `ALL` for the others."""

_OPTIONS = ("--threshold", "--false_alarms")
_THRESHOLD = """\
calibrated score above which an image is defective, 0..1 (default 0.5, passed by one normal image in 20); for all
products, or by product: --threshold 0.6, --threshold bolt=0.6 nut=0.7, --threshold 0.5 bolt=0.6. A number beyond 0..1
is a raw score from which on images of that product are defective: as in the column score of scores.csv, or
image_threshold in RUN/evaluation/*.csv, which gave the best F1 there (bolt=412.7)"""
_FALSE_ALARMS = """\
in place of --threshold: the fraction of normal images that may be called defective; 0.01 is one in a hundred. For all
products, or by product: --false_alarms 0.01, --false_alarms bolt=0.001 nut=0.01. n normal images cannot tell rates
below 1 in n + 1; then the smallest that they can tell is taken, and said"""


def add_threshold_options(parser: argparse.ArgumentParser) -> None:
    """`--threshold` and `--false_alarms`; they want a list of arguments that went through `separated`."""
    for option, text in zip(_OPTIONS, (_THRESHOLD, _FALSE_ALARMS), strict=True):
        words = " ".join(text.split())
        parser.add_argument(option, action="append", type=_named, metavar="[PRODUCT=]NUMBER", help=words)


def separated(argv: Sequence[str]) -> list[str]:
    """Each value of these options behind the option itself: what follows the last one may be a file."""
    words: list[str] = []
    option = None
    for word in argv:
        if option is not None and _value(word) is not None:
            if words[-1] == option:
                words.pop()
            words.append(f"{option}={word}")
            continue
        option = word if word in _OPTIONS else None
        words.append(word)
    return words


def level_of(given: Sequence[tuple[str, float]] | None, option: str) -> Level | None:
    """The values of an option.

    Raises:
        UserError: two of them are of the same product, or of all.
    """
    if given is None:
        return None
    names = [name for name, _ in given]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{option} for {twice[0] or 'all products'} is given twice: leave one out")
    return dict(given) if any(names) else given[0][1]


def _value(text: str) -> float | None:
    try:
        return float(text.rpartition("=")[2])
    except ValueError:
        return None


def _named(text: str) -> tuple[str, float]:
    value = _value(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor PRODUCT=NUMBER")
    return text.rpartition("=")[0], value
