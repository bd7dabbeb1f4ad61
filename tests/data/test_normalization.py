"""Bytes normalised in a batch are what images normalised one by one are, to the bit."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from moleflow_fast.data.normalization import IMAGENET_MEAN, IMAGENET_STD, Normalization

TORCHVISIONS = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_all_values_of_each_channel(layout: torch.memory_format) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = np.stack([ramp, ramp.T, ramp[::-1]], axis=-1)  # no two channels alike
    expected = TORCHVISIONS(Image.fromarray(picture))
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous(memory_format=layout)
    before = pixels.clone()
    (image,) = Normalization()(pixels)
    assert image.dtype == torch.float32 and image.is_contiguous()
    assert torch.equal(image, expected) and torch.equal(pixels, before)
