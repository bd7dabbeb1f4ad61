"""A finished run as a detector."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from moleflow_fast.config.requested import precision_chosen, use_backend
from moleflow_fast.config.threshold_options import Level
from moleflow_fast.data.datasets import byte_transform
from moleflow_fast.data.framing import NEARLY_SQUARE, elongation
from moleflow_fast.data.tiling import Tiling
from moleflow_fast.detector.calibration import Calibration
from moleflow_fast.detector.forks import require_usable
from moleflow_fast.detector.images import Decoded, Item, decode, file_item, items_of
from moleflow_fast.detector.pipeline import pipelined
from moleflow_fast.detector.regions import find_regions
from moleflow_fast.detector.result import Result
from moleflow_fast.detector.thresholds import limits_of
from moleflow_fast.detector.tiled import score_picture
from moleflow_fast.detector.trained_run import TrainedRun
from moleflow_fast.detector.view import FieldOfView
from moleflow_fast.errors import UserError
from moleflow_fast.evaluation.scorer import bounded
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.run import Run
from moleflow_fast.system.callers_state import as_at_start, plain_modes
from moleflow_fast.system.ending import lock_for_torch

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
        limits: the score above which an image is defective, by task.
        batch_size: images the device takes at a time; the run's own at first, less after it ran out of memory.
    """

    def __init__(
        self,
        run: Run,
        calibration: Calibration,
        threshold: Level | None = None,
        batch_size: int | None = None,
        false_alarms: Level | None = None,
    ) -> None:
        self.limits = limits_of(calibration, threshold, false_alarms)
        self._asked = {"threshold": threshold, "false_alarms": false_alarms}
        if batch_size is not None and batch_size < 1:
            raise UserError(f"--batch_size must be at least 1, got {batch_size}")
        self.calibration = calibration
        self.batch_size = batch_size or run.options.batch_size
        self._run = run
        self._loaded_from: TrainedRun | None = None
        self._transform = byte_transform(run.options.img_size, run.options.img_size, run.options.view)
        self._device_is_free = lock_for_torch()
        self._said_cropped: set[tuple[str, ...]] = set()

    @classmethod
    def load(
        cls,
        run: str | Path,
        device: str = "auto",
        *,
        threshold: Level | None = None,
        false_alarms: Level | None = None,
        batch_size: int | None = None,
        data_path: str | Path | None = None,
    ) -> Detector:
        """The detector of a run directory.

        The caller's random state, default dtype and modes of torch stay as they are.

        Args:
            device: auto, cpu, cuda or cuda:N.
            threshold: calibrated score above which an image is defective, 0.5 if left out; or a dict of them by
                product, with "" for those that are not named. There numbers beyond 0..1 are raw scores, from which on
                images are defective.
            false_alarms: instead, the fraction of normal images that may be called defective; or a dict.
            batch_size: images the device takes at a time; the run's own if left out.
            data_path: where the run's images are now, for a run without `calibration.json`.

        Raises:
            UserError: no run directory, no complete checkpoint, no calibration and no images to make one; or a process
                that was forked from one with a detector.
        """
        directory = RunDirectory.open(Path(run))
        with as_at_start(device):
            trained = TrainedRun(directory, device, None if data_path is None else Path(data_path))
            calibration = trained.calibration()
        for warning in calibration.warnings:
            logger.warning(warning)
        if not trained.run.moleflow.config.use_router:
            logger.warning("the run was evaluated under true task ids (--no_router); the detector has to route")
        detector = cls(trained.run, calibration, threshold, batch_size, false_alarms)
        detector._loaded_from = trained
        for limit in detector.limits.values():
            if limit.note:
                logger.warning(limit.note)
        return detector

    def __reduce__(self) -> tuple[Any, ...]:
        """It is loaded again from its run, in whatever process that is."""
        trained, run = self._loaded_from, self._run
        if trained is None:
            raise TypeError("only a detector that was loaded from a run can be sent to another process")
        options = {**self._asked, "batch_size": self.batch_size, "data_path": run.options.data_path}
        return _loaded_again, (trained.directory.path.absolute(), run.options.device, trained.given, options)

    def predict(self, images: Any, *, product: str | None = None) -> list[Result]:
        """A result for each image, in order.

        Args:
            images: a path, a folder (searched below, by name), a PIL image, the bytes of a file, a NumPy array, a torch
                tensor or a batch of them (`data.pictures` says which), or any iterable of these.
            product: what all of them are, where that is known: its expert scores them, wherever they would be routed.

        Raises:
            UserError: none of these, or no such product; a file that cannot be read is a result with an `error`.
        """
        require_usable(self._run.device)
        items, task_id = items_of(images), self.task_of(product)
        some = list(islice(items, 2))
        if len(some) == 1:
            return [self._alone(some[0], task_id)]
        return list(self._results(chain(some, items), None, _without_picture, task_id))

    def _alone(self, item: Item, task_id: int | None) -> Result:
        """In the caller's thread: to start others and wait for them costs one image 2 ms."""
        decoded = decode(item, self._transform, None)
        (scored,) = self._score([decoded], task_id)
        return self._result(decoded, scored, task_id is not None)

    def stream(self, images: Any, *, product: str | None = None) -> Generator[Result, None, None]:
        """Results of images in order, while later ones are read, decoded and scored.

        Memory does not grow with their number: some three batches are on their way. The stream may be left at any time;
        its threads end with it.

        Args:
            images: files, also without end, or a folder, or whatever `predict` takes: frames of a camera may each be
                where the last one was. A batch waits until it is full, so a camera wants a detector with
                `batch_size=1`.
            product: as in `predict`.

        Raises:
            UserError: none of these, or no such product; a file that cannot be read, or an array that is no picture,
                is a result with an `error`.
        """
        return self._results(items_of(images, streamed=True), None, _without_picture, self.task_of(product))

    def stream_drawn(
        self,
        paths: Iterable[str | Path],
        side: int | None,
        draw: Callable[[Result, Image.Image | None], _T],
        product: str | None = None,
    ) -> Generator[_T, None, None]:
        """As `stream`, but gives what `draw` makes of each result and its picture, in the threads that decode.

        Args:
            side: what the long side of pictures is shrunk to, pixels; None if no pictures are wanted.
            draw: called from several threads at once, with the picture in RGB, or None for an error.
        """
        return self._results(map(file_item, map(Path, paths)), side, draw, self.task_of(product))

    def task_of(self, product: str | None) -> int | None:
        """The task whose expert knows a product; None of None.

        Raises:
            UserError: none does.
        """
        if product is None:
            return None
        for task_id, task in self.calibration.tasks.items():
            if product in task.class_names:
                return task_id
        known = ", ".join(name for task in self.calibration.tasks.values() for name in task.class_names)
        raise UserError(f"no product {product!r} in this run (--product); it knows {known}")

    def _results(
        self,
        items: Iterable[Item],
        picture_side: int | None,
        draw: Callable[[Result, Image.Image | None], _T],
        task_id: int | None,
    ) -> Generator[_T, None, None]:
        require_usable(self._run.device)
        return pipelined(
            items,
            partial(decode, transform=self._transform, picture_side=picture_side),
            partial(self._score, task_id=task_id),
            lambda decoded, scored: draw(self._result(decoded, scored, task_id is not None), decoded.picture),
            self.batch_size,
            min(_MOST_DECODERS, os.cpu_count() or 1),
        )

    # -- on the device -------------------------------------------------------------------------------

    def _score(self, batch: list[Decoded], task_id: int | None) -> list[_Scored | None]:
        """None where there is no image."""
        if self._run.options.view == "tiles":
            return [None if one.pixels is None else self._score_squares(one.pixels, one.size, task_id) for one in batch]
        images = [one.pixels for one in batch if one.pixels is not None]
        scored = iter(self._score_images(images, task_id))
        return [None if one.pixels is None else next(scored) for one in batch]

    def _score_images(self, images: list[Tensor], task_id: int | None) -> Iterator[_Scored]:
        start = 0
        while start < len(images):
            some = images[start : start + self.batch_size]
            try:
                with self._device_is_free:
                    scored = self._on_device(torch.stack(some), task_id)
            except torch.cuda.OutOfMemoryError as error:
                self._take_fewer(len(some), error)
                continue
            yield from scored
            start += len(some)

    def _score_squares(self, squares: Tensor, size: tuple[int, int], task_id: int | None) -> _Scored:
        """One picture, all of its squares (n, 3, S, S)."""
        run = self._run
        while True:
            at_once = min(self.batch_size, len(squares))
            try:
                with self._device_is_free, plain_modes(), run.context.as_chosen():
                    scored = score_picture(run, squares, Tiling(size, run.options.img_size), at_once, task_id)
                    return _Scored(
                        int(scored.task_id),
                        _bounded(scored.score).item(),
                        dict(zip(run.moleflow.router.prototypes, _bounded(scored.distances)[0].tolist(), strict=True)),
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

    def _on_device(self, images: Tensor, task_id: int | None = None) -> list[_Scored]:
        """
        Args:
            task_id: whose expert scores them all; None where they are routed.
        """
        run = self._run
        moleflow = run.moleflow
        with plain_modes(), run.context.as_chosen():
            images = images.to(run.device)
            scored = moleflow.routed(images) if task_id is None else moleflow.known(images, task_id)
            pixel_maps = run.scorer.pixel_maps(scored.maps).cpu().numpy()
            patch_maps = _bounded(scored.maps).numpy()
            scores, distances = _bounded(scored.scores).tolist(), _bounded(scored.distances).tolist()
            task_ids = scored.task_ids.tolist()
        tasks = list(moleflow.router.prototypes)
        return [
            # Copies: a view of one image would keep its whole batch alive.
            _Scored(task, score, dict(zip(tasks, row, strict=True)), patch_map.copy(), pixel_map.copy())
            for task, score, row, patch_map, pixel_map in zip(
                task_ids, scores, distances, patch_maps, pixel_maps, strict=True
            )
        ]

    # -- on the host ---------------------------------------------------------------------------------

    def _result(self, decoded: Decoded, scored: _Scored | None, named: bool) -> Result:
        """Args: named: the product is known beforehand, so that others being near says nothing."""
        if scored is None:
            return Result(decoded.source, "error", decoded.error)
        task_id = scored.task_id
        task = self.calibration.tasks[task_id]
        others = [distance for t, distance in scored.distances.items() if t != scored.task_id and not named]
        known = task.knows(scored.distances[scored.task_id], min(others, default=math.inf))
        view = self._view_of(decoded, task.class_names)
        # Interpolation never exceeds what it interpolates: most maps need not be enlarged to see that nothing is there.
        shows = bool(scored.pixel_map.max() > task.pixel_threshold)
        return Result(
            source=decoded.source,
            label="unknown" if not known else "defective" if self.limits[task_id].passed_by(scored.score) else "normal",
            task_id=scored.task_id,
            class_names=task.class_names,
            distances=scored.distances,
            score=scored.score,
            calibrated=task.calibrated(scored.score),
            regions=find_regions(view.lay_over(scored.pixel_map), task.pixel_threshold) if shows else (),
            patch_map=scored.patch_map,
            pixel_map=scored.pixel_map,
            view=view,
        )

    def _view_of(self, decoded: Decoded, products: tuple[str, ...]) -> FieldOfView:
        """A long picture of which the run sees the middle alone is said, once per product."""
        options = self._run.options
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


def _loaded_again(run: Path, device: str, given: tuple[str | None, str | None], options: dict[str, Any]) -> Detector:
    backend, precision = given
    with ExitStack() as stack:
        if backend is not None:
            stack.enter_context(use_backend(backend))
        if precision is not None:
            stack.enter_context(precision_chosen(precision))
        return Detector.load(run, device, **options)


def _without_picture(result: Result, _: Image.Image | None) -> Result:
    return result


def _bounded(values: Tensor) -> Tensor:
    """On the host; what could not be computed is the largest finite value, as in the run's evaluation."""
    return bounded(values.float()).cpu()
