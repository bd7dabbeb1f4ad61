"""What a training step on the device knows of its loss: whether the batch may count, and the sums over an epoch."""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _judge(loss_ptr, held_ptr, skip_ptr, largest):
    loss = tl.load(loss_ptr)
    usable = (loss > float("-inf")) & (loss <= largest)  # neither holds for NaN
    tl.store(skip_ptr, ((usable == 0) | (tl.load(held_ptr) != 0)).to(tl.uint8))


@triton.jit
def _count(loss_ptr, held_ptr, skipped_ptr, totals_ptr):
    held, skipped = tl.load(held_ptr) != 0, tl.load(skipped_ptr)
    value = tl.where(skipped == 0.0, tl.load(loss_ptr).to(tl.float64), 0.0)
    _add(totals_ptr, tl.where(held, 0.0, value))
    _add(totals_ptr + 1, tl.where(held, 0.0, 1.0 - skipped))
    _add(totals_ptr + 2, tl.where(held, 0.0, skipped))


@triton.jit
def _add(total_ptr, value):
    tl.store(total_ptr, tl.load(total_ptr) + value)


def judge(loss: Tensor, held: Tensor, largest: float, skip: Tensor) -> None:
    """skip (1,) uint8 = 1 where the loss () fp32 is not finite or above `largest`, or `held` (1,) uint8 is set."""
    _judge[(1,)](loss, held, skip, largest)


def count(loss: Tensor, held: Tensor, skipped: Tensor, totals: Tensor) -> None:
    """Add to totals (3,) fp64 the loss of a step that counted, and 1 to those that counted or to those skipped.

    Args:
        held: (1,) uint8; where it is set nothing is added.
        skipped: (), fp64, 1 where the step was skipped.
    """
    _count[(1,)](loss, held, skipped, totals)
