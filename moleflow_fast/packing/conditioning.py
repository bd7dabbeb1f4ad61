"""What stands between patches and the flow of several tasks at once: each image's input adapter, and the mixer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from moleflow_fast.models.adapters import GaussianFront, SpatialContextMixer, WhiteningAdapter
from moleflow_fast.models.expert import Expert
from moleflow_fast.ops.depthwise import depthwise
from moleflow_fast.ops.gaussian_front import FrontsByTask
from moleflow_fast.ops.snapshot import Snapshot
from moleflow_fast.ops.whitening import whitening_by_task


def adapters_of(experts: Sequence[Expert]) -> list[nn.Module]:
    """Their input adapters, as far as they have any."""
    return [expert.adapter for expert in experts if expert.adapter is not None]


def tensors_around(experts: Sequence[Expert]) -> Iterator[Tensor]:
    """Parameters and buffers of the adapters of experts, and of the mixer that they share."""
    return _tensors_of(adapters_of(experts), experts[0].mixer)


def why_not_alike(adapters: Sequence[nn.Module]) -> str | None:
    """Why these adapters cannot be applied in one pass, or None."""
    kinds = {type(adapter) for adapter in adapters}
    if kinds <= {WhiteningAdapter}:
        return None
    fronts = [adapter for adapter in adapters if isinstance(adapter, GaussianFront)]
    if len(fronts) < len(adapters):
        return "its input adapters are neither whitening ones nor Gaussian fronts"
    if len({front.directions.shape for front in fronts}) > 1 or fronts[0].grid == (0, 0):
        return "its Gaussian fronts are not all fitted on one grid of patches"
    return None


class Conditions:
    """Adapters of several tasks and a mixer, with what their tensors come to: nothing of it is computed a batch.

    Of Gaussian fronts it keeps the means beside the positions, see `FrontsByTask`; their directions stay where they
    are.
    """

    def __init__(self, adapters: Sequence[nn.Module], mixer: SpatialContextMixer | None) -> None:
        self.front: GaussianFront | None = None  # one of them
        self.fronts: FrontsByTask | None = None
        self.scale: Tensor | None = None  # (T, D)
        self.shift: Tensor | None = None  # (T, D)
        fronts = [adapter for adapter in adapters if isinstance(adapter, GaussianFront)]
        pairs = [adapter.scale_and_shift() for adapter in adapters if isinstance(adapter, WhiteningAdapter)]
        if fronts:
            self.front, self.fronts = fronts[0], FrontsByTask([front.tensors() for front in fronts])
        if pairs:
            self.scale, self.shift = (torch.stack(own) for own in zip(*pairs, strict=True))
        self.mixer = mixer
        taps = None if mixer is None else mixer.as_convolution()
        self.taps = None if taps is None else (taps[0].contiguous(), taps[1])

    def apply(self, x: Tensor, chosen: Tensor, positions: Tensor | None) -> Tensor:
        """What the flow takes of image b of patches (B, H, W, D) under adapter chosen[b], (B,) int32.

        Raises:
            ValueError: x is of another grid than the Gaussian fronts.
        """
        if self.front is not None and self.fronts is not None:
            self.front.require_grid(x)
            x = self.fronts(x, chosen, positions)
        elif self.scale is not None and self.shift is not None:
            x = whitening_by_task(x, self.scale, self.shift, chosen, positions)
        elif positions is not None:
            x = x + positions
        if self.mixer is None:
            return x
        return self.mixer(x) if self.taps is None else depthwise(x, *self.taps)


class ConditionCache:
    """The conditions last asked for, made anew once a tensor is another, was written to, or trains."""

    def __init__(self) -> None:
        # Both change in one assignment: another thread may be reading.
        self._built: tuple[Snapshot, Conditions | None] = (Snapshot(), None)

    @torch.no_grad()
    def of(self, adapters: Sequence[nn.Module], mixer: SpatialContextMixer | None) -> Conditions:
        """The same object as long as nothing behind it has changed."""
        tensors = list(_tensors_of(adapters, mixer))
        seen, known = self._built
        if known is None or any(t.requires_grad for t in tensors) or not seen.still(tensors):
            known = Conditions(adapters, mixer)
            self._built = (Snapshot(tensors), known)
        return known


def _tensors_of(adapters: Sequence[nn.Module], mixer: nn.Module | None) -> Iterator[Tensor]:
    modules = [*adapters, *([] if mixer is None else [mixer])]
    return chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
