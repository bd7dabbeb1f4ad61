"""Data sets of one class, with the published constructors and items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
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
from .data_error import raise_all
from .decoder import Decoder
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
        view: one of `config.learning_options.VIEWS`; an item is one square: of a picture in tiles the whole, squeezed.
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
    CLASS_NAMES = MVTEC_CLASS_NAMES

    @classmethod
    def class_names(cls, root: Path) -> list[str]:
        return MVTEC_CLASS_NAMES


class MPDD(ClassDataset):
    """Metal Parts Defect Detection, in MVTec AD layout."""

    layout = "mpdd"
    CLASS_NAMES = MPDD_CLASS_NAMES

    @classmethod
    def class_names(cls, root: Path) -> list[str]:
        return MPDD_CLASS_NAMES


class VISA(ClassDataset):
    """Visual Anomaly, with its one-class split table."""

    layout = "visa"
    CLASS_NAMES = VISA_CLASS_NAMES

    @classmethod
    def class_names(cls, root: Path) -> list[str]:
        return VISA_CLASS_NAMES


class FOLDER(ClassDataset):
    """Any folder in MVTec AD layout; its classes are the folders with a `train/good`."""

    @classmethod
    def class_names(cls, root: Path) -> list[str]:
        return layouts.discover_classes(root)


class ListedDataset(ClassDataset):
    """A class of a list of images: one of `data_sets.LISTS`."""

    @classmethod
    def class_names(cls, root: Path) -> list[str]:
        return layouts.listed_classes(cls.layout, root)


class COCO(ListedDataset):
    """Images with defects drawn in COCO's JSON."""

    layout = "coco"


class CSV(ListedDataset):
    """Images named by a table."""

    layout = "csv"


class DATUMARO(ListedDataset):
    """Images of a Datumaro project."""

    layout = "datumaro"


class REAL_IAD(ListedDataset):
    """Real-IAD, with its JSON file for each class."""

    layout = "real_iad"


_KINDS = (MVTEC, VISA, MPDD, FOLDER, COCO, CSV, DATUMARO, REAL_IAD)
DATASET_REGISTRY: dict[str, type[ClassDataset]] = {kind.layout: kind for kind in _KINDS}


def get_dataset_class(name: str) -> type[ClassDataset]:
    """The class for a name of `layouts.LAYOUTS` or `data_sets.LISTS`, in any case."""
    layouts.layout(name.lower())
    return DATASET_REGISTRY[name.lower()]


def get_class_names(name: str, root: str | Path | None = None) -> list[str]:
    """The classes of a data set in the published order; those of a folder by name.

    Raises:
        DataError: no classes in the folder.
        ValueError: a folder's classes without the folder.
    """
    kind = get_dataset_class(name)
    if root is None and kind is FOLDER:
        raise ValueError("the classes of a folder are known from the folder alone: give its root")
    names = kind.class_names(Path(root or ""))
    if not names:
        raise_all([layouts.explain_missing_class(Path(root or ""))])
    return list(names)


class TaskDataset(Dataset[tuple[Any, ...]]):
    """Items in a list, as the published package holds those of a task: (image, class index, mask, name, type)."""

    def __init__(self, data: Sequence[tuple[Any, ...]], class_names: list[str], class_to_idx: dict[str, int]) -> None:
        self.data = data
        self.class_names = class_names
        self.class_to_idx = class_to_idx

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self.data[index]


def create_task_dataset(
    args: Any,
    task_classes: Sequence[str],
    global_class_to_idx: dict[str, int],
    train: bool = True,
    use_rotation_aug: bool | None = None,
    rotation_degrees: float | None = None,
) -> AnomalyImages:
    """The classes of one task as one data set. Images are read when asked for, and rotated anew each time.

    Args:
        args: anything with dataset (mvtec if it has none), data_path, img_size, msk_size; and with use_rotation_aug and
            rotation_degrees, where those are not given; view if it has one.
        task_classes: their names.
        global_class_to_idx: label of each class's training images; test images have 0 or 1.
    """
    rotated = getattr(args, "use_rotation_aug", False) if use_rotation_aug is None else use_rotation_aug
    degrees = getattr(args, "rotation_degrees", 180.0) if rotation_degrees is None else rotation_degrees
    kind = get_dataset_class(getattr(args, "dataset", "mvtec"))
    files = [kind.find(Path(args.data_path), name, train) for name in task_classes]
    raise_all([problem for one in files for problem in one.problems])
    samples = [sample for one in files for sample in one.samples]
    return AnomalyImages(
        with_class_indices(samples, global_class_to_idx) if train else samples,
        all(one.has_masks for one in files),
        img_size=args.img_size,
        crp_size=args.img_size,
        msk_size=args.msk_size,
        use_rotation_aug=train and rotated,
        rotation_degrees=degrees,
        view=getattr(args, "view", "crop"),
    )


def joined(datasets: Sequence[AnomalyImages]) -> AnomalyImages:
    """Data sets that see their images alike as one."""
    if len(datasets) == 1:
        return datasets[0]
    whole = copy(datasets[0])
    whole.samples = [sample for dataset in datasets for sample in dataset.samples]
    # One of normal images alone needs no masks.
    whole.has_masks = all(d.has_masks or not any(sample.label for sample in d.samples) for d in datasets)
    return whole


def read_masks(dataset: AnomalyImages, decoder: Decoder) -> Tensor:
    """(N, S, S) bool, True where defective; of data sets whose masks are squares."""
    requests = dataset.masks()
    masks = torch.zeros(len(dataset), dataset.msk_size, dataset.msk_size, dtype=torch.bool)
    if requests:
        (pixels,) = decoder.pixels([list(requests.values())])
        masks[list(requests)] = torch.from_numpy(pixels).bool()
        decoder.forget(requests.values())
    return masks


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
