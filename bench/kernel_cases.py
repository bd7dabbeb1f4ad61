"""The flow's Triton kernels one by one, at the sizes of a coupling block, beside plain PyTorch; by name.

Both sides get the same channel-major operands. tests/bench/test_kernel_cases.py holds their results together,
tests/bench/test_roofline.py the cases to the kernels that there are.
"""

from __future__ import annotations

from collections.abc import Callable

import product_cases
import row_cases
import weight_cases
from cases import Case, Sizes

CASES: dict[str, Callable[[Sizes], Case]] = {**row_cases.CASES, **product_cases.CASES, **weight_cases.CASES}
PRODUCTS = (*product_cases.CASES, *weight_cases.CASES)  # which tf32 changes

__all__ = ["CASES", "PRODUCTS", "Case", "Sizes"]
