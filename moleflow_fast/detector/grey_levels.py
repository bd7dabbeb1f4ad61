"""How far the finest difference that two pictures can have moves what is measured of them: one grey level.

Limits that rest on images which hardly differ would otherwise be of the size of rounding: ten copies of one picture
have a covariance of nothing but the least variance, and the same picture one grey level brighter lies 2,600 units away,
where copies lie at 0.01. On photographs one grey level is 0.1 of 28 units (kolektor, MobileNetV2), and the floor of
distances changes nothing. Thresholds of scores have one, twice that over the median, only where training images hardly
differ: elsewhere they say how many normal images pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moleflow_fast.data.datasets import AnomalyImages
from moleflow_fast.data.normalization import IMAGENET_STD
from moleflow_fast.extractors import PatchExtractor

_PROBES = 2  # images of a class
_STEPS = (0, 1, -1)  # grey levels
_HARDLY = 0.1  # grey levels


@torch.no_grad()
def patches_of_steps(extractor: PatchExtractor, datasets: Sequence[AnomalyImages], device: torch.device) -> Tensor:
    """Patches (3 n, H, W, D) of a few images of each data set: as they are, one grey level brighter, one darker."""
    level = 1 / 255 / torch.tensor(IMAGENET_STD)[:, None, None]
    images = [dataset[i][0] for dataset in datasets for i in range(min(_PROBES, len(dataset)))]
    return torch.cat([extractor(torch.stack([x + step * level for step in _STEPS]).to(device)) for x in images])


def moved(values: Tensor) -> float:
    """How far one grey level moves values (3 n,) of such patches at most."""
    of_image = values.double().unflatten(0, (-1, len(_STEPS)))
    return float((of_image[:, 1:] - of_image[:, :1]).abs().nan_to_num(0, posinf=0).max())


def hardly_differ(features: Tensor, steps: Tensor) -> bool:
    """Whether image features (n, D) differ by less than a tenth of a grey level.

    Args:
        steps: of `patches_of_steps`.
    """
    of_image = steps.mean((1, 2)).double().unflatten(0, (-1, len(_STEPS)))
    step = (of_image[:, 1:] - of_image[:, :1]).norm(dim=-1).max()
    rows = features.to(of_image)
    return bool((rows - rows.mean(0)).norm(dim=-1).max() <= _HARDLY * step)
