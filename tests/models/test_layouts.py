"""Layouts that reach torch's pooling: of channels-last planes with padding its gradient is wrong on CUDA in torch 2.11.

Every gradient on a GPU is compared in `test_golden_nf.py`; this needs none.
"""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moleflow_fast.backend import use_backend
from moleflow_fast.config import AblationConfig
from moleflow_fast.config.switches import SPATIAL_CONTEXT_MODES
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF


class PooledPlanes(TorchDispatchMode):
    """Notes backward passes of pooling, and fails on planes (B, C, H, W) that are not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if "pool" in name and "backward" in name:
            self.seen.append(name)
            layouts = [(tuple(a.shape), a.stride()) for a in args if isinstance(a, torch.Tensor)]
            assert all(a.is_contiguous() for a in args if isinstance(a, torch.Tensor)), f"{name} of {layouts}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", ["eager", "cpp"])
@pytest.mark.parametrize("mode", SPATIAL_CONTEXT_MODES)
def test_pooling_meets_contiguous_planes(mode: str, backend: str) -> None:
    torch.manual_seed(0)
    model = MoLESpatialAwareNF(8, 1, lora_rank=2, ablation_config=AblationConfig(spatial_context_mode=mode))
    model.add_task(0)
    x = torch.randn(2, 3, 5, 8, requires_grad=True)
    with use_backend(backend), PooledPlanes() as pooled:
        z, logdet = model(x)
        (z.square().mean() - logdet.mean()).backward()
    assert bool(pooled.seen) == (backend == "eager" and mode in ("local_stats", "full"))
