"""One class from its patch maps to its figures: on a GPU where there is one."""

from types import SimpleNamespace

import pytest
import torch

from moleflow_fast.config import AblationConfig
from moleflow_fast.evaluation.by_class import evaluate_class
from moleflow_fast.evaluation.scorer import Scorer, TestClass

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class MapSource:
    """Patch maps (N, H, W) in the place of features."""

    def __init__(self, maps: torch.Tensor) -> None:
        self.maps = maps
        self.image_features = maps.flatten(1)

    def __len__(self) -> int:
        return len(self.maps)

    def batches(self, index_batches):
        for index in index_batches:
            yield self.maps[index], self.image_features[index]


def evaluated(device: str) -> tuple[TestClass, Scorer, list]:
    """A class whose last map is broken; the scores of its images are their maps."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 24, 24, generator=generator) < 0.1
    masks[:2] = False
    maps = torch.randn(6, 6, 5, generator=generator) + masks.flatten(1).any(1)[:, None, None]
    maps[5, 2, 3] = torch.nan
    moleflow = SimpleNamespace(config=AblationConfig(), anomaly_maps=lambda patches, ids: patches.to(device))
    test = TestClass("class", 0, MapSource(maps), masks.flatten(1).any(1).long(), masks)
    scorer = Scorer(moleflow, 24, 1.0, "bilinear", batch_size=4)
    result = evaluate_class(scorer, test, scorer.true_ids(test))
    # A threshold can jump where two are equally good but for rounding.
    return test, scorer, [v for n, v in vars(result).items() if isinstance(v, float) and "threshold" not in n]


@pytest.mark.parametrize("device", DEVICES)
def test_maps_stay_where_they_were_made_and_figures_are_the_same(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    test, scorer, figures = evaluated(device)
    patch_maps = scorer.patch_maps(test, scorer.true_ids(test))
    assert patch_maps.device.type == scorer.pixel_maps(patch_maps).device.type == device
    assert figures == pytest.approx(evaluated("cpu")[2], rel=1e-3)
    assert scorer.pixel_maps(patch_maps).isfinite().all()
