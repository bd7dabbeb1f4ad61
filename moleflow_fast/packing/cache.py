"""Packed forms of frozen flows, kept as long as nothing behind them changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from moleflow_fast.models.expert import FlowModules
from moleflow_fast.packing.packer import Packed, Packer
from moleflow_fast.packing.seen import Seen
from moleflow_fast.packing.target import Target

_Key = tuple[int | None, Target]  # of a task


class PackCache:
    """Keeps the packed form of each task while nothing behind it can have changed (see `Seen`)."""

    def __init__(self) -> None:
        self._kept: dict[_Key, tuple[Packed, Seen]] = {}
        self._seen: dict[int | None, tuple[FlowModules, Seen]] = {}
        self._held: dict[_Key, Packed] | None = None
        self._packer = Packer()
        self.forgotten = 0
        """How often anything was forgotten: what was built of packed forms before is then in doubt."""
        self._lock = threading.Lock()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Pack each task at most once in the block, in which no parameter may change."""
        self._held = {}
        try:
            yield
        finally:
            self._held = None

    def get(self, flow: FlowModules, target: Target) -> Packed:
        held, key = self._held, (flow.task_id, target)
        if held is None:
            return self._current(flow, key)
        if key not in held:
            held[key] = self._current(flow, key)
        return held[key]

    def seen(self, flow: FlowModules) -> Seen | None:
        """How the flow was when last packed, if it is so still and frozen."""
        known = self._seen.get(flow.task_id)
        return known[1] if known is not None and known[0] == flow and known[1].unchanged() else None

    def forget(self) -> None:
        """Of every task: what trains may be the base, which all share."""
        with self._lock:
            self.forgotten += 1
            self._seen, self._kept = {}, {}

    def _current(self, flow: FlowModules, key: _Key) -> Packed:
        seen = self.seen(flow)
        if seen is None:
            seen = Seen([flow])
            if not seen.unchanged():  # something trains
                self.forget()
                return self._packer.pack(flow, key[1])
        with self._lock:
            known = self._kept.get(key)
            if known is None or known[1] is not seen:
                known = self._kept[key] = (self._packer.pack(flow, key[1]), seen)
                self._seen[flow.task_id] = (flow, seen)
            return known[0]
