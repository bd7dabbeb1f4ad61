"""Arrays and sizes that a kernel finds in a table of 64-bit numbers on the device."""

from collections.abc import Iterable

import triton
import triton.language as tl

_ALIGNMENT = 16  # bytes


@triton.jit
def array(entry, ALIGNED: tl.constexpr):
    """Pointer to the fp32 numbers whose address stands at `entry`, with ALIGNED known to start at 16 bytes."""
    pointer = tl.load(entry).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def size(entry, ALIGNED: tl.constexpr):
    """What stands at `entry`, below 2^31, with ALIGNED known to be a multiple of 4."""
    value = tl.load(entry).to(tl.int32)
    if ALIGNED:
        value = tl.multiple_of(value, 4)
    return value


def aligned(offsets: Iterable[int]) -> bool:
    """Whether all of these numbers of bytes are multiples of 16."""
    return all(offset % _ALIGNMENT == 0 for offset in offsets)
