"""Training images as if they were new: each behind a Gaussian front that was estimated without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from moleflow_fast.models.gaussian_front import GaussianFront
from moleflow_fast.trainer.feature_loader import FeatureSource

FOLDS = 5
_BATCH = 32


def cross_fitted(
    front: GaussianFront, source: FeatureSource, prepare: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image of a source once, behind the front of four fifths of the images, of which it is none.

    Args:
        front: says how many channels and directions, and where; it is not used.
        prepare: features to what a front takes.

    Yields:
        Indices (n,) and white patches (n, H, W, D), a few images at a time; nothing where there is but one image.
    """
    everyone = torch.arange(len(source))
    for fold in range(min(FOLDS, len(source)) if len(source) > 1 else 0):
        held_out = everyone % FOLDS == fold
        others = GaussianFront(front.channels, front.n_directions).to(front.whitener)
        kept = list(everyone[~held_out].split(_BATCH))
        others.fit(partial(_prepared, source, kept, prepare))
        batches = list(everyone[held_out].split(_BATCH))
        for indices, (patches, _) in zip(batches, source.batches(batches), strict=True):
            yield indices, others(prepare(patches))


def _prepared(source: FeatureSource, batches: list[Tensor], prepare: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    return (prepare(patches) for patches, _ in source.batches(batches))
