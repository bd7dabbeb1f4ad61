"""One picture scored square by square: see `data.tiling`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from moleflow_fast.data.stitching import stitched
from moleflow_fast.data.tiling import Tiling
from moleflow_fast.evaluation.picture_maps import PictureMaps
from moleflow_fast.evaluation.scorer import bounded
from moleflow_fast.models.aggregation import image_scores
from moleflow_fast.run.run import Run


class ScoredPicture(NamedTuple):
    """A picture as a batch of one."""

    patch_map: Tensor  # (h, w): -log p per patch
    pixel_map: Tensor  # (H, W): in the shape of the picture
    score: Tensor  # (1,)
    task_id: Tensor  # (1,)
    distances: Tensor  # (1, tasks)


@torch.no_grad()
def score_picture(run: Run, squares: Tensor, tiling: Tiling, at_once: int, task_id: int | None = None) -> ScoredPicture:
    """The mean over all squares routes the picture; each is scored under that task, and the maps become one.

    Args:
        task_id: whose expert scores it, wherever it would be routed; None where that decides.
        squares: all of a picture's (n, 3, S, S), bytes.
        at_once: squares that the device takes at a time; features of the others wait in the host's memory.
    """
    moleflow = run.moleflow
    batches = squares.split(at_once)
    features = []
    waiting = run.device if len(batches) == 1 else torch.device("cpu")
    for batch in batches:
        patches, means = moleflow.features_of(batch.to(run.device))
        features.append((patches.to(waiting), means))
    feature = torch.cat([means for _, means in features]).mean(0, keepdim=True)
    distances, ids = moleflow.router.distances_and_nearest(feature)
    if task_id is not None:
        ids = torch.full_like(ids, task_id)
    maps = [moleflow.anomaly_maps(patches.to(run.device), ids.expand(len(patches))) for patches, _ in features]
    patch_map = stitched(tiling, bounded(torch.cat(maps)))
    (pixel_map,) = run.scorer.picture_maps(PictureMaps([patch_map], [tiling.picture]))
    return ScoredPicture(patch_map, pixel_map, image_scores(patch_map[None], moleflow.config), ids, distances)
