"""Makes the modules beside this file importable, and keeps rows and the machine's rates (row_file.py)."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from device import ON_GPU, SMALL  # noqa: E402
from machine import measure  # noqa: E402
from row_file import append, pytest_runtest_makereport  # noqa: E402, F401 (a hook)


@pytest.fixture(scope="session", autouse=True)
def machine() -> Iterator[None]:
    """Measured before the first benchmark, and again after the last."""
    append({"machine": measure().as_dict(), "small": SMALL})
    yield
    append({"machine": measure().as_dict(), "small": SMALL})


@pytest.fixture(autouse=True)
def memory_given_back() -> Iterator[None]:
    """A captured step holds gigabytes until it is collected."""
    yield
    gc.collect()
    if ON_GPU:
        torch.cuda.empty_cache()
