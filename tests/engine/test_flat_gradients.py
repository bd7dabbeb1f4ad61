"""Products of gradients on devices that are no GPU."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")
from moleflow_fast.engine.flat_gradients import product  # noqa: E402


class Torch211(TorchDispatchMode):
    """In the block products of 16 bits into fp32 are a GPU's alone, as torch 2.11 has those of batches."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bmm.dtype_out:
            raise NotImplementedError(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch", [(), (3,)])
def test_meta_tensors_have_no_products(batch: tuple[int, ...]) -> None:
    dy, x = torch.empty(2, *batch, 4, 5, dtype=torch.bfloat16, device="meta")
    with Torch211():
        product(dy, x.mT, torch.empty(*batch, 4, 4, device="meta"))


@pytest.mark.parametrize("batch", [(), (3,)])
def test_on_a_cpu_they_are_rounded_once(batch: tuple[int, ...]) -> None:
    dy, x = torch.randn(2, *batch, 4, 5).bfloat16()
    out = torch.full((*batch, 4, 4), torch.nan)
    product(dy, x.mT, out)
    torch.testing.assert_close(out, (dy.double() @ x.double().mT).float(), rtol=1e-6, atol=1e-6)
