"""Data sets of one class, with the published constructors and items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from . import decoding, layouts
from .errors import raise_all
from .layouts import ClassFiles, Sample
from .normalization import normalized
from .requests import Frame, Mask, Picture, channels_first
from .tiling import STRIDE, Tiling

MVTEC_CLASS_NAMES = [
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper",
]  # fmt: skip
VISA_CLASS_NAMES = [
    "candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2", "pcb1", "pcb2", "pcb3", "pcb4",
    "pipe_fryum",
]  # fmt: skip
MPDD_CLASS_NAMES = ["bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes"]

Transform = Callable[[Image.Image], Tensor]


class AnomalyImages(Dataset[tuple[Tensor, int, Tensor, str, str]]):
    """A list of samples, decoded when asked for.

    Item i is (image (3, crp_size, crp_size), label, mask (1, msk_size, msk_size) of 0 and 1, name, type). Images:
    short side to `img_size` (Lanczos), centre crop, ImageNet normalization. Masks: nearest, same field of view.

    Attributes:
        frame: how pictures are seen; None where the caller has transforms of its own.
        degrees: images are turned by at most so many, 0 for none.

    Args:
        samples: what to load.
        has_masks: False where there are image labels only; masks are then all zero.
        transform, target_transform: in place of the ones above, for image and mask (PIL image to tensor).
        use_rotation_aug: rotate by an angle drawn anew at every access, nearest, filled with 0.
        view: one of `framing.VIEWS`; an item is one square, so that of a picture in tiles is the whole, squeezed.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        has_masks: bool,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        img_size: int = 518,
        crp_size: int = 518,
        msk_size: int = 256,
        use_rotation_aug: bool = False,
        rotation_degrees: float = 180.0,
        view: str = "crop",
    ) -> None:
        self.samples = list(samples)
        self.has_masks = has_masks
        # A transform of the caller's own may be random: its features are never cached.
        self.augmented = use_rotation_aug or transform is not None
        self.msk_size = msk_size
        frame = Frame(img_size, crp_size, msk_size, view)
        self.frame = None if transform or target_transform else frame
        self.degrees = rotation_degrees * use_rotation_aug
        self._transform = transform or partial(_normalized, frame=frame, degrees=self.degrees)
        self._target_transform = target_transform or _mask_transform(frame)
        self._transform_key = f"{_spelled(frame)}, imagenet, pillow {PIL.__version__}"

    def transform_key(self) -> str:
        """A text that differs whenever the way from file to tensor differs."""
        return self._transform_key

    def picture(self, index: int, seed: int = 0) -> Picture:
        """The image of an item as a decoder is asked for it; only where `frame` is there.

        Args:
            seed: of the angle, where images are rotated: that of an item under this state of torch's generator.
        """
        assert self.frame is not None
        generator = torch.Generator().manual_seed(seed) if self.degrees else None
        return self.frame.picture_of(self.samples[index].path, angle(self.degrees, generator))

    @property
    def pictures(self) -> list[Picture]:
        """The image of each item, as a decoder is asked for it; only where `frame` is there and none is rotated."""
        return [self.picture(i) for i in range(len(self))]

    def masks(self) -> dict[int, Mask]:
        """The mask of each item that has one, as a decoder is asked for it."""
        assert self.frame is not None
        paths = {i: sample.mask_path for i, sample in enumerate(self.samples)}
        return {i: self.frame.mask_of(path) for i, path in paths.items() if path is not None}

    def load_mask(self, index: int) -> Tensor:
        """(1, msk_size, msk_size), 1 where defective."""
        path = self.samples[index].mask_path
        if path is None:
            return torch.zeros(1, self.msk_size, self.msk_size)
        return self._target_transform(decoding.load_mask(path))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int, Tensor, str, str]:
        sample = self.samples[index]
        image = self._transform(decoding.load_image(sample.path))
        return image, sample.label, self.load_mask(index), sample.path.stem, sample.type


class ClassDataset(AnomalyImages):
    """One class of a data set on disk.

    Args:
        root: folder of the data set.
        class_name: one of its classes.
        train: training images, all normal, with the class index as label; else test images, 0 good and 1 defect.

    Raises:
        DataError: a missing folder, mask or table, an empty class; names the files and the remedy.
    """

    layout = "folder"

    def __init__(self, root: str | Path, class_name: str, train: bool = True, *args: Any, **options: Any) -> None:
        files = self.find(Path(root), class_name, train)
        raise_all(files.problems)
        samples = files.samples
        if train:
            samples = with_class_indices(samples, {n: i for i, n in enumerate(self.class_names(Path(root)))})
            super().__init__(samples, files.has_masks, *args, **options)
            return
        super().__init__(samples, files.has_masks, *args, **{**options, "use_rotation_aug": False})

    @classmethod
    def class_names(cls, root: Path) -> list[str]:
        """All classes, in the published order."""
        raise NotImplementedError

    @classmethod
    def find(cls, root: Path, class_name: str, train: bool) -> ClassFiles:
        """The files of a class, with what is wrong about them, without opening any."""
        return layouts.layout(cls.layout)(root, class_name, train)


