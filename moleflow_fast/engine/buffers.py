"""Memory for what a chunk of tokens leaves between two steps."""

from __future__ import annotations

from torch import Tensor


class Buffers:
    """Hands out uninitialised (n, width) tensors, the same ones again under the same name.

    Fresh memory costs a page fault every 4 KB: for the hidden layers of a block as much as its elementwise work.
    """

    def __init__(self, like: Tensor, rows: int, keep: bool) -> None:
        self.rows = rows
        self._like = like
        self.keep = keep
        self._known: dict[str, Tensor] = {}

    def scratch(self, name: str, width: int) -> Tensor:
        """A buffer whose contents last until the next use of its name."""
        known = self._known.get(name)
        if known is None or known.shape[1] != width:
            known = self._known[name] = self._like.new_empty(self.rows, width)
        return known

    def kept(self, name: str, width: int) -> Tensor:
        """A buffer that backward will read: a new one where there is to be a backward."""
        return self._like.new_empty(self.rows, width) if self.keep else self.scratch(name, width)
