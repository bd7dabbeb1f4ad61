"""The kernels that are timed and what they are compared with do the same: on a GPU, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from kernel_cases import CASES, Sizes  # noqa: E402


@pytest.mark.parametrize("channels", [20, 21])
@pytest.mark.parametrize("name", CASES)
def test_same_results(name: str, channels: int) -> None:
    torch.manual_seed(0)
    case = CASES[name](Sizes(channels, (2, 3, 5)))
    for ours, plain in zip(case.kernel(), case.definition(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_work_is_that_of_the_definition() -> None:
    """The ReLU networks of a block: what the flow's counts give for them."""
    from counts import Flow

    sizes, flow = Sizes(20, (2, 3, 5)), Flow(20, blocks=1, dia_blocks=0, rank=1)
    products = [CASES[name](sizes).work.macs for name in ("relu_product", "coupling_product")]
    assert sum(products) == flow.base_macs() * sizes.tokens
