"""Batch norms folded into convolutions: the same features, and a model that cannot bear it left alone."""

import copy

import pytest
import timm
import torch
from torch import nn

from moleflow_fast.extractors.base import probe_image
from moleflow_fast.extractors.batch_norms import settle_batch_norms
from moleflow_fast.extractors.capture import LayerCapture
from moleflow_fast.extractors.families import default_layers
from moleflow_fast.extractors.folding import fold_batch_norms

PROBE = probe_image((3, 64, 64))


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "efficientnet_b0", "regnety_002", "densenet121"])
@torch.no_grad()
def test_features_stay_the_same(name: str) -> None:
    torch.manual_seed(5)
    model = timm.create_model(name, num_classes=0)
    settle_batch_norms(model, 3)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):  # fresh weights and biases are one and zero
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
    model.eval()
    layers = ["features.denseblock2"] if name == "densenet121" else default_layers(name)
    images = torch.randn(2, 3, 64, 64)
    expected = LayerCapture(copy.deepcopy(model), layers)(images)
    before = norms(model)
    capture = LayerCapture(model, layers)
    folded = fold_batch_norms(capture, PROBE)
    assert 0 < folded == before - norms(model)
    for features, wanted in zip(capture(images), expected, strict=True):
        # such a network amplifies rounding: fp32 without folding is off by up to 4e-4 of the largest itself
        assert float((features - wanted).abs().max()) < 2e-3 * float(wanted.abs().max())


@torch.no_grad()
def test_a_model_that_runs_in_another_order_is_left_alone() -> None:
    class NormFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)
            self.norm = nn.BatchNorm2d(3)
            self.norm.running_mean.normal_()  # type: ignore[union-attr]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.norm(x))

    model = nn.Sequential(NormFirst()).eval()
    before = copy.deepcopy(model)
    assert fold_batch_norms(LayerCapture(model, ["0"]), PROBE) == 0
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert torch.equal(model(PROBE), before(PROBE)) and norms(model) == 1


@pytest.mark.parametrize("layer", ["conv1", "bn1"])
@torch.no_grad()
def test_a_named_convolution_or_norm_keeps_its_output(layer: str) -> None:
    torch.manual_seed(6)
    model = timm.create_model("resnet18", num_classes=0).train()
    model(torch.randn(4, 3, 64, 64))  # running statistics
    capture = LayerCapture(model.eval(), [layer, "layer1"])
    expected = capture(PROBE)
    assert fold_batch_norms(capture, PROBE) > 0
    for features, wanted in zip(capture(PROBE), expected, strict=True):
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_statistics_of_the_batch_are_not_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert fold_batch_norms(LayerCapture(model, ["1"]), PROBE) == 0
