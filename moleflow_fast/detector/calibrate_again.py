"""The calibration of a finished run, measured anew and replaced at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from moleflow_fast.detector.calibrate import NormalClass, calibrate, calibrate_on
from moleflow_fast.detector.calibration import Calibration, CalibrationError
from moleflow_fast.detector.calibration_file import read_calibration, write_calibration
from moleflow_fast.detector.images import files_of
from moleflow_fast.detector.trained_run import TrainedRun
from moleflow_fast.errors import UserError
from moleflow_fast.run.directory import RunDirectory

_SPLITS = ("train", "test")
_VISA_TABLE = "split_csv"


@dataclass(frozen=True)
class Change:
    """What was known before, None where there was no file, and what is now, of the tasks that were measured."""

    before: Calibration | None
    after: Calibration
    measured: list[int]
    notes: list[str]


def calibrate_again(
    directory: RunDirectory, device: str = "auto", folder: Path | None = None, products: Sequence[str] = ()
) -> Change:
    """Measure a run's calibration anew, and replace the file once all is measured.

    Args:
        folder: normal images, by product or of the one in `products`; or the run's data, where they are now.
        products: those that are measured, all if left out.

    Raises:
        UserError: no run, no images, or images of no product that is known; the file stays as it was.
    """
    before = read_calibration(directory)
    own_data = folder is None or _is_data(folder)
    with closing(TrainedRun(directory, device, folder if own_data else None)) as trained, directory.held():
        tasks = _tasks_of(trained, products)
        with trained.run.context.as_chosen():
            if folder is None or own_data:
                change = Change(before, _on_own_data(trained, before, tasks), tasks, [])
            else:
                change = _on_images(trained, before, _files(trained, folder, products))
        write_calibration(directory, change.after)
    return change


def _is_data(folder: Path) -> bool:
    """Whether products lie in it as in a run's data set, with training and test images."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check --data_path")
    return (folder / _VISA_TABLE).is_dir() or any((d / split).is_dir() for d in folder.iterdir() for split in _SPLITS)


def _tasks_of(trained: TrainedRun, products: Sequence[str]) -> list[int]:
    """The tasks of these products, or all."""
    unknown = [name for name in products if name not in trained.run.tasks.classes]
    if unknown:
        raise UserError(
            f"--product {unknown[0]}: the run knows no such product; it knows {', '.join(trained.run.tasks.classes)}"
        )
    return [t for t in trained.run.tasks.active if not products or set(trained.run.tasks[t]) & set(products)]


def _on_own_data(trained: TrainedRun, before: Calibration | None, tasks: Sequence[int]) -> Calibration:
    try:
        measured = calibrate(trained.run, trained.run.tasks.active)
    except CalibrationError:
        raise
    except UserError as error:
        raise UserError(
            f"the images that the run was made of are not where they were: say where with --data_path. {error}"
        ) from error
    kept = {} if before is None else before.of(trained.run.tasks.active).tasks
    return Calibration({**measured.tasks, **{t: task for t, task in kept.items() if t not in tasks}})


def _files(trained: TrainedRun, folder: Path, products: Sequence[str]) -> dict[str, list[Path]]:
    """The normal images of each product in a folder."""
    asked = list(products) or trained.run.tasks.classes
    if (folder / "train").is_dir() or (folder / "test").is_dir():
        raise UserError(f"{folder} is itself a product's folder: give its parent, or its normal images alone")
    by_name = {name: folder / name for name in asked if (folder / name).is_dir()}
    if by_name:
        missing = [name for name in products if name not in by_name]
        if missing:
            raise UserError(f"{folder}: no folder {missing[0]} in it, but there is {', '.join(by_name)}")
    elif len(asked) == 1:
        by_name = {asked[0]: folder}
    else:
        raise UserError(
            f"{folder}: which product do its images show? No folder in it is called {' or '.join(asked)}; "
            "say it with --product NAME"
        )
    return {name: files_of(place) for name, place in by_name.items()}


def _on_images(trained: TrainedRun, before: Calibration | None, files: dict[str, list[Path]]) -> Change:
    if before is None:
        raise CalibrationError(
            "the run has no calibration.json, and limits of unknown images rest on all its products: calibrate it on "
            "its own images first, without --data_path or with the folder they are in now"
        )
    normal = {}
    for task_id in (t for t in trained.run.tasks.active if set(trained.run.tasks[t]) & files.keys()):
        missing = [name for name in trained.run.tasks[task_id] if name not in files]
        if missing:
            raise UserError(
                f"{', '.join(trained.run.tasks[task_id])} were learned together and have one limit: images of "
                f"{', '.join(missing)} are missing"
            )
        normal[task_id] = [trained.normal_class(name, task_id, files[name]) for name in trained.run.tasks[task_id]]
    notes = [note for classes in normal.values() for one in classes if (note := _if_elsewhere(trained, one))]
    return Change(before, calibrate_on(trained.run, before, normal), list(normal), notes)


def _if_elsewhere(trained: TrainedRun, one: NormalClass) -> str:
    """What is to be said where images are routed to another product."""
    elsewhere = int((trained.run.scorer.route(one.test) != one.test.task_id).sum())
    if elsewhere == 0:
        return ""
    return (
        f"{elsewhere} of {len(one.test)} images of {one.test.name} lie nearest to another product: look whether they "
        "are of it"
    )
