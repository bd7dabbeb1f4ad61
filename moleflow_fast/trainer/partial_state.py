"""A task in training on the disk: `task_<t>.partial.safetensors`, gone when the task is complete.

One file, its description in the safetensors header: state and description are replaced together. It holds

    model.NAME  optimizer.N.NAME  statistics.NAME     tensors of a `TaskState`
    header: state                                     JSON: schema, what it belongs to, the records of its epochs
    header: sha256                                    of that JSON and of every tensor
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from moleflow_fast.config.stored import require_types
from moleflow_fast.system.interruption import Interrupted, asked_to_end
from moleflow_fast.system.phases import phase
from moleflow_fast.system.tensor_file import write_tensors
from moleflow_fast.trainer.task_state import EpochRecord, TaskState

SCHEMA = 1
SECONDS_BETWEEN = 60.0
_PARTS = ("model", "optimizer", "statistics")


class UnusableState(Exception):
    """A state that is damaged or belongs to another training."""


class PartialState:
    """The state of one task: kept every so often, and when the run is asked to end, which it then does.

    Args:
        belongs_to: what must be equal for a stored state to be gone on from, as JSON's types.
        seconds: between two states that are written.
    """

    def __init__(
        self,
        directory: Path,
        task_id: int,
        belongs_to: Mapping[str, Any],
        logger: logging.Logger,
        seconds: float = SECONDS_BETWEEN,
    ) -> None:
        self.file = _file(directory, task_id)
        self._task_id = task_id
        self._belongs_to = json.loads(json.dumps(belongs_to))
        self._logger = logger
        self._seconds = seconds
        self._last = time.monotonic()

    def stored(self) -> TaskState | None:
        """What an interrupted training left; None, with a warning, where it cannot be used."""
        if not self.file.exists():
            return None
        try:
            return _read(self.file, self._task_id, self._belongs_to)
        except UnusableState as error:
            self.refuse(str(error))
            return None

    def refuse(self, reason: str) -> None:
        self._logger.warning("%s is not used (%s): task %d starts over", self.file, reason, self._task_id)

    def epoch_ended(self, state: Callable[[], TaskState]) -> None:
        """Write the state if it is time.

        Raises:
            Interrupted: the run was asked to end; the state is written.
            WriteFailed: it could not be written; the one before is kept.
        """
        signal = asked_to_end()
        if signal is not None or time.monotonic() - self._last >= self._seconds:
            with phase("checkpoints"):
                _write(self.file, state(), self._belongs_to)
            self._last = time.monotonic()
        if signal is not None:
            raise Interrupted(signal)


def remove(directory: Path, tasks: Iterable[int]) -> None:
    """Forget the states of these tasks: they are complete."""
    for task_id in tasks:
        _file(directory, task_id).unlink(missing_ok=True)


def _write(file: Path, state: TaskState, belongs_to: Mapping[str, Any]) -> None:
    tensors = {f"{part}.{name}": value for part in _PARTS for name, value in getattr(state, part).items()}
    records = [asdict(record) for record in state.records]
    description = json.dumps({"schema": SCHEMA, "belongs_to": belongs_to, "records": records})
    ours = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_tensors(file, ours, {"state": description, "sha256": _checksum(description, ours)})


def _read(file: Path, task_id: int, belongs_to: Mapping[str, Any]) -> TaskState:
    description, tensors = _checked(file)
    try:
        found = json.loads(description)
        if found["schema"] != SCHEMA:
            raise UnusableState(f"it is of schema {found['schema']}, and this version reads {SCHEMA}")
        different = [n for n in {*belongs_to, *found["belongs_to"]} if belongs_to.get(n) != found["belongs_to"].get(n)]
        for record in found["records"]:
            require_types(EpochRecord, record)
        records = [EpochRecord(**record) for record in found["records"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnusableState(f"its description is damaged: {error}") from error
    if different:
        raise UnusableState(f"it belongs to another training: {', '.join(sorted(different))} differ")
    if not records or [(r.task_id, r.epoch) for r in records] != [(task_id, e) for e in range(len(records))]:
        raise UnusableState("its epochs are not those of the task")
    return TaskState(records, **{part: _part(part, tensors) for part in _PARTS})


def _part(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = part + "."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _checked(file: Path) -> tuple[str, dict[str, Tensor]]:
    try:
        with safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 not a mapping
        if metadata["sha256"] != _checksum(metadata["state"], tensors):
            raise UnusableState("its SHA-256 is not the one that was noted")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UnusableState(f"it is damaged: {error}") from error
    return metadata["state"], tensors


def _checksum(description: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _file(directory: Path, task_id: int) -> Path:
    return directory / f"task_{task_id}.partial.safetensors"
