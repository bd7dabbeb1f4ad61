"""Makes the helpers beside this file importable in importlib mode, where pytest leaves sys.path alone."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import interpreter  # noqa: E402

if torch.cuda.is_available():
    # Torch's default lets convolutions round to tf32, and definitions are to be exact.
    torch.backends.cudnn.allow_tf32 = False
else:
    # Read when a kernel is decorated, so before any test imports one: without a GPU kernels run in the interpreter.
    os.environ["TRITON_INTERPRET"] = "1"
    interpreter.patch_once_a_launch()

# Ray's workers are nice to everything else: beside other tests on every core they would wait for ever.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's spelling)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every case, also those that a shorter one stands for")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `full` need --full; on a GPU, where none is interpreted, they always run."""
    if config.getoption("--full") or torch.cuda.is_available():
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    items[:] = [item for item in items if not item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=left_out)
