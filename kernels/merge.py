"""LoRA merged into a weight, W + scaling * B A, written where and in the dtype in which a product reads it."""

import triton
import triton.language as tl
from torch import Tensor

from .products import fitting, precision


@triton.jit
def _merge(
    w_ptr, a_ptr, b_ptr, out_ptr, out_stride, rows, columns, rank, scaling,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_ok, n_ok = m < rows, n < columns
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, rank, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        b = tl.load(b_ptr + m[:, None] * rank + k[None, :], mask=m_ok[:, None] & (k < rank)[None, :], other=0.0)
        a = tl.load(a_ptr + k[:, None] * columns + n[None, :], mask=(k < rank)[:, None] & n_ok[None, :], other=0.0)
        acc = tl.dot(b, a, acc, input_precision=PRECISION)
    ok = m_ok[:, None] & n_ok[None, :]
    w = tl.load(w_ptr + m[:, None] * columns + n[None, :], mask=ok, other=0.0)
    tl.store(out_ptr + m[:, None] * out_stride + n[None, :], (w + scaling * acc).to(out_ptr.dtype.element_ty), mask=ok)


def merge(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float, out: Tensor) -> None:
    """out (M, K) = W + scaling * B A for contiguous fp32 W (M, K), A (r, K) and B (M, r)."""
    rows, columns = weight.shape
    block_m, block_n = fitting(rows, 64), fitting(columns, 64)
    _merge[triton.cdiv(rows, block_m), triton.cdiv(columns, block_n)](
        weight, lora_a, lora_b, out, out.stride(0), rows, columns, lora_a.shape[0], scaling,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=fitting(lora_a.shape[0], 32), PRECISION=precision(lora_a.dtype),
        num_warps=4, num_stages=2,
    )  # fmt: skip