class MVTEC(ClassDataset):
    """MVTec AD."""

    layout = "mvtec"

    @classmethod
    def class_names(cls, root: Path) -> list[str]:
        return MVTEC_CLASS_NAMES


class MPDD(ClassDataset):
    """Metal Parts Defect Detection, in MVTec AD layout."""

    layout = "mpdd"

    @classmethod
    def class_names(cls, root: Path) -> list[str]:
        return MPDD_CLASS_NAMES


class VISA(ClassDataset):
    """Visual Anomaly, with its one-class split table."""

    layout = "visa"

    @classmethod
    def class_names(cls, root: Path) -> list[str]:
        return VISA_CLASS_NAMES


class FOLDER(ClassDataset):
    """Any folder in MVTec AD layout; its classes are the folders with a `train/good`."""

    @classmethod
    def class_names(cls, root: Path) -> list[str]:
        return layouts.discover_classes(root)


_DATASETS: dict[str, type[ClassDataset]] = {"mvtec": MVTEC, "visa": VISA, "mpdd": MPDD, "folder": FOLDER}


def get_dataset_class(name: str) -> type[ClassDataset]:
    """The class for `mvtec`, `visa`, `mpdd` or `folder`."""
    layouts.layout(name)
    return _DATASETS[name]


def get_class_names(name: str, root: str | Path) -> list[str]:
    """The classes of a data set in the published order; those of a folder by name.

    Raises:
        DataError: no classes in the folder.
    """
    names = get_dataset_class(name).class_names(Path(root))
    if not names:
        raise_all([layouts.explain_missing_class(Path(root))])
    return list(names)


def create_task_dataset(
    args: Any, task_classes: Sequence[str], global_class_to_idx: dict[str, int], train: bool = True
) -> AnomalyImages:
    """The classes of one task as one data set.

    Args:
        args: anything with dataset, data_path, img_size, msk_size, use_rotation_aug, rotation_degrees; view if it has.
        task_classes: their names.
        global_class_to_idx: label of each class's training images.
    """
    files = [get_dataset_class(args.dataset).find(Path(args.data_path), name, train) for name in task_classes]
    raise_all([problem for one in files for problem in one.problems])
    samples = [sample for one in files for sample in one.samples]
    return AnomalyImages(
        with_class_indices(samples, global_class_to_idx) if train else samples,
        all(one.has_masks for one in files),
        img_size=args.img_size,
        crp_size=args.img_size,
        msk_size=args.msk_size,
        use_rotation_aug=train and args.use_rotation_aug,
        rotation_degrees=args.rotation_degrees,
        view=getattr(args, "view", "crop"),
    )


def with_class_indices(samples: Sequence[Sample], class_to_idx: dict[str, int]) -> list[Sample]:
    """The samples with their class's index as label."""
    return [replace(sample, label=class_to_idx[sample.class_name]) for sample in samples]


def image_transform(size: int, crop: int, degrees: float = 0) -> Transform:
    """From an RGB image to what the backbone sees (3, crop, crop): short side to `size`, rotation, centre crop.

    Args:
        degrees: the angle is drawn from torch's generator, up to so many either way.
    """
    return partial(_normalized, frame=Frame(size, crop, crop), degrees=degrees)


def byte_transform(size: int, crop: int, view: str = "crop") -> Transform:
    """From an RGB image to uint8 (3, crop, crop), of which `Normalization` makes what `image_transform` gives.

    Under the view "tiles" to all its squares, (n, 3, crop, crop).
    """
    if view == "tiles":
        return partial(_tiles, side=crop)
    return partial(_bytes, Frame(size, crop, crop, view).picture_of(Path()))


def _tiles(image: Image.Image, side: int) -> Tensor:
    tiling = Tiling(image.size, side)
    strip = tiling.resized(image, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.stack([channels_first(tiling.square(strip, i)) for i in range(len(tiling))]))


def _spelled(frame: Frame) -> str:
    """How images are brought to the square, for a key."""
    if frame.view == "crop":
        return f"short side {frame.size} lanczos, crop {frame.crop}"
    stride = f" stride {STRIDE}" if frame.view == "tiles" else ""
    return f"{frame.view} {frame.crop}{stride} lanczos"


def _normalized(image: Image.Image, frame: Frame, degrees: float) -> Tensor:
    pixels = _bytes(frame.picture_of(Path(), angle(degrees)), image)
    return normalized(pixels[None])[0]


def _bytes(request: Picture | Mask, image: Image.Image) -> Tensor:
    return torch.from_numpy(request.pixels(image))


def angle(degrees: float, generator: torch.Generator | None = None) -> float:
    """As torchvision's RandomRotation draws it."""
    return torch.empty(1).uniform_(-degrees, degrees, generator=generator).item() if degrees else 0.0


def _mask_transform(frame: Frame) -> Transform:
    """Nearest; what is seen of the image, as one square."""
    return partial(_zeros_and_ones, frame.square.mask_of(Path()))


def _zeros_and_ones(mask: Mask, image: Image.Image) -> Tensor:
    return _bytes(mask, image).float()[None]
