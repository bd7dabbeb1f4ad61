"""Windows of a k x k convolution over rows of tokens, each read once.

Tokens are taken in groups of SPAN consecutive ones, which SPAN, a divisor of the width, keeps within a line. A group's
window in a line is one wide load and its two edges. Shifted by a token a load is SPAN narrow ones, whose lanes lie SPAN
tokens apart: with eight a thread (bf16 results) an H200 took 53 us where four a thread (fp32 results) took 37.
"""

# Triton reads annotations of kernels itself, so they are not postponed here.
import triton
import triton.language as tl


@triton.jit
def load_group(ptr, ok, SPAN: tl.constexpr):
    """SPAN tensors (G,) in fp32, the values from each of ptr (G,) on; zero where not ok."""
    if SPAN == 1:
        values = (tl.load(ptr, mask=ok, other=0.0).to(tl.float32),)
    else:
        x = tl.load(ptr[:, None] + tl.arange(0, SPAN)[None, :], mask=ok[:, None], other=0.0).to(tl.float32)
        if SPAN == 2:
            values = tl.split(x)
        else:
            even, odd = tl.split(tl.reshape(x, (x.shape[0], 2, 2)))
            first, third = tl.split(even)
            second, fourth = tl.split(odd)
            values = (first, second, third, fourth)
    return values


@triton.jit
def store_group(ptr, values, ok, SPAN: tl.constexpr):
    """The other way round, cast to what ptr points at."""
    dtype: tl.constexpr = ptr.dtype.element_ty
    if SPAN == 1:
        tl.store(ptr, values[0].to(dtype), mask=ok)
    else:
        if SPAN == 2:
            x = tl.join(values[0], values[1])
        else:
            even, odd = tl.join(values[0], values[2]), tl.join(values[1], values[3])
            x = tl.reshape(tl.join(even, odd), (ok.shape[0], 4))
        tl.store(ptr[:, None] + tl.arange(0, SPAN)[None, :], x.to(dtype), mask=ok[:, None])


@triton.jit
def place(group, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr):
    """Line and first column, within its image, of group number `group`."""
    return group // (WIDTH // SPAN) % HEIGHT, group % (WIDTH // SPAN) * SPAN


@triton.jit
def load_window(
    ptr, line, column, ok, affine, down: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, KERNEL: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """SPAN + KERNEL - 1 tensors (G,): the tokens `down` lines below each group, from KERNEL // 2 before it.

    What lies outside the image is zero; the rest is scaled and shifted by `affine`, (scale, offset) or None.
    """
    reach: tl.constexpr = KERNEL // 2
    there = ok & (line + down >= 0) & (line + down < HEIGHT)
    ptr += down * WIDTH
    values = ()
    for edge in tl.static_range(-reach, 0):
        inside = there & (column + edge >= 0)
        values = values + (_moved(tl.load(ptr + edge, mask=inside, other=0.0).to(tl.float32), inside, affine),)
    own = load_group(ptr, there, SPAN)
    for index in tl.static_range(SPAN):
        values = values + (_moved(own[index], there, affine),)
    for edge in tl.static_range(SPAN, SPAN + reach):
        inside = there & (column + edge < WIDTH)
        values = values + (_moved(tl.load(ptr + edge, mask=inside, other=0.0).to(tl.float32), inside, affine),)
    return values


@triton.jit
def convolve(totals, values, taps, down: tl.constexpr, KERNEL: tl.constexpr, SPAN: tl.constexpr):
    """totals, SPAN tensors (G,), with what the window's line `down` adds; taps are k * k numbers."""
    first: tl.constexpr = (down + KERNEL // 2) * KERNEL
    added = ()
    for index in tl.static_range(SPAN):
        total = totals[index]
        for tap in tl.static_range(KERNEL):
            total += taps[first + tap] * values[index + tap]
        added = added + (total,)
    return added


@triton.jit
def load_taps(ptr, stride, ok, KERNEL: tl.constexpr, FLIPPED: tl.constexpr):
    """k * k numbers, or tensors where ptr is one and `ok` its mask; reversed they are the transposed convolution's."""
    taps = ()
    for tap in tl.static_range(KERNEL * KERNEL):
        taps = taps + (tl.load(ptr + (KERNEL * KERNEL - 1 - tap if FLIPPED else tap) * stride, mask=ok),)
    return taps


@triton.jit
def _moved(value, inside, affine):
    if affine is not None:
        value = tl.where(inside, value * affine[0] + affine[1], 0.0)
    return value


def span(width: int) -> int:
    """Tokens of a group in lines of `width`."""
    return 4 if width % 4 == 0 else 2 if width % 2 == 0 else 1
