"""One run of a sweep inside a worker process."""

from __future__ import annotations

import logging
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.system.heavy_imports import heavy_imports


@dataclass(frozen=True)
class Attempt:
    """How a try at a run ended: `error` is None where it finished."""

    seconds: float
    error: str | None


def attempt_run(options: dict[str, Any], log: str, threads: int) -> Attempt:
    """Start a run or go on with it; what it says goes to the file `log`."""
    started = time.perf_counter()
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, stream=file, force=True)
        error = _error_of(options, threads)
    return Attempt(time.perf_counter() - started, error)


def _error_of(options: dict[str, Any], threads: int) -> str | None:
    try:
        _execute(RunOptions.from_json(options), threads)
    except UserError as error:
        print(f"error: {error}")
        return str(error)
    except Exception as error:  # whatever it is, it belongs to this run: the others go on
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def _execute(options: RunOptions, threads: int) -> None:
    with heavy_imports():
        import torch

        from moleflow_fast.run.session import ContinualRun

    torch.set_num_threads(threads)
    started = (Path(options.log_dir) / options.run_name / "config.json").exists()
    ContinualRun(replace(options, resume=started, quiet=True)).execute()
