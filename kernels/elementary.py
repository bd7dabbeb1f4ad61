"""What several kernels share: scalar mathematics, the bound of a row."""

# Triton reads annotations of kernels itself, so they are not postponed here.
import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """|relative error| < 3e-7 in fp32, small arguments included; NaN stays NaN."""
    size = tl.abs(x)
    square = x * x
    p = -5.70498872745e-3 * square + 2.06390887954e-2
    p = p * square - 5.37397155531e-2
    p = p * square + 1.33314422036e-1
    p = p * square - 3.33332819422e-1
    near_zero = p * square * x + x
    far = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    return tl.where(size < 0.625, near_zero, tl.where(x < 0.0, -far, far))


@triton.jit
def room(tokens):
    """Tokens a row has room for, `row_stride`, known to the compiler to be a multiple of 16."""
    return tl.cdiv(tokens, 16) * 16
