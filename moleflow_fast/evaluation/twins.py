"""Products that routing cannot tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from torch import Tensor

_CONFUSED = 0.1  # of the test images of two products


def twins(confusion: Tensor, tasks: Sequence[Sequence[str]]) -> Iterator[str]:
    """A sentence, with the remedy, for each two tasks that take one in ten of each other's test images.

    Args:
        confusion: (tasks, tasks), row true, column routed.
        tasks: the classes of each.
    """
    for a, b in combinations(range(len(tasks)), 2):
        swapped, images = int(confusion[a, b] + confusion[b, a]), int(confusion[[a, b]].sum())
        if swapped and swapped >= _CONFUSED * images:
            first, second = (", ".join(tasks[t]) for t in (a, b))
            yield (
                f"{first} and {second} look alike to the router, which took {_share(confusion, a, b)} of {first} for "
                f"{second} and {_share(confusion, b, a)} of {second} for {first}: where the line knows what it sees, "
                f"say so (moleflow predict ... --product {tasks[a][0]})"
            )


def _share(confusion: Tensor, of: int, to: int) -> str:
    return f"{int(confusion[of, to])} of {int(confusion[of].sum())} test images"
