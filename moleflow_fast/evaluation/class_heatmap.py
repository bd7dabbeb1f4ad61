"""Heat map sheets of a run's classes: what each shows, and when it is drawn."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moleflow_fast.data.decoder import Decoder
from moleflow_fast.evaluation.drawing_process import DrawingProcess
from moleflow_fast.evaluation.picture_maps import Maps, joined, scores_of, squeezed
from moleflow_fast.evaluation.scorer import Scorer, TestClass, pixels_of
from moleflow_fast.evaluation.sheet import Sheet

logger = logging.getLogger(__name__)

_NOTE = "image score under the defect type; colours from the median normal pixel to the hottest shown"
_PIXELS = 100_000  # of normal maps, for their median


@dataclass(frozen=True)
class _Ordered:
    """A sheet, and what it follows from: task ids (N,) and the values of patch maps."""

    ids: Tensor
    patch_maps: Tensor
    outcome: Future[None]

    def shows(self, ids: Tensor, patch_maps: Tensor) -> bool:
        return torch.equal(self.ids, ids) and torch.equal(self.patch_maps, patch_maps)


class ClassSheets:
    """The sheets of a run, drawn beside it; `with` ends the process that draws.

    Args:
        folder: for CLASS.png.
        count: images of a class, at least 1.
        dataset_of: gives the test images of a class by its name.
        decoder: reads those that are shown.
    """

    def __init__(
        self, scorer: Scorer, folder: Path, count: int, dataset_of: Callable[[str], Any], decoder: Decoder
    ) -> None:
        self._scorer = scorer
        self._folder = folder
        self._count = count
        self._dataset_of = dataset_of
        self._decoder = decoder
        self._ordered: dict[str, _Ordered] = {}
        self._process = DrawingProcess()

    def draw(self, test: TestClass) -> None:
        """Have a class drawn under its routed ids, unless its sheet shows these maps already."""
        ids = self._scorer.route(test)
        patch_maps = self._scorer.patch_maps(test, ids)
        values = joined(patch_maps).cpu()
        before = self._ordered.get(test.name)
        if before is not None and before.shows(ids, values) and not _failed(before, "it is drawn again"):
            return
        dataset = self._dataset_of(test.name)
        sheet = sheet_of(self._scorer, test, dataset, self._decoder, self._count, ids, patch_maps)
        outcome = self._process.draw(self._folder / f"{test.name}.png", sheet)
        self._ordered[test.name] = _Ordered(ids, values, outcome)

    def finish(self) -> None:
        """Wait until all is drawn.

        Raises:
            WriteFailed: a sheet could not be written.
        """
        while self._ordered:
            self._ordered.popitem()[1].outcome.result()

    def __enter__(self) -> ClassSheets:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()
        for ordered in self._ordered.values():
            _failed(ordered, "--resume draws it")


def _failed(ordered: _Ordered, remedy: str) -> bool:
    """Whether it is known that a sheet could not be drawn, which is said."""
    future = ordered.outcome
    problem = future.exception() if future.done() and not future.cancelled() else None
    if problem is not None:
        logger.warning("%s; %s", problem, remedy)
    return problem is not None


def sheet_of(
    scorer: Scorer, test: TestClass, dataset: Any, decoder: Decoder, count: int, ids: Tensor, patch_maps: Maps
) -> Callable[[], Sheet]:
    """Up to `count` test images of a class; the result, which any thread may call, waits until they are read.

    Args:
        dataset: the pictures of `test`.
        decoder: reads them, in its processes if it has some: six PNG files of 1024 px take 0.3 s of a core.
        ids: (N,), the tasks that images are routed to.
        patch_maps: (N, H, W) under these. Those in pictures' own shapes are squeezed to squares, as the pictures are.
    """
    scores = scores_of(patch_maps, scorer.moleflow.config).cpu()
    chosen = choose_images(test.labels, scores, count)
    maps = _squares(scorer, pixels_of(scorer, patch_maps[chosen]), "bilinear").cpu().numpy()
    coldest = _median_pixel(scorer, patch_maps, test.labels)
    hottest = max(float(maps.max()), coldest + 1e-6)
    captions = [(dataset.samples[i].type, f"{scores[i]:.4g}{_elsewhere(int(ids[i]), test.task_id)}") for i in chosen]
    masks = None if test.masks is None else _masks_of(scorer, test.masks, chosen)
    read = decoder.begin([dataset.picture(i) for i in chosen])  # (n, 3, S, S)

    def sheet() -> Sheet:
        pictures = read().transpose(0, 2, 3, 1)
        return Sheet(test.name, _NOTE, pictures, masks, _heat(maps, coldest, hottest), captions, (coldest, hottest))

    return sheet


def _masks_of(scorer: Scorer, masks: Tensor | list[Tensor], chosen: list[int]) -> NDArray[np.bool_]:
    """(n, S, S)"""
    some = masks[chosen] if isinstance(masks, Tensor) else [masks[i] for i in chosen]
    return _squares(scorer, some, "nearest").bool().cpu().numpy()


def _squares(scorer: Scorer, maps: Tensor | list[Tensor], mode: str) -> Tensor:
    """(n, S, S): those of several shapes are squeezed."""
    return maps if isinstance(maps, Tensor) else squeezed(maps, scorer.size, mode)


def choose_images(labels: Tensor, scores: Tensor, count: int) -> list[int]:
    """Indices to look at: two thirds defective spread over their score range, the rest normal, highest last.

    Where nothing is defective all are normal.
    """
    defective = _spread((labels == 1).nonzero().flatten().tolist(), scores, count - count // 3)
    normal = _spread((labels == 0).nonzero().flatten().tolist(), scores, count // 3 if defective else count)
    return defective + normal


def _spread(candidates: list[int], scores: Tensor, count: int) -> list[int]:
    ranked = sorted(candidates, key=lambda i: float(scores[i]))
    if len(ranked) <= count:
        return ranked
    return [ranked[round(p)] for p in np.linspace(0, len(ranked) - 1, count)]


def _elsewhere(routed: int, own: int) -> str:
    return "" if routed == own else f"  → task {routed}"


def _median_pixel(scorer: Scorer, patch_maps: Maps, labels: Tensor) -> float:
    """Of normal images, of all where none is normal."""
    normal = (labels == 0).nonzero().flatten().tolist() or list(range(len(labels)))
    pixels = joined(pixels_of(scorer, patch_maps[normal])).flatten()
    return float(pixels[:: max(1, len(pixels) // _PIXELS)].median())


def _heat(maps: NDArray[np.float32], coldest: float, hottest: float) -> NDArray[np.uint8]:
    """0 at the coldest colour to 255 at the hottest."""
    share = (maps - np.float32(coldest)) / np.float32((hottest - coldest) or 1.0)
    return (share.clip(0, 1) * 255).round().astype(np.uint8)
