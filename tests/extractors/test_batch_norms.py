"""Batch norms of random backbones."""

import pytest
import torch
from torch import nn

from moleflow_fast.extractors import BackboneError, create_backbone
from moleflow_fast.extractors.batch_norms import settle_batch_norms


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 5, 3), nn.BatchNorm2d(5))


def test_features_of_unseen_noise_become_centred_and_scaled():
    model = network()
    settle_batch_norms(model, 3)
    model.eval()
    images = torch.randn(8, 3, 128, 128, generator=torch.Generator().manual_seed(9))
    smooth = nn.functional.avg_pool2d(images, 5, 1, 2) * 5
    features = model(smooth)
    assert features.mean((0, 2, 3)).abs().max() < 1.0
    assert features.std((0, 2, 3)).min() > 0.2 and features.std((0, 2, 3)).max() < 5
    assert all(norm.momentum == 0.1 for norm in model if isinstance(norm, nn.BatchNorm2d))


def test_a_hybrid_that_takes_images_of_one_size_alone():
    model, _ = create_backbone("levit_128s", pretrained=False)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all((norm.running_mean != 0).any() for norm in norms[:8])
    with pytest.raises(BackboneError, match=r"takes only images of \(224, 224\) pixels, not \(64, 64\)"):
        create_backbone("levit_conv_128s", pretrained=False, input_shape=(3, 64, 64))


def test_a_model_without_batch_norms_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settle_batch_norms(model, 3)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
