"""Training images as if they were new: each behind a Gaussian front that was estimated without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from moleflow_fast.data.stitching import of_pictures, picture_count
from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.models.gaussian_front import GaussianFront
from moleflow_fast.trainer.feature_loader import FeatureSource

_FOLDS = 5
_BATCH = 32


def folds(n: int) -> int:
    """In how many parts n images are left out in turn: at least 5, and more of fewer images, up to one each.

    Leaving out a fifth of 20 images makes the others' fronts so much poorer that scores of those left out are 2.8% too
    high; one of 20 leaves 0.2%.
    """
    return min(n, max(_FOLDS, 400 // n))


def cross_fitted(
    front: GaussianFront, source: FeatureSource, prepare: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image of a source once, behind a front of others alone, see `folds`.

    Args:
        front: says how many channels and directions, and where; it is not used.
        prepare: features to what a front takes.

    Yields:
        Indices (n,) and white patches (n, H, W, D), a few images at a time; nothing where there is but one picture.
        Squares of one picture overlap: they are left out together.
    """
    everyone = torch.arange(len(source))
    pictures = of_pictures(source)
    owners = everyone if pictures is None else pictures.owners
    parts = folds(picture_count(source)) if picture_count(source) > 1 else 0
    for fold in range(parts):
        held_out = owners % parts == fold
        others = GaussianFront(front.channels, front.n_directions).to(front.whitener)
        kept = list(everyone[~held_out].split(_BATCH))
        others.fit(partial(_prepared, source, kept, prepare))
        batches = list(everyone[held_out].split(_BATCH))
        for indices, (patches, _) in zip(batches, source.batches(batches), strict=True):
            yield indices, others(prepare(patches))


@torch.no_grad()
def cross_fitted_maps(moleflow: MoLEFlow, task_id: int, source: FeatureSource) -> Tensor:
    """-log p per patch (N, H, W) of the training images of a task with a Gaussian front, as if they were new."""
    front = moleflow.flow.front(task_id)
    assert front is not None
    maps = torch.empty(len(source), *front.grid, device=moleflow.device)
    for indices, white in cross_fitted(front, source, moleflow.add_positions):
        maps[indices] = moleflow.maps_of_conditioned(task_id, white)
    return maps


def _prepared(source: FeatureSource, batches: list[Tensor], prepare: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    return (prepare(patches) for patches, _ in source.batches(batches))
