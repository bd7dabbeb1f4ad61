"""The base of every error that a user can mend, and names of files as text."""

from __future__ import annotations

import os
from pathlib import Path


class UserError(Exception):
    """Its text names what is wrong (file or option) and the remedy; commands print it without a traceback."""


def shown(text: Path | int | str) -> str:
    """A file name, or a text with some, for any terminal, table or file; bytes that are no UTF-8 as escapes."""
    return os.fsencode(str(text)).decode("utf-8", "backslashreplace")
