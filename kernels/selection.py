"""The k largest of a row of fp32, exactly and without a sort: the bits of the k-th are found one at a time.

Numbers are compared by keys, unsigned integers in their order; NaN has the key of +inf.
"""

# Triton reads annotations of kernels itself, so they are not postponed here.
import triton
import triton.language as tl


@triton.jit
def keys(x):
    """uint32 in the order of x."""
    bits = tl.where(x != x, float("inf"), x).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, ~bits, bits ^ -0x80000000).to(tl.uint32, bitcast=True)


@triton.jit
def value(key):
    """The number whose key this is."""
    bits = key.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ -0x80000000, ~bits).to(tl.float32, bitcast=True)


@triton.jit
def _count(x_ptr, size, least, BLOCK: tl.constexpr):
    """How many of x (size,) have a key of at least `least`."""
    counts = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + at, mask=at < size, other=0.0)
        counts += ((at < size) & (keys(x) >= least)).to(tl.int32)
    return tl.sum(counts, 0)


@triton.jit
def kth_largest(x_ptr, size, k, BLOCK: tl.constexpr):
    """Key of the k-th largest of x (size,), 1 <= k <= size."""
    # The k-th largest key is the greatest that k numbers reach.
    kth = tl.full([], 0, tl.uint32)
    bit = tl.full([], 0x80000000, tl.uint32)
    for _ in range(32):
        kth = tl.where(_count(x_ptr, size, kth | bit, BLOCK) >= k, kth | bit, kth)
        bit = bit >> 1
    return kth


@triton.jit
def at_rank_below(x_ptr, size, k, above, BLOCK: tl.constexpr):
    """Key of the k-th largest of x (size,), where `above` is that of the k-th or of the one before it."""
    largest = tl.zeros((BLOCK,), tl.uint32)
    reach = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        key = keys(tl.load(x_ptr + at, mask=at < size, other=0.0))
        reach += ((at < size) & (key >= above)).to(tl.int32)
        largest = tl.where((at < size) & (key < above) & (key > largest), key, largest)
    return tl.where(tl.sum(reach, 0) >= k, above, tl.max(largest, 0))


@triton.jit
def room_for_ties(x_ptr, size, k, kth, BLOCK: tl.constexpr):
    """How many of the numbers that equal the k-th largest are among the k."""
    return k - _count(x_ptr, size, kth + 1, BLOCK)


@triton.jit
def choose(x, ok, kth, room, ties):
    """Which of a block of numbers belong to the k largest, the first `room` among equals.

    Returns:
        The choice, and how many equals there were up to here; `ties` is how many the blocks before had.
    """
    key = keys(x)
    equal = (ok & (key == kth)).to(tl.int32)
    place = ties + tl.cumsum(equal, 0)
    return (ok & (key > kth)) | ((equal > 0) & (place <= room)), ties + tl.sum(equal, 0)
