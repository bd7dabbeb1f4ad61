"""A pass over every file that a run will need, before it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from moleflow_fast.config.data_sets import PUBLISHED
from moleflow_fast.errors import shown

from . import framing
from .data_error import raise_all
from .decoder import Decoder
from .layouts import FOLDERS_ARE_CLASSES, GOOD, ClassFiles, Sample, layout, products_left_out
from .requests import Elongated, FileCheck, Frame, Note

_NOTES = 8  # odd files that are named
_FEW = 3  # test images of a kind: one more or less moves an AUROC by a third


@dataclass(frozen=True)
class DataReport:
    """What was read, and what is odd without being wrong."""

    images: int
    warnings: list[str]


def check_dataset(name: str, root: str | Path, class_names: Sequence[str], num_workers: int = 0) -> DataReport:
    """Read every image and mask of the classes.

    Args:
        name: `mvtec`, `visa`, `mpdd` or `folder`.
        num_workers: processes that read; 0 reads in this one.

    Raises:
        DataError: lists damaged files, missing masks, masks of another size, empty classes, a wrong layout.
    """
    with closing(Decoder(num_workers)) as decoder:
        return DataCheck(name, Path(root), [class_names], decoder).finish()


class DataCheck:
    """The images and masks of some tasks' classes, read by a decoder's processes while others do other things.

    Args:
        name, root: as in `check_dataset`.
        tasks: the classes of each.
        frame: how images and masks are seen; None where nothing is to be kept of them.
        wants_pictures: tells of the images that a task trains on (True), or a class is tested on, whether the decoder
            is to keep what is seen of them. Masks it keeps in any case. It keeps what it has room for.

    Raises:
        DataError: a name that no class can have.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        tasks: Sequence[Sequence[str]],
        decoder: Decoder,
        frame: Frame | None = None,
        wants_pictures: Callable[[Sequence[Sample], bool], bool] = lambda samples, train: False,
    ) -> None:
        self._class_names = [c for classes in tasks for c in classes]
        raise_all([problem for c in self._class_names for problem in _problems_of_name(c)])
        find = layout(name)
        self._layout, self._root, self._published = name, root, name in PUBLISHED
        self._decoder = decoder
        self._frame = frame
        self._splits: list[ClassFiles] = []
        self._readings: list[Callable[[], list[str]]] = []
        for classes in tasks:
            training, tests = ([find(root, c, train) for c in classes] for train in (True, False))
            of_task = [sample for split in training for sample in split.samples]
            wanted = frame is not None and wants_pictures(of_task, True)
            for train, test in zip(training, tests, strict=True):
                self._read(train, wanted)
                self._read(test, frame is not None and wants_pictures(test.samples, False))

    def finish(self) -> DataReport:
        """Wait for all files.

        Raises:
            DataError: see `check_dataset`.
            DecodingFailed: a process has died.
        """
        names = self._class_names
        repeated = sorted({c for c in names if names.count(c) > 1})
        problems = [f"class {c!r} is named twice in --task_classes; name it once" for c in repeated]
        problems += dict.fromkeys(problem for split in self._splits for problem in split.problems)
        said_of_splits = [finish() for finish in self._readings]
        said = [text for of_split in said_of_splits for text in of_split]
        raise_all([*problems, *(text for text in said if not isinstance(text, Note))])
        images = sum(len(split.samples) for split in self._splits)
        warnings = products_left_out(self._root) if self._layout in FOLDERS_ARE_CLASSES else []
        for name, train, test in zip(names, self._splits[::2], self._splits[1::2], strict=True):
            train.left_out.update(test.left_out)
            warnings += [*train.left_out.said(self._root / name), *_odd(name, train, test)]
        notes = [text for text in said if isinstance(text, Note) and not isinstance(text, Elongated)]
        more = [f"and {len(notes) - _NOTES} more files like that"] if len(notes) > _NOTES else []
        return DataReport(images, [*warnings, *self._cut_off(said_of_splits), *notes[:_NOTES], *more])

    @property
    def _is_cropped(self) -> bool:
        return self._frame is not None and self._frame.view == "crop"

    def _cut_off(self, said: Sequence[Sequence[str]]) -> list[str]:
        """A warning for each class of whose pictures a centre crop leaves much out.

        Args:
            said: of each split.
        """
        splits = zip(self._class_names, said[::2], said[1::2], strict=True)
        found = [(name, [t.size for t in (*train, *test) if isinstance(t, Elongated)]) for name, train, test in splits]
        return [
            f"class {name!r}: {len(long)} pictures are longer than {framing.NEARLY_SQUARE:g} : 1, one is "
            f"{worst[0]} x {worst[1]}; --view crop looks at the central square alone and never sees "
            f"{100 - 100 / framing.elongation(worst):.0f}% of it: --view whole squeezes all of a picture to the "
            "square, --view tiles looks at it square by square"
            for name, long in found
            if long and (worst := max(long, key=framing.elongation))
        ]

    def _read(self, split: ClassFiles, wants_pictures: bool) -> None:
        self._splits.append(split)
        checks = [self._check_of(sample, wants_pictures) for sample in split.samples]
        if not self._decoder.has_room_for(checks):
            checks = [replace(check, picture=None, mask=None) for check in checks]
        self._readings.append(self._decoder.check(checks))

    def _check_of(self, sample: Sample, wants_picture: bool) -> FileCheck:
        frame, mask_path = self._frame, sample.mask_path
        picture = frame.picture_of(sample.path) if frame and wants_picture else None
        mask = frame.mask_of(mask_path) if frame and mask_path and frame.view != "tiles" else None
        return FileCheck(sample.path, mask_path, picture, mask, self._published, self._is_cropped)


def _problems_of_name(class_name: str) -> list[str]:
    """A name becomes part of file names in the run directory, and stands in its tables."""
    if class_name in ("", ".", "..") or {"/", "\0"} & set(class_name):
        return [f"class {class_name!r} is no name of a folder: give the name alone, without its path"]
    try:
        class_name.encode()
    except UnicodeEncodeError:
        return [f"class {class_name!r} is no text in UTF-8: rename the folder"]
    return []


def _odd(class_name: str, train: ClassFiles, test: ClassFiles) -> list[str]:
    called = sorted({sample.type for sample in test.samples if sample.label == 0} - {GOOD})
    warnings = [f"class {class_name!r}: images in test/{shown(name)} count as normal" for name in called]
    labels = [sample.label for sample in test.samples]
    normal, defective = labels.count(0), labels.count(1)
    if not labels:
        return [*warnings, f"class {class_name!r} has no test images: it is learned, its metrics are undefined (-)"]
    if not defective:
        warnings.append(f"class {class_name!r} has no defective test images: its AUROC and AP are undefined (-)")
    if not normal:
        warnings.append(f"class {class_name!r} has no normal test images: its AUROC is undefined (-)")
    if normal and defective and min(normal, defective) < _FEW:
        counts = f"{normal} normal and {defective} defective"
        warnings.append(f"class {class_name!r} has only {counts} test images: read its metrics with care")
    if not test.has_masks:
        warnings.append(f"class {class_name!r} has no ground_truth folder: image-level metrics only")
    return warnings
