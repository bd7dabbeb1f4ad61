"""Bytes normalised in a batch are what images normalised one by one are, to the bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_fast.data.datasets import byte_transform, image_transform
from moleflow_fast.data.normalization import Normalization


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_all_values_of_each_channel(layout: torch.memory_format) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = np.stack([ramp, ramp.T, ramp[::-1]], axis=-1)  # no two channels alike
    expected = image_transform(16, 16)(Image.fromarray(picture))
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous(memory_format=layout)
    before = pixels.clone()
    (image,) = Normalization()(pixels)
    assert image.dtype == torch.float32 and image.is_contiguous()
    assert torch.equal(image, expected) and torch.equal(pixels, before)


@pytest.mark.parametrize("size", [(90, 61), (40, 75)])
def test_both_ways_from_a_picture(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    pixels = byte_transform(48, 32)(picture)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 32, 32)
    assert torch.equal(Normalization()(pixels[None])[0], image_transform(48, 32)(picture))
