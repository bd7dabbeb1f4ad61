"""A finished run as a detector."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from moleflow_fast.data.datasets import byte_transform
from moleflow_fast.data.framing import NEARLY_SQUARE, elongation
from moleflow_fast.data.tiling import Tiling
from moleflow_fast.detector.calibration import LEVEL, Calibration
from moleflow_fast.detector.images import Decoded, Item, decode, file_item, files_of, items_of
from moleflow_fast.detector.parts import TrainedParts
from moleflow_fast.detector.pipeline import pipelined
from moleflow_fast.detector.regions import find_regions
from moleflow_fast.detector.result import Result
from moleflow_fast.detector.tiled import score_picture
from moleflow_fast.detector.view import FieldOfView
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.scorer import bounded
from moleflow_fast.run_directory import RunDirectory

logger = logging.getLogger(__name__)

_MOST_DECODERS = 8
_T = TypeVar("_T")


class _Scored(NamedTuple):
    """What the device says about one image, on the host."""

    task_id: int
    score: float
    distances: dict[int, float]
    patch_map: NDArray[np.float32]
    pixel_map: NDArray[np.float32]


class Detector:
    """Labels images as the run that it was loaded from would score them.

    Several threads may use one at once; the device does one batch at a time.

    Attributes:
        calibration: what is normal for each task.
        threshold: calibrated score above which an image is defective.
        batch_size: images the device takes at a time; the run's own at first, less after it ran out of memory.
    """

    def __init__(
        self,
        parts: TrainedParts,
        calibration: Calibration,
        threshold: float = LEVEL,
        batch_size: int | None = None,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise UserError(f"--threshold must lie in 0..1, where calibrated scores are, got {threshold}")
        if batch_size is not None and batch_size < 1:
            raise UserError(f"--batch_size must be at least 1, got {batch_size}")
        self.calibration = calibration
        self.threshold = threshold
        self.batch_size = batch_size or parts.options.batch_size
        self._parts = parts
        self._transform = byte_transform(parts.options.img_size, parts.options.img_size, parts.options.view)
        self._device_is_free = threading.Lock()
        self._said_cropped: set[tuple[str, ...]] = set()

    @classmethod
    def load(
        cls,
        run: str | Path,
        device: str = "auto",
        *,
        threshold: float = LEVEL,
        batch_size: int | None = None,
        data_path: str | Path | None = None,
    ) -> Detector:
        """The detector of a run directory.

        Args:
            device: auto, cpu, cuda or cuda:N.
            threshold: calibrated score above which an image is defective.
            batch_size: images the device takes at a time; the run's own if left out.
            data_path: where the run's images are now, for a run without `calibration.json`.

        Raises:
            UserError: no run directory, no complete checkpoint, no calibration and no images to make one.
        """
        directory = RunDirectory.open(Path(run))
        parts = TrainedParts(directory, device, None if data_path is None else Path(data_path))
        calibration = parts.calibration()
        for warning in calibration.warnings:
            logger.warning(warning)
        if not parts.trainer.config.use_router:
            logger.warning("the run was evaluated under true task ids (--no_router); the detector has to route")
        return cls(parts, calibration, threshold, batch_size)

    def predict(self, images: Any) -> list[Result]:
        """A result for each image, in order.

        Args:
            images: a path, a folder (searched below, by name), a NumPy array (H, W) or (H, W, 3) of uint8, a PIL
                image, a torch tensor (3, H, W) of uint8 or of 0..1, a batch of arrays or tensors, or a list of these.

        Raises:
            UserError: none of these; a file that cannot be read is a result with an `error`.
        """
        items = items_of(images)
        some = list(islice(items, 2))
        if len(some) == 1:
            return [self._alone(some[0])]
        return list(self._results(chain(some, items), None, _without_picture))

    def _alone(self, item: Item) -> Result:
        """In the caller's thread: to start others and wait for them costs one image 2 ms."""
        decoded = decode(item, self._transform, None)
        (scored,) = self._score([decoded])
        return self._result(decoded, scored)

    def stream(self, paths: Iterable[str | Path] | str | Path) -> Generator[Result, None, None]:
        """Results of image files in order, while later files are decoded and scored.

        Memory does not grow with the number of files: some three batches are on their way.

        Args:
            paths: files, also without end, or a folder. A batch waits until it is full, so a camera wants a detector
                with `batch_size=1`.
        """
        some = files_of(Path(paths)) if isinstance(paths, (str, Path)) else map(Path, paths)
        return self._results(map(file_item, some), None, _without_picture)

    def stream_drawn(
        self, paths: Iterable[str | Path], side: int | None, draw: Callable[[Result, Image.Image | None], _T]
    ) -> Generator[_T, None, None]:
        """As `stream`, but gives what `draw` makes of each result and its picture, in the threads that decode.

        Args:
            side: what the long side of pictures is shrunk to, pixels; None if no pictures are wanted.
            draw: called from several threads at once, with the picture in RGB, or None for an error.
        """
        return self._results(map(file_item, map(Path, paths)), side, draw)

    def _results(
        self, items: Iterable[Item], picture_side: int | None, draw: Callable[[Result, Image.Image | None], _T]
    ) -> Generator[_T, None, None]:
        return pipelined(
            items,
            partial(decode, transform=self._transform, picture_side=picture_side),
            self._score,
            lambda decoded, scored: draw(self._result(decoded, scored), decoded.picture),
            self.batch_size,
            min(_MOST_DECODERS, os.cpu_count() or 1),
        )

    # -- on the device -------------------------------------------------------------------------------

    def _score(self, batch: list[Decoded]) -> list[_Scored | None]:
        """None where there is no image."""
        if self._parts.options.view == "tiles":
            return [None if one.pixels is None else self._score_squares(one.pixels, one.size) for one in batch]
        images = [one.pixels for one in batch if one.pixels is not None]
        scored = iter(self._score_images(images))
        return [None if one.pixels is None else next(scored) for one in batch]

    def _score_images(self, images: list[Tensor]) -> Iterator[_Scored]:
        start = 0
        while start < len(images):
            some = images[start : start + self.batch_size]
            try:
                scored = self._on_device(torch.stack(some))
            except torch.cuda.OutOfMemoryError as error:
                self._take_fewer(len(some), error)
                continue
            yield from scored
            start += len(some)

    def _score_squares(self, squares: Tensor, size: tuple[int, int]) -> _Scored:
        """One picture, all of its squares (n, 3, S, S)."""
        parts = self._parts
        while True:
            at_once = min(self.batch_size, len(squares))
            try:
                with self._device_is_free, parts.as_chosen():
                    scored = score_picture(parts, squares, Tiling(size, parts.options.img_size), at_once)
                    return _Scored(
                        int(scored.task_id),
                        _bounded(scored.score).item(),
                        dict(zip(parts.trainer.router.prototypes, _bounded(scored.distances)[0].tolist(), strict=True)),
                        scored.patch_map.cpu().numpy(),
                        scored.pixel_map.cpu().numpy(),
                    )
            except torch.cuda.OutOfMemoryError as error:
                self._take_fewer(at_once, error)

    def _take_fewer(self, images: int, error: Exception) -> None:
        if images == 1:
            raise UserError(f"the device has no room for a single image; free some or take --device cpu ({error})")
        self.batch_size = images // 2
        torch.cuda.empty_cache()
        logger.warning("out of memory on the device: from now on %d images at a time", self.batch_size)

    def _on_device(self, images: Tensor) -> list[_Scored]:
        parts = self._parts
        trainer = parts.trainer
        with self._device_is_free, parts.as_chosen():
            scored = trainer.executor.routed(images.to(parts.device))
            pixel_maps = parts.scorer.pixel_maps(scored.maps).cpu().numpy()
            patch_maps = _bounded(scored.maps).numpy()
            scores, distances = _bounded(scored.scores).tolist(), _bounded(scored.distances).tolist()
            task_ids = scored.task_ids.tolist()
        tasks = list(trainer.router.prototypes)
        return [
            # Copies: a view of one image would keep its whole batch alive.
            _Scored(task, score, dict(zip(tasks, row, strict=True)), patch_map.copy(), pixel_map.copy())
            for task, score, row, patch_map, pixel_map in zip(
                task_ids, scores, distances, patch_maps, pixel_maps, strict=True
            )
        ]

    # -- on the host ---------------------------------------------------------------------------------

    def _result(self, decoded: Decoded, scored: _Scored | None) -> Result:
        if scored is None:
            return Result(decoded.source, "error", decoded.error)
        task = self.calibration.tasks[scored.task_id]
        calibrated = task.calibrated(scored.score)
        others = (distance for t, distance in scored.distances.items() if t != scored.task_id)
        known = task.knows(scored.distances[scored.task_id], min(others, default=math.inf))
        view = self._view_of(decoded, task.class_names)
        # Interpolation never exceeds what it interpolates: most maps need not be enlarged to see that nothing is there.
        shows = bool(scored.pixel_map.max() > task.pixel_threshold)
        return Result(
            source=decoded.source,
            label="unknown" if not known else "defective" if calibrated > self.threshold else "normal",
            task_id=scored.task_id,
            class_names=task.class_names,
            distances=scored.distances,
            score=scored.score,
            calibrated=calibrated,
            regions=find_regions(view.lay_over(scored.pixel_map), task.pixel_threshold) if shows else (),
            patch_map=scored.patch_map,
            pixel_map=scored.pixel_map,
            view=view,
        )


    def _view_of(self, decoded: Decoded, products: tuple[str, ...]) -> FieldOfView:
        """A long picture of which the run sees the middle alone is said, once per product."""
        options = self._parts.options
        if options.view == "crop" and elongation(decoded.size) > NEARLY_SQUARE and products not in self._said_cropped:
            self._said_cropped.add(products)
            logger.warning(
                "%s, routed to %s, is %d x %d pixels, and this run looks at the central square alone: %.0f%% of it are "
                "not inspected; train with --view whole or --view tiles to see all",
                decoded.source,
                ", ".join(products),
                *decoded.size,
                100 - 100 / elongation(decoded.size),
            )
        return FieldOfView.of(*decoded.size, options.img_size, options.view)


def _without_picture(result: Result, _: Image.Image | None) -> Result:
    return result


def _bounded(values: Tensor) -> Tensor:
    """On the host; what could not be computed is the largest finite value, as in the run's evaluation."""
    return bounded(values.float()).cpu()
