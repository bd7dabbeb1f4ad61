"""What a program has set of torch and of random numbers, left as it is by a library that works inside of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch


@contextmanager
def plain_modes() -> Iterator[None]:
    """In the block this thread's modes are those that a program starts with.

    No inference mode, no `no_grad`, no autocast, no default device.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def as_at_start(device: str) -> Iterator[None]:
    """As `plain_modes`, with fp32 for default dtype, and at the end the random state of torch, NumPy and Python again.

    The default dtype and random state are the process's: its other threads see the block's meanwhile.

    Args:
        device: what is computed on.
    """
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.init()  # seeds that wait for that are the caller's
    dtype, numpys, pythons = torch.get_default_dtype(), np.random.get_state(), random.getstate()
    torchs, cudas = torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    torch.set_default_dtype(torch.float32)
    try:
        with plain_modes():
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_rng_state(torchs)
        torch.cuda.set_rng_state_all(cudas)
        np.random.set_state(numpys)
        random.setstate(pythons)
