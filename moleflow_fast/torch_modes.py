"""What a caller may have switched in torch, and a run must not depend on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def own_modes() -> Iterator[None]:
    """In the block torch is as a fresh process finds it: gradients, no inference mode, no autocast, fp32 by default."""
    dtype = torch.get_default_dtype()
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        torch.set_default_dtype(torch.float32)
        modes.callback(torch.set_default_dtype, dtype)
        yield
