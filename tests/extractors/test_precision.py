"""A backbone in bf16 or fp16: fp32 features near those of fp32, and a report that says how near."""

import re

import pytest
import torch

from moleflow_fast.extractors import BackboneError, PatchExtractor, create_feature_extractor, reduce_precision

MODELS = {
    "resnet18": {"target_embed_dimension": 32},
    "convnext_atto": {"target_embed_dimension": 32},
    "vit_tiny_patch16_224": {},
}


def make(name: str) -> PatchExtractor:
    torch.manual_seed(0)
    return create_feature_extractor(name, (3, 64, 64), device="cpu", pretrained=False, **MODELS[name])


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_features_stay_near(name: str, precision: str, tolerance: float, images: torch.Tensor) -> None:
    full, narrow = make(name), make(name)
    parity = reduce_precision(narrow, precision, images)
    expected, actual = full(images), narrow(images)
    assert actual.dtype == torch.float32 and narrow.dtype != torch.float32
    distances = (actual - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert 0 < parity.patch_median < parity.patch_worst < tolerance
    assert parity.patch_worst == pytest.approx(float(distances.max()))
    assert parity.patch_median == pytest.approx(float(distances.median()))
    assert 0 < parity.image_worst < tolerance and parity.images == 3
    assert full.fingerprint() != narrow.fingerprint()
    assert re.search(rf"{precision}.*%.*3 images", str(parity))


def test_double_precision_is_not_narrowed(images: torch.Tensor) -> None:
    assert make("resnet18").double()(images).dtype == torch.float64


def test_overflow_is_an_error_that_names_the_remedy(images: torch.Tensor) -> None:
    extractor = make("resnet18")
    with torch.no_grad():
        extractor.backbone.conv1.weight.mul_(1e5)
    with pytest.raises(BackboneError, match=r"resnet18 leaves the range of fp16.*--backbone_precision bf16"):
        reduce_precision(extractor, "fp16", images)
