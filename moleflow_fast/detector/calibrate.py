"""Measures what is normal for each task of a run, from its images."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moleflow_fast.data.datasets import AnomalyImages
from moleflow_fast.data.stitching import of_pictures, picture_count, picture_features
from moleflow_fast.detector import grey_levels
from moleflow_fast.detector.calibration import ENOUGH_IMAGES, Calibration, TaskCalibration
from moleflow_fast.detector.normal_scores import finite, median, threshold
from moleflow_fast.evaluation.picture_maps import Maps, PictureMaps, scores_of, together
from moleflow_fast.evaluation.scorer import WORST_SCORE, Scorer, TestClass, bounded
from moleflow_fast.extractors.stores import FeatureStore
from moleflow_fast.models.routing import PrototypeRouter
from moleflow_fast.run.run import Run
from moleflow_fast.trainer.cross_fitting import cross_fitted_maps


@dataclass(frozen=True)
class NormalClass:
    """Normal images of a class: files, and their features."""

    dataset: AnomalyImages
    test: TestClass


@dataclass(frozen=True)
class _Distances:
    """Of a task's normal images, trained on and held out, to each task's prototype (n,).

    Attributes:
        grey_level: how far one grey level moves the distance to its own; that is the least a limit may rest on.
        alike: whether the training images hardly differ.
    """

    to: dict[int, Tensor]
    own: Tensor
    grey_level: float
    alike: bool

    @property
    def largest(self) -> float:
        """To its own prototype."""
        return max(float(self.own.max()), self.grey_level)


@dataclass(frozen=True)
class _NormalImages:
    """Those of one class that scores are measured on.

    Attributes:
        cross_fitted: patch maps (n, H, W) of its training images behind fronts that were estimated without them.
    """

    test: TestClass
    images: list[int]
    held_out: bool
    cross_fitted: Maps | None = None


def calibrate(run: Run, tasks: Sequence[int]) -> Calibration:
    """Calibration of tasks, each under its own expert and prototype.

    Scores and pixels come from the test images labelled normal. Of a class that has few, the training images count too:
    behind Gaussian fronts that were estimated without them, else as they are where there is no other image.
    Distances come from both: the fit of a prototype makes those of its training images too short, which a pooled
    router corrects (`PrototypeRouter.held_out_distances`).
    """
    return calibrate_new(run, tasks, Calibration({}))


def calibrate_new(run: Run, tasks: Sequence[int], known: Calibration) -> Calibration:
    """As `calibrate`, beside other tasks, of which all stays as it is known but how near the new images come.

    How near the others' images come to the new tasks is measured where their images are there. Where tasks share a
    covariance, `known` is of the tasks that shared it so far, and its distances are brought to the present one:
    measured again where the images are there, else by `rescaled`.
    """
    known = rescaled(run.moleflow.router, known, run.moleflow.router.prototypes)
    beside = [t for t in known.tasks if run.tasks.have_images(t)]
    normal = {t: [_normal_images(run, t, name) for name in run.tasks[t]] for t in (*beside, *tasks)}
    normal |= {t: _with_cross_fitted(run, t, normal[t]) for t in tasks}
    steps = {t: _grey_level_steps(run, t) for t in normal}
    distances = {t: _distances(run, t, normal[t], steps[t]) for t in normal}
    again = beside if run.moleflow.router.compares_distances else []
    complete = len(again) == len(known.tasks)
    nearer = {t: _beside(old, distances, [*again, *tasks], complete) for t, old in known.tasks.items()}
    return Calibration({**nearer, **{t: _task(run, t, normal[t], distances, steps[t]) for t in tasks}})


def calibrate_on(run: Run, known: Calibration, normal: Mapping[int, Sequence[NormalClass]]) -> Calibration:
    """What is known, with the limits of some tasks from normal images alone that the run has not seen.

    Distances that are known stay the least that limits rest on: they are of the images that were trained on.
    """
    router, found = run.moleflow.router, dict(known.tasks)
    for task_id, classes in normal.items():
        steps = grey_levels.patches_of_steps(run.extractor, [c.dataset for c in classes], run.device)
        images = [_NormalImages(c.test, list(range(len(c.test))), held_out=True) for c in classes]
        columns = router.distances(torch.cat([c.test.image_features for c in classes])).cpu().unbind(1)
        to = dict(zip(router.prototypes, columns, strict=True))
        own = torch.cat([to.pop(task_id), torch.tensor([known.tasks[task_id].largest_distance])])
        alike = known.tasks[task_id].grey_level > 0
        distances = {task_id: _Distances(to, own, _moved_distance(router, task_id, steps), alike)}
        new = _task(run, task_id, images, distances, steps)
        found[task_id] = replace(new, nearest_other=known.tasks[task_id].nearest_other)
        for t, nearest in to.items():
            other = found[t].nearest_other
            found[t] = replace(found[t], nearest_other=min(math.inf if other is None else other, float(nearest.min())))
    return Calibration(found)


def rescaled(router: PrototypeRouter, known: Calibration, now: Collection[int]) -> Calibration:
    """Distances that were measured among the tasks that are known, as they are among the tasks `now`.

    Each task's by the factor of its own training images, which follows from its prototype; for images of other tasks
    that is a guess. Distances that are not pooled stay as they are.
    """
    if not router.compares_distances:
        return known
    still = known.of(now).tasks.items()
    return Calibration({t: _times(task, router.rescaling(t, known.tasks, now)) for t, task in still})


def _times(task: TaskCalibration, factor: float) -> TaskCalibration:
    other = None if task.nearest_other is None else factor * task.nearest_other
    return replace(task, largest_distance=factor * task.largest_distance, nearest_other=other)


def _beside(
    known: TaskCalibration, distances: dict[int, _Distances], others: Sequence[int], complete: bool
) -> TaskCalibration:
    """What is known of a task, with images of tasks at these distances (n,).

    Args:
        others: those that count.
        complete: whether they are all the others: what was known of their distance no longer counts.
    """
    task_id = known.task_id
    found = [float(distances[t].to[task_id].min()) for t in others if t != task_id]
    if known.nearest_other is not None and not complete:
        found.append(known.nearest_other)
    largest = distances[task_id].largest if task_id in others else known.largest_distance
    return replace(known, largest_distance=largest, nearest_other=min(found, default=None))


def _normal_images(run: Run, task_id: int, name: str) -> _NormalImages:
    test = run.features.test_class(name, task_id)
    normal = (test.labels == 0).nonzero().flatten().tolist()
    if normal:
        return _NormalImages(test, normal, held_out=True)
    source = run.features.training([name], rotated=False)
    training = TestClass(name, task_id, source, torch.zeros(picture_count(source)), None)
    return _NormalImages(training, list(range(len(training))), held_out=False)


def _with_cross_fitted(run: Run, task_id: int, classes: list[_NormalImages]) -> list[_NormalImages]:
    """Adds the training images of classes with few held-out ones, where the task has a Gaussian front."""
    few = [c for c in classes if not c.held_out or len(c.images) < ENOUGH_IMAGES]
    if run.moleflow.flow.front(task_id) is None or not few:
        return classes
    source = run.features.training(run.tasks[task_id], rotated=False)
    if picture_count(source) < 2:
        return classes
    maps = _of_pictures(source, cross_fitted_maps(run.moleflow, task_id, source))
    chosen, start = {}, 0
    for c in classes:
        end = start + len(run.images.training([c.test.name], rotated=False))
        chosen[c.test.name] = maps[list(range(start, end))]
        start = end
    return [replace(c, cross_fitted=chosen[c.test.name]) if c in few else c for c in classes]


def _of_pictures(source: FeatureStore, maps: Tensor) -> Maps:
    """Maps (n, H, W) of the items of a source, as maps of its pictures."""
    pictures = of_pictures(source)
    if pictures is None:
        return maps
    whole = pictures.stitched(range(len(pictures)), bounded(maps))
    return PictureMaps(whole, [tiling.picture for tiling in pictures.tilings])


def _grey_level_steps(run: Run, task_id: int) -> Tensor:
    """Patches of some of its training images, see `grey_levels`."""
    datasets = [run.images.training([name], rotated=False) for name in run.tasks[task_id]]
    return grey_levels.patches_of_steps(run.extractor, datasets, run.device)


def _distances(run: Run, task_id: int, classes: list[_NormalImages], steps: Tensor) -> _Distances:
    trained_on = picture_features(run.features.training(run.tasks[task_id], rotated=False))
    held_out = [c.test.image_features[c.images] for c in classes if c.held_out]
    router = run.moleflow.router
    columns = router.distances(torch.cat([trained_on, *held_out])).cpu().unbind(1)
    distances = dict(zip(router.prototypes, columns, strict=True))
    own, fitted = distances.pop(task_id), len(trained_on)
    if not run.options.use_rotation_aug:  # else the prototype has seen other pixels
        own = torch.cat([router.held_out_distances(task_id, own[:fitted]), own[fitted:]])
    alike = grey_levels.hardly_differ(trained_on, steps)
    return _Distances(distances, own, _moved_distance(router, task_id, steps), alike)


def _moved_distance(router: PrototypeRouter, task_id: int, steps: Tensor) -> float:
    return grey_levels.moved(router.distances(steps.mean((1, 2)))[:, list(router.prototypes).index(task_id)])


def _task(
    run: Run,
    task_id: int,
    classes: list[_NormalImages],
    distances: dict[int, _Distances],
    steps: Tensor,
) -> TaskCalibration:
    measured = [_measured(run.scorer, _patch_maps(run.scorer, c, task_id)) for c in classes]
    scores, pixel_medians, pixel_peaks = (torch.cat(values).numpy() for values in zip(*measured, strict=True))
    cross_fitted = sum(len(c.cross_fitted) for c in classes if c.cross_fitted is not None)
    left_out = cross_fitted > 0
    grey_level, peak_level = _moved_scores(run, task_id, steps) if distances[task_id].alike else (0.0, 0.0)
    others = [of.to[task_id] for t, of in distances.items() if t != task_id]
    return TaskCalibration(
        task_id=task_id,
        class_names=tuple(run.tasks[task_id]),
        images=len(scores),
        not_held_out=tuple(c.test.name for c in classes if not c.held_out and c.cross_fitted is None),
        cross_fitted=cross_fitted,
        median=median(scores),
        threshold=threshold(scores, left_out, grey_level),
        pixel_median=median(pixel_medians),
        pixel_threshold=threshold(pixel_peaks, left_out, peak_level),
        largest_distance=distances[task_id].largest,
        nearest_other=float(torch.cat(others).min()) if others else None,
        compares_distances=run.moleflow.router.compares_distances,
        scores=tuple(finite(scores).tolist()),
        grey_level=grey_level,
    )


def _patch_maps(scorer: Scorer, normal: _NormalImages, task_id: int) -> Maps:
    if normal.cross_fitted is None:
        return scorer.patch_maps_under(normal.test, normal.images, task_id)
    if not normal.held_out:
        return normal.cross_fitted
    return together([scorer.patch_maps_under(normal.test, normal.images, task_id), normal.cross_fitted])


def _moved_scores(run: Run, task_id: int, steps: Tensor) -> tuple[float, float]:
    """Twice what one grey level moves a score and the highest pixel of a map by: that is normal with room to spare."""
    ids = torch.full((len(steps),), task_id, device=steps.device)
    scores, _, peaks = _measured(run.scorer, run.moleflow.anomaly_maps(steps, ids))
    return 2 * grey_levels.moved(scores), 2 * grey_levels.moved(peaks)


def _measured(scorer: Scorer, patch_maps: Maps) -> tuple[Tensor, Tensor, Tensor]:
    """Image scores, and the median and the highest pixel of each map (n,), of patch maps (n, H, W)."""
    medians, peaks = [], []
    for some, pixels in _flat(scorer, patch_maps):
        medians.append(pixels.median(1).values)
        peaks.append(pixels.amax(1).masked_fill(some.amax(1) > WORST_SCORE, torch.inf))
    scores = scores_of(patch_maps, scorer.moleflow.config)
    return scores.cpu(), torch.cat(medians).cpu(), torch.cat(peaks).cpu()


def _flat(scorer: Scorer, patch_maps: Maps) -> Iterator[tuple[Tensor, Tensor]]:
    """Patches (n, p) and pixels (n, P) of some images at a time: of pictures in their own shapes, one."""
    if isinstance(patch_maps, Tensor):
        for some in patch_maps.split(scorer.batch_size):
            yield some.flatten(1), scorer.pixel_maps(some).flatten(1)
        return
    for i, one in enumerate(patch_maps.maps):
        (pixels,) = scorer.picture_maps(patch_maps[[i]])
        yield one.flatten()[None], pixels.flatten()[None]
