"""What a class's heat map sheet shows, from a scorer and the images on the disk."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moleflow_fast.data.normalization import IMAGENET_MEAN, IMAGENET_STD
from moleflow_fast.evaluation.scorer import Scorer, TestClass
from moleflow_fast.evaluation.sheet import Sheet
from moleflow_fast.models.aggregation import image_scores

_NOTE = "image score under the defect type; colours from the median normal pixel to the hottest shown"
_PIXELS = 100_000  # of normal maps, for their median: within 0.4% of that of all, in a tenth of the time


def sheet_of(scorer: Scorer, test: TestClass, dataset: Any, count: int) -> Sheet:
    """Up to `count` test images under their routed ids; `dataset` holds the pictures of `test`."""
    ids = scorer.route(test)
    patch_maps = scorer.patch_maps(test, ids)
    scores = image_scores(patch_maps, scorer.trainer.config).cpu()
    chosen = choose_images(test.labels, scores, count)
    maps = scorer.pixel_maps(patch_maps[chosen]).cpu()
    coldest = _median_pixel(scorer, patch_maps, test.labels)
    hottest = max(float(maps.amax()), coldest + 1e-6)
    captions = [(dataset.samples[i].type, f"{scores[i]:.4g}{_elsewhere(int(ids[i]), test.task_id)}") for i in chosen]
    return Sheet(
        test.name,
        _NOTE,
        np.stack([_bytes(dataset[i][0]) for i in chosen]),
        None if test.masks is None else test.masks[chosen].cpu().numpy(),
        _heat(maps, coldest, hottest),
        captions,
        (coldest, hottest),
    )


def choose_images(labels: Tensor, scores: Tensor, count: int) -> list[int]:
    """Indices to look at: two thirds defective spread over their score range, the rest normal, highest last.

    Where nothing is defective all are normal.
    """
    defective = _spread((labels == 1).nonzero().flatten().tolist(), scores, count - count // 3)
    normal = _spread((labels == 0).nonzero().flatten().tolist(), scores, count // 3 if defective else count)
    return defective + normal


def _spread(candidates: list[int], scores: Tensor, count: int) -> list[int]:
    ranked = sorted(candidates, key=lambda i: float(scores[i]))
    if len(ranked) <= count:
        return ranked
    return [ranked[round(p)] for p in np.linspace(0, len(ranked) - 1, count)]


def _elsewhere(routed: int, own: int) -> str:
    return "" if routed == own else f"  → task {routed}"


def _median_pixel(scorer: Scorer, patch_maps: Tensor, labels: Tensor) -> float:
    """Of normal images, of all where none is normal; patch_maps (N, H, W)."""
    normal = patch_maps[(labels == 0).to(patch_maps.device)] if bool((labels == 0).any()) else patch_maps
    pixels = scorer.pixel_maps(normal).flatten()
    return float(pixels[:: max(1, len(pixels) // _PIXELS)].median())


def _bytes(image: Tensor) -> NDArray[np.uint8]:
    """(3, S, S) normalised -> the picture (S, S, 3)."""
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    picture = (image * std).add_(mean).round_().clamp_(0, 255).to(torch.uint8)
    return picture.permute(1, 2, 0).contiguous().numpy()


def _heat(maps: Tensor, coldest: float, hottest: float) -> NDArray[np.uint8]:
    """0 at the coldest colour to 255 at the hottest."""
    share = (maps - coldest).div_((hottest - coldest) or 1.0)
    return share.mul_(255).round_().clamp_(0, 255).to(torch.uint8).numpy()
