"""What stands between patches and the flow of several tasks at once: each image's input adapter, and the mixer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moleflow_fast.models.adapters import SpatialContextMixer, WhiteningAdapter
from moleflow_fast.ops.depthwise import depthwise
from moleflow_fast.ops.whitening import whitening_by_task
from moleflow_fast.snapshot import Snapshot


class Conditions:
    """Adapters of several tasks and a mixer, with what their parameters come to: nothing of it is computed a batch."""

    def __init__(self, adapters: Sequence[WhiteningAdapter], mixer: SpatialContextMixer | None) -> None:
        pairs = [adapter.scale_and_shift() for adapter in adapters]
        self.scale = torch.stack([gamma for gamma, _ in pairs]) if pairs else None  # (T, D)
        self.shift = torch.stack([beta for _, beta in pairs]) if pairs else None  # (T, D)
        self.mixer = mixer
        taps = None if mixer is None else mixer.as_convolution()
        self.taps = None if taps is None else (taps[0].contiguous(), taps[1])

    def apply(self, x: Tensor, chosen: Tensor, positions: Tensor | None) -> Tensor:
        """What the flow takes of image b of patches (B, H, W, D) under adapter chosen[b], (B,) int32."""
        if self.scale is not None and self.shift is not None:
            x = whitening_by_task(x, self.scale, self.shift, chosen, positions)
        elif positions is not None:
            x = x + positions
        if self.mixer is None:
            return x
        return self.mixer(x) if self.taps is None else depthwise(x, *self.taps)


class ConditionCache:
    """The conditions last asked for, made anew once a parameter is another, was written to, or trains."""

    def __init__(self) -> None:
        # Both change in one assignment: another thread may be reading.
        self._built: tuple[Snapshot, Conditions | None] = (Snapshot(), None)

    def __deepcopy__(self, memo: dict) -> ConditionCache:
        return ConditionCache()

    def __reduce__(self) -> tuple[Any, ...]:
        return ConditionCache, ()

    @torch.no_grad()
    def of(self, adapters: Sequence[WhiteningAdapter], mixer: SpatialContextMixer | None) -> Conditions:
        """The same object as long as nothing behind it has changed."""
        parts = [*adapters, *([] if mixer is None else [mixer])]
        parameters = [p for part in parts for p in part.parameters()]
        seen, known = self._built
        if known is None or any(p.requires_grad for p in parameters) or not seen.still(parameters):
            known = Conditions(adapters, mixer)
            self._built = (Snapshot(parameters), known)
        return known
