"""A run to a checked file: nothing gets its final name before every runtime at hand agrees with the detector."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from moleflow_fast.config.threshold_options import Level
from moleflow_fast.detector.detector import Detector
from moleflow_fast.errors import UserError
from moleflow_fast.export import check_images as pictures
from moleflow_fast.export import formats, runtimes, trained
from moleflow_fast.export.description import as_strings, describe
from moleflow_fast.export.parity import Answers, Checked, Runtime, check, enough, of_detector
from moleflow_fast.export.program import DetectorProgram
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.run.run import Run
from moleflow_fast.system.callers_state import as_at_start
from moleflow_fast.system.files import replacing, write_json, writing
from moleflow_fast.system.tensor_file import sha256

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}
IMAGES_OF_A_CLASS = 8
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Request:
    """What is to be exported, and where to.

    Raises:
        UserError: options that do not go together.
    """

    run: Path
    format: str
    output: Path | None = None
    """None for the run's own folder."""
    aot: bool = False
    threshold: Level | None = None
    false_alarms: Level | None = None
    data_path: Path | None = None
    images: Path | None = None
    images_of_a_class: int = IMAGES_OF_A_CLASS

    def __post_init__(self) -> None:
        suffix = SUFFIXES[self.format]
        if self.file.suffix != suffix:
            raise UserError(f"-o {self.file}: a file of --format {self.format} is called *{suffix}")
        if self.aot and self.format != "torch":
            raise UserError("--aot compiles the program of --format torch; leave it out, or take that format")
        if self.images_of_a_class < 1:
            raise UserError(f"--check_images must be at least 1, got {self.images_of_a_class}")

    @property
    def file(self) -> Path:
        return self.output or self.run / "export" / f"detector{SUFFIXES[self.format]}"


@dataclass(frozen=True)
class Exported:
    """What was written, and how well it agrees."""

    files: list[Path]
    images: int
    checked: list[Checked]
    notes: list[str]


@dataclass(frozen=True)
class _Check:
    """What a program is compared with."""

    images: NDArray[np.uint8]
    expected: list[Answers]
    detector: Detector

    def of(self, name: str, runtime: Runtime) -> Checked:
        return check(name, runtime, self.images, self.expected, self.detector)


def export(request: Request) -> Exported:
    """Write the files of a request, and how well they agree.

    Raises:
        UserError: no run, no complete checkpoint or calibration, no images to check with, a package that is missing,
            an output that cannot be written, or a program that disagrees with the detector; nothing was written then.
    """
    with as_at_start("cpu"):
        return _export(request)


def _export(request: Request) -> Exported:
    if request.format == "onnx":
        _require_packages()
    directory = RunDirectory.open(request.run)
    with writing(request.file):
        _require_room(request.file)
    loaded = trained.load(directory, request.threshold, request.false_alarms, request.data_path)
    options = loaded.run.options
    if options.view == "tiles":
        raise UserError(
            f"{request.run} sees pictures in tiles (--view tiles), and an exported program takes one square: export a "
            "run trained with --view whole, or label pictures with moleflow predict"
        )
    paths = enough(pictures.to_check_with(loaded.run, request.images, request.images_of_a_class))
    images = np.stack([pictures.prepared(path, options.img_size, options.view) for path in paths])
    expected = [of_detector(detector, paths) for detector in (loaded.detector, loaded.eager)]
    program = formats.trace(DetectorProgram(loaded.run, loaded.detector))
    notes = [*loaded.notes, *_unreached(loaded.run, expected[0])]
    with tempfile.TemporaryDirectory() as place, writing(Path(place)):
        file = Path(place, request.file.name)
        check = _Check(images, expected, loaded.detector)
        if request.format == "torch":
            checked = _make_torch(program, file, check, request.aot)
        else:
            checked = _make_onnx(program, file, check, notes)
        description = describe(loaded.run, loaded.detector, notes, checked)
        _describe(program, file, description)
        files = _move(file.parent, request.file)
    return Exported(files, len(images), checked, notes)


def _unreached(run: Run, answers: Answers) -> list[str]:
    reached = set(answers["task_id"].tolist())
    missed = [name for task in run.tasks.active if task not in reached for name in run.tasks[task]]
    if not missed:
        return []
    return [f"no image was routed to {', '.join(missed)}: those experts are not checked; give pictures with --images"]


def _make_torch(program: ExportedProgram, file: Path, check: _Check, aot: bool) -> list[Checked]:
    formats.write_torch(program, file, {})
    checked = [check.of("torch.export", runtimes.torch_program(file))]
    if aot:
        package = file.with_suffix(".aot.pt2")
        formats.write_aot(program, package)
        checked.append(check.of("AOTInductor", runtimes.aot_package(package)))
    return checked


def _make_onnx(program: ExportedProgram, file: Path, check: _Check, notes: list[str]) -> list[Checked]:
    """What was not tried is added to `notes`."""
    formats.write_onnx(program, file)
    checked = [check.of("onnxruntime", runtimes.onnxruntime(file))]
    try:
        openvino = runtimes.openvino(file)
    except runtimes.NotLoaded as reason:
        notes.append(f"not tried in OpenVINO: {reason}")
    else:
        checked.append(check.of("OpenVINO", openvino))
    return checked


def _describe(program: ExportedProgram, file: Path, description: dict[str, Any]) -> None:
    """Into the file, and beside it."""
    strings = as_strings(description)
    if file.suffix == SUFFIXES["torch"]:
        formats.write_torch(program, file, strings)
    else:
        formats.describe_onnx(file, strings)
    files = [{"name": f.name, "bytes": f.stat().st_size, "sha256": sha256(f)} for f in sorted(file.parent.iterdir())]
    write_json(file.with_name(f"{file.name}.json"), {"files": files, **description})


def _move(made: Path, to: Path) -> list[Path]:
    """All files of a folder to where the main one goes; its description, with its checksum, comes last."""
    files = sorted(made.iterdir(), key=lambda file: (file.suffix == ".json", file.name == to.name))
    for file in files:
        with replacing(to.with_name(file.name)) as temporary:
            shutil.copyfile(file, temporary)
    return [to.with_name(file.name) for file in files]


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install 'moleflow_fast[export]'")


def _require_room(file: Path) -> None:
    """Before minutes of work: whether anything can be written there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        raise IsADirectoryError(None, "it is a folder")
    with tempfile.TemporaryFile(dir=file.parent):
        pass
