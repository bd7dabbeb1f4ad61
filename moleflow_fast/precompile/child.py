"""The process that `background` starts: a request on its input, progress on its output; it ends with its parent."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from moleflow_fast.system.heavy_imports import heavy_imports


def main() -> None:
    """One line of JSON in; a line for each kernel done, and last the outcome, out."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    outcome = _compile(request)
    _say(outcome)


def _compile(request: dict[str, Any]) -> dict[str, Any]:
    with heavy_imports():
        from moleflow_fast.config.options import RunOptions
        from moleflow_fast.kernels.ways import use_table
        from moleflow_fast.kernels.ways_table import Table
        from moleflow_fast.precompile.compiling import compile_launches
        from moleflow_fast.precompile.launches import launches
        from moleflow_fast.precompile.workload import Workload

    options, arch = RunOptions.from_json(request["options"]), request["arch"]
    workload = Workload(options, request["dim"], tuple(request["grid"]))
    with use_table(Table.from_json(request["ways"])):
        found = launches(workload.run, arch)
    return compile_launches(found, arch, lambda done, total: _say({"done": done, "total": total}))._asdict()


def _say(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


def _end_with_parent() -> None:
    """The parent writes nothing more: the input ends when the parent does, however that happens."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
