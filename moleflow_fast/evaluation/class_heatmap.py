"""A class's heat map figure, from a scorer and the images on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from moleflow_fast.evaluation.pictures import choose_images, heatmap_figure
from moleflow_fast.evaluation.scorer import Scorer, TestClass
from moleflow_fast.models.aggregation import image_scores


def draw_class(file: Path, scorer: Scorer, test: TestClass, dataset: Any, count: int) -> None:
    """Draw up to `count` test images under their routed ids; `dataset` holds the pictures of `test`."""
    ids = scorer.route(test)
    patch_maps = scorer.patch_maps(test, ids)
    scores = image_scores(patch_maps, scorer.trainer.config).cpu()
    chosen = choose_images(test.labels, scores, count)
    maps = scorer.pixel_maps(patch_maps).cpu()
    normal = maps[test.labels == 0] if bool((test.labels == 0).any()) else maps
    coldest = float(torch.quantile(normal.flatten()[:: max(1, normal.numel() // 1_000_000)], 0.5))
    hottest = max(float(maps[chosen].amax()), coldest + 1e-6)
    captions = [
        f"{dataset.samples[i].type}  {scores[i]:.4g}" + (f"  -> task {ids[i]}" if ids[i] != test.task_id else "")
        for i in chosen
    ]
    heatmap_figure(
        file,
        f"{test.name}: image score per picture; colours from the median normal pixel to the hottest shown",
        [dataset[i][0] for i in chosen],
        None if test.masks is None else [test.masks[i] for i in chosen],
        maps[chosen],
        captions,
        (coldest, hottest),
    )
