"""What a backbone sees of a picture is what torchvision's transforms make of it, to the bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from moleflow_fast.data.datasets import AnomalyImages, byte_transform, image_transform
from moleflow_fast.data.layouts import Sample
from moleflow_fast.data.normalization import IMAGENET_MEAN, IMAGENET_STD
from moleflow_fast.data.requests import Frame, Picture

# Width and height; portrait, landscape, square, of the crop's own size, smaller than it, odd everywhere.
SIZES = [(61, 90), (75, 40), (50, 50), (48, 48), (20, 31), (33, 47), (301, 48), (48, 101)]
FRAMES = [(48, 48), (48, 32), (47, 33), (32, 48), (31, 44)]  # short side, crop; some larger than the picture


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(sum(size)).integers(0, 256, shape, dtype=np.uint8))


def torchvisions(size: int, crop: int, degrees: float) -> transforms.Compose:
    rotation = [transforms.RandomRotation(degrees, InterpolationMode.NEAREST, fill=0)] if degrees else []
    return transforms.Compose([
        transforms.Resize(size, InterpolationMode.LANCZOS), *rotation, transforms.CenterCrop(crop),
        transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ])  # fmt: skip


@pytest.mark.parametrize("degrees", [0.0, 180.0])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("short", "crop"), FRAMES)
def test_pictures(size: tuple[int, int], short: int, crop: int, degrees: float) -> None:
    picture = noise(size)
    torch.manual_seed(short + crop)
    expected = torchvisions(short, crop, degrees)(picture)
    torch.manual_seed(short + crop)
    image = image_transform(short, crop, degrees)(picture)
    assert image.is_contiguous() and torch.equal(image, expected)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_in_bytes(size: tuple[int, int]) -> None:
    picture = noise(size)
    resized = TF.center_crop(TF.resize(picture, 48, InterpolationMode.LANCZOS), 33)
    assert torch.equal(byte_transform(48, 33)(picture), TF.pil_to_tensor(resized))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("short", "crop"), FRAMES)
@pytest.mark.parametrize("side", [48, 25])
def test_masks(size: tuple[int, int], short: int, crop: int, side: int) -> None:
    mask = Image.fromarray((np.asarray(noise(size, "L")) > 200).astype(np.uint8) * 255)
    resized = TF.resize(mask, round(side * short / crop), InterpolationMode.NEAREST)
    expected = TF.to_tensor(TF.center_crop(resized, side))
    pixels = Frame(short, crop, side).mask_of(Path()).pixels(mask)
    assert torch.equal(torch.from_numpy(pixels).float(), expected[0])


def test_the_angle_of_a_seed_is_that_of_an_item_under_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise((60, 50)).save(path)
    sample = Sample(path, None, 0, "good", "a")
    images = AnomalyImages([sample], True, img_size=40, crp_size=32, msk_size=32, use_rotation_aug=True)
    torch.manual_seed(1234567)
    item = images[0][0]
    torch.manual_seed(1)
    picture = images.picture(0, seed=1234567)
    assert torch.initial_seed() == 1 and isinstance(picture, Picture) and picture.angle != 0
    (pixels,) = picture.answer().arrays
    assert torch.equal(image_transform(32, 32)(Image.fromarray(pixels.transpose(1, 2, 0))), item)
