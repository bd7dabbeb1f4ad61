"""Makes the modules beside this file importable, and puts the machine's rates into the results."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from device import ON_GPU, SMALL  # noqa: E402
from machine import Machine, faster, measure  # noqa: E402

_MACHINE = pytest.StashKey[Machine]()


@pytest.fixture(scope="session", autouse=True)
def machine(request: pytest.FixtureRequest) -> Machine:
    """Measured before the first benchmark, and again after the last."""
    measured = measure()
    request.config.stash[_MACHINE] = measured
    return measured


@pytest.fixture(autouse=True)
def memory_given_back() -> Iterator[None]:
    """A captured step holds gigabytes until it is collected."""
    yield
    gc.collect()
    if ON_GPU:
        torch.cuda.empty_cache()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    output_json["machine"] = faster(config.stash[_MACHINE], measure()).as_dict()
    output_json["small"] = SMALL
