"""Whether tensors are the ones that something was made from, and unwritten since."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


class Snapshot:
    """Tensors as they are now; a write through `.data`, as some optimizers make them, goes unseen."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._tensors = list(tensors)
        # A detached alias keeps the memory alive: an address can then not come back with other contents.
        self._memory = [t.detach() for t in self._tensors]
        self._written = [(t._version, t.data_ptr()) for t in self._tensors]

    def still(self, tensors: Iterable[Tensor]) -> bool:
        """Whether these are the same tensors, with what they held."""
        given = list(tensors)
        same = len(given) == len(self._tensors) and all(a is b for a, b in zip(given, self._tensors, strict=True))
        return same and [(t._version, t.data_ptr()) for t in given] == self._written
