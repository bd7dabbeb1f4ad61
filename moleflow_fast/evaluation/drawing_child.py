"""python -m moleflow_fast.evaluation.drawing_child: draws the sheets that its input brings, until that is closed.

Input: pairs of a path and a `Sheet`, pickled. Output: for each a line of JSON, null or why there is no file.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import sys
from pathlib import Path

from moleflow_fast.evaluation.sheet import Sheet, draw_sheet
from moleflow_fast.system.files import WriteFailed

_NICE = 10  # training goes first where both want a core


def main() -> None:
    """Ends when its owner does, whatever ends that: then its input closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # its owner's: it still wants what it has sent to be drawn
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICE)
    # Closed between two sheets, within one, or before the answer.
    with contextlib.suppress(EOFError, pickle.UnpicklingError, BrokenPipeError):
        while True:
            file, sheet = pickle.load(sys.stdin.buffer)
            print(json.dumps(_draw(file, sheet)), flush=True)


def _draw(file: Path, sheet: Sheet) -> str | None:
    try:
        draw_sheet(file, sheet)
    except WriteFailed as error:
        return str(error)
    except Exception as error:
        return f"{file} could not be drawn ({type(error).__name__}: {error})"
    return None


if __name__ == "__main__":
    main()
