"""python tests/faults/fuzz.py --cases 5000: damaged files of every kind give a result or a clear error.

Each target takes a file that a run reads, wounds it at random, and reads it: nothing but a result or a UserError may
come of it, within SECONDS and BYTES. Prints how many cases ended how.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from faults.mutations import damaged_bytes, damaged_json
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from small_trainer import TensorSource, make_trainer, task_features, train

from moleflow_fast.config.options import RunOptions
from moleflow_fast.data import decoding
from moleflow_fast.errors import UserError
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.trainer import checkpoint, partial_state
from moleflow_fast.trainer.feature_loader import FeatureLoader
from moleflow_fast.trainer.published_checkpoint import load_published
from moleflow_fast.trainer.task_state import EpochRecord, TaskState

SECONDS = 20
BYTES = 2 << 30  # beyond what the process has before
OPTIONS = {"embed_dim": 16, "lora_rank": 3}
LOGGER = logging.getLogger("fuzz")
LOGGER.disabled = True


class Hang(BaseException):
    """A case that took too long; no handler of errors takes it for one."""


@contextmanager
def bounded() -> Iterator[None]:
    """Hang after SECONDS; MemoryError beyond BYTES."""

    def late(number: int, frame: object) -> None:
        raise Hang

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, hard))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# -- what is read --------------------------------------------------------------------------------------


def read_config(folder: Path, content: bytes) -> None:
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "config.json").write_bytes(content)
    RunDirectory.open(folder / "run").options()
    RunDirectory.create(RunOptions(data_path="x", log_dir=str(folder), experiment_name="run", resume=True))


def read_checkpoint(folder: Path, description: bytes, tensors: bytes) -> None:
    (folder / "task_0.json").write_bytes(description)
    (folder / "task_0.safetensors").write_bytes(tensors)
    checkpoint.load_tasks(folder, make_trainer().moleflow, OPTIONS)


def read_partial(folder: Path, content: bytes) -> None:
    keeper = partial_state.PartialState(folder, 0, OPTIONS, LOGGER)
    keeper.file.write_bytes(content)
    trainer = make_trainer()
    trainer._begin_task(0)
    if not trainer._go_on(0, trainer._stages(0, 5, 1e-2), keeper):
        raise UserError("starts over")


def read_published(folder: Path, content: bytes) -> None:
    (folder / "nf_model.pth").write_bytes(content)
    load_published(folder / "nf_model.pth", make_trainer().moleflow)


def read_tables(folder: Path, epochs: bytes, evaluation: bytes) -> None:
    directory = RunDirectory(folder)
    (folder / "evaluation").mkdir(exist_ok=True)
    (folder / "epochs.csv").write_bytes(epochs)
    (folder / "evaluation" / "after_task_0.csv").write_bytes(evaluation)
    directory.epochs_of(0)
    directory.keep_epochs_of([0, 1])
    directory.first_to_evaluate(2)
    directory.read_evaluation(0)


def read_image(folder: Path, content: bytes) -> None:
    file = folder / "image"
    file.write_bytes(content)
    problems = []
    for read in (decoding.verify, decoding.load_image, decoding.load_mask, decoding.upright_size):
        try:
            read(file)
        except UserError as error:
            problems.append(error)
    if problems:
        raise problems[0]


# -- whole files ---------------------------------------------------------------------------------------


@cache
def whole_checkpoint() -> tuple[dict[str, Any], bytes]:
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer()
        train(trainer, 0, epochs=1)
        checkpoint.save_task(Path(folder), trainer.moleflow, 0, OPTIONS, trainer.promises_zero_forgetting)
        description = json.loads((Path(folder) / "task_0.json").read_text())
        return description, (Path(folder) / "task_0.safetensors").read_bytes()


@cache
def whole_state() -> TaskState:
    states: list[TaskState] = []

    class Keeper(partial_state.PartialState):
        def epoch_ended(self, state: Callable[[], TaskState]) -> None:
            states.append(state())

    keeper = Keeper(Path("nowhere"), 0, OPTIONS, LOGGER)
    loader = FeatureLoader(TensorSource(task_features(0)), 4, seed=0)
    make_trainer().train_task(0, ["a"], loader, 2, lr=1e-2, keeper=keeper)
    return states[0]


@cache
def whole_partial() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        keeper = partial_state.PartialState(Path(folder), 0, OPTIONS, LOGGER, 0)
        keeper.epoch_ended(whole_state)
        return keeper.file.read_bytes()


@cache
def whole_published() -> bytes:
    trainer = make_trainer()
    train(trainer, 0, epochs=1)
    content = io.BytesIO()
    torch.save(trainer.nf_model.reference_state_dict(), content)
    return content.getvalue()


@cache
def whole_tables() -> tuple[bytes, bytes]:
    head = ",".join(EpochRecord.__dataclass_fields__)
    epochs = f"{head}\r\n" + "".join(f"0,train,{e},3,1.5,0.001,4,0.25,0\r\n" for e in range(3))
    names = (
        "ids,class_name,task_id,images,image_auroc,image_ap,pixel_auroc,pixel_ap,aupro,image_f1,image_threshold,"
        "pixel_f1,pixel_threshold,routing_accuracy"
    )
    rows = "".join(f'{ids},"a, b",0,4,0.5,nan,0.5,0.5,0.5,0.5,1.5,0.5,1.5,1.0\r\n' for ids in ("routed", "oracle"))
    return epochs.encode(), f"{names}\r\n{rows}".encode()


@cache
def whole_images() -> tuple[bytes, ...]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    colour, wide = Image.fromarray(pixels), Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    return tuple(
        _encoded(image, kind, **options)
        for image, kind, options in (
            (colour, "PNG", {"exif": exif}), (colour.convert("P"), "PNG", {}), (wide, "PNG", {}),
            (colour, "JPEG", {"exif": exif}), (colour.convert("L"), "JPEG", {}), (colour, "BMP", {}),
            (colour, "TIFF", {}), (wide, "TIFF", {}), (colour, "TIFF", {"compression": "tiff_lzw", "exif": exif}),
            (Image.fromarray(pixels[..., 0] / np.float32(255)), "TIFF", {}), (colour, "GIF", {}), (colour, "WEBP", {}),
        )
    )  # fmt: skip


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


# -- wounds --------------------------------------------------------------------------------------------


def _as_json(document: Any) -> bytes:
    return json.dumps(document).encode("utf-8", "replace")


def configs() -> st.SearchStrategy[tuple[bytes, ...]]:
    whole = {"options": RunOptions(data_path="x").to_json(), "environment": {}}
    return st.tuples(damaged_json(whole).map(_as_json) | damaged_bytes(_as_json(whole)))


def descriptions() -> st.SearchStrategy[tuple[bytes, ...]]:
    description, tensors = whole_checkpoint()
    damaged = damaged_json(description).map(_as_json) | damaged_bytes(_as_json(description))
    return st.tuples(damaged, st.just(tensors))


def tensor_files() -> st.SearchStrategy[tuple[bytes, ...]]:
    """With and without the checksum that would tell."""
    description, tensors = whole_checkpoint()
    unsigned = {name: value for name, value in description.items() if name != "sha256"}
    damaged = _headers(tensors) | damaged_bytes(tensors, start=4096)
    return st.tuples(st.sampled_from([description, unsigned, unsigned]).map(_as_json), damaged)


def _headers(whole: bytes) -> st.SearchStrategy[bytes]:
    (length,) = struct.unpack("<Q", whole[:8])
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def assembled(damaged: Any) -> bytes:
        text = _as_json(damaged)
        return struct.pack("<Q", len(text)) + text + body

    return damaged_json(header).map(assembled)


def partials() -> st.SearchStrategy[tuple[bytes, ...]]:
    """Damaged, or well signed and foreign."""
    return st.tuples(damaged_bytes(whole_partial(), start=4096) | _headers(whole_partial()) | _signed())


def _signed() -> st.SearchStrategy[bytes]:
    state = whole_state()
    records = [vars(record) for record in state.records]
    description = {"schema": partial_state.SCHEMA, "belongs_to": OPTIONS, "records": records}
    tensors = {f"{p}.{n}": v for p in ("model", "optimizer", "statistics") for n, v in getattr(state, p).items()}
    names = sorted(tensors)
    shapes = st.sampled_from([torch.zeros(()), torch.zeros(1), torch.zeros(3, 2), torch.zeros(0), torch.tensor(-5)])

    def assembled(drawn: tuple[Any, dict[str, Any], list[int]]) -> bytes:
        document, others, lost = drawn
        kept = {n: tensors[n] for i, n in enumerate(names) if i not in lost} | others
        kept = {name: value.clone().contiguous() for name, value in kept.items()}
        text = json.dumps(document)
        return save(kept, {"state": text, "sha256": partial_state._checksum(text, kept)})

    others = st.dictionaries(
        st.sampled_from([*names, "optimizer.99.step", "optimizer.x.step", "model.x", "y", "statistics.count", "."]),
        shapes, max_size=2,
    )  # fmt: skip
    documents = st.just(description) | damaged_json(description)
    return st.tuples(documents, others, st.lists(st.integers(0, len(names)), max_size=1)).map(assembled)


def published() -> st.SearchStrategy[tuple[bytes, ...]]:
    return st.tuples(damaged_bytes(whole_published(), start=2048))


def tables() -> st.SearchStrategy[tuple[bytes, ...]]:
    epochs, evaluation = whole_tables()
    return st.tuples(st.just(epochs) | damaged_bytes(epochs), damaged_bytes(evaluation) | st.just(evaluation))


def images() -> st.SearchStrategy[tuple[bytes, ...]]:
    return st.tuples(st.sampled_from(whole_images()).flatmap(lambda whole: damaged_bytes(whole, start=160)))


Target = tuple[Callable[[], st.SearchStrategy[tuple[bytes, ...]]], Callable[..., None]]
TARGETS: dict[str, Target] = {
    "config.json": (configs, read_config),
    "task_<t>.json": (descriptions, read_checkpoint),
    "task_<t>.safetensors": (tensor_files, read_checkpoint),
    "task_<t>.partial.safetensors": (partials, read_partial),
    "nf_model.pth": (published, read_published),
    "epochs.csv, evaluation/*.csv": (tables, read_tables),
    "images and masks": (images, read_image),
}


def fuzz(target: str, cases: int, start: int | None) -> Counter[str]:
    """Raises what a case raised that is no UserError; hypothesis shows the smallest such file.

    Args:
        start: of the random numbers; None for the same cases every time.
    """
    strategy, read = TARGETS[target]
    counts: Counter[str] = Counter()

    @st.composite
    def damaged_files(draw: st.DrawFn) -> tuple[bytes, ...]:  # whose name alone hypothesis prints
        return draw(strategy())

    @settings(
        max_examples=cases, deadline=None, derandomize=start is None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(damaged_files())
    def check(files: tuple[bytes, ...]) -> None:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), bounded():
            warnings.simplefilter("ignore")
            try:
                read(Path(folder), *files)
                counts["read"] += 1
            except UserError:
                counts["refused"] += 1

    (check if start is None else seed(start)(check))()
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000, help="altogether")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, help="one kind of file alone")
    args = parser.parse_args()
    logging.getLogger("moleflow_fast").setLevel(logging.ERROR)
    targets = [args.target] if args.target else list(TARGETS)
    started, total = time.monotonic(), 0
    for target in targets:
        counts = fuzz(target, -(-args.cases // len(targets)), args.seed)
        total += counts.total()
        print(f"{target:32} {counts['read']:6} read {counts['refused']:6} refused", flush=True)
    print(
        f"{total} cases, no other exception, none over {SECONDS} s or {BYTES >> 30} GiB, seed {args.seed}, "
        f"{time.monotonic() - started:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
