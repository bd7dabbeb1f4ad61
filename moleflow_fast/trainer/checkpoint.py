"""Checkpoints: one safetensors file per task, written whole or not at all.

    checkpoints/task_0.safetensors    shared base and expert of task 0
    checkpoints/task_1.safetensors    expert of task 1 (and the base again where it may have changed)
    checkpoints/task_<t>.json         classes, configuration, which tasks the file builds on, and its SHA-256

The state after task t is files 0 to t merged in order. Each file also holds the task's routing prototype.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.models import published_format as reference_format
from moleflow_fast.system.files import reading, write_json
from moleflow_fast.system.tensor_file import CheckpointError, read_tensors, sha256, write_tensors

SCHEMA = 1  # of the JSON; files without one are older, and say the same but for the checksum
_MODEL, _ROUTER, _STATISTICS = "model.", "router.", "statistics."


@dataclass(frozen=True)
class Description:
    """What task_<t>.json says of task_<t>.safetensors; a file of an older run has neither schema nor checksum."""

    task_id: int
    classes: list[str]
    model: dict[str, Any]
    whole: bool
    schema: int = 0
    sha256: str | None = None


def save_task(
    directory: Path, moleflow: MoLEFlow, task_id: int, model_options: Mapping[str, Any], base_is_frozen: bool
) -> None:
    """Write what `task_id` added or may have changed. The JSON file comes last: it marks the task complete.

    Args:
        base_is_frozen: see `MoLEFlow.learned`.

    Raises:
        WriteFailed: names the file; earlier tasks are as they were.
    """
    whole = task_id == 0 or not base_is_frozen
    tensors = {_MODEL + name: value for name, value in moleflow.learned(task_id, base_is_frozen).items()}
    for name, value in moleflow.router.prototypes[task_id].state_dict().items():
        tensors[f"{_ROUTER}{task_id}.{name}"] = value
    statistics = moleflow.flow.feature_statistics
    if task_id == 0 and statistics.mean is not None and statistics.std is not None:
        tensors[_STATISTICS + "mean"], tensors[_STATISTICS + "std"] = statistics.mean, statistics.std
    written = write_tensors(_tensor_file(directory, task_id), tensors)
    classes = moleflow.task_classes[task_id]
    description = Description(task_id, classes, dict(model_options), whole, SCHEMA, written)
    write_json(_marker(directory, task_id), asdict(description))


def checksum(directory: Path, task_id: int) -> str:
    """SHA-256 of the tensor file of a complete task."""
    return _description(directory, task_id).sha256 or sha256(_tensor_file(directory, task_id))


def is_complete(directory: Path, task_id: int) -> bool:
    with reading(directory):
        return _marker(directory, task_id).exists() and _tensor_file(directory, task_id).exists()


def completed_tasks(directory: Path) -> list[int]:
    """Tasks 0, 1, ... whose checkpoints are complete, up to the first gap."""
    tasks = 0
    while is_complete(directory, tasks):
        tasks += 1
    return list(range(tasks))


def keep_valid(directory: Path, tasks: int, base_is_frozen: bool) -> list[int]:
    """Of tasks 0 to `tasks` - 1 those complete and still valid; the others no longer count as complete.

    A task learned on a frozen base stands on task 0 alone, any other one on all before it.
    """
    before_gap = completed_tasks(directory)[:tasks]
    valid = [t for t in range(tasks) if is_complete(directory, t)] if before_gap and base_is_frozen else before_gap
    for task_id in set(range(tasks)) - set(valid):
        _marker(directory, task_id).unlink(missing_ok=True)
    return valid


def remove(directory: Path, tasks: Iterable[int]) -> None:
    """Delete the files of tasks that no other stands on."""
    for task_id in tasks:
        for file in (_marker(directory, task_id), _tensor_file(directory, task_id)):
            file.unlink(missing_ok=True)


def load_tasks(
    directory: Path, moleflow: MoLEFlow, model_options: Mapping[str, Any], tasks: int | None = None
) -> list[int]:
    """Restore model and router to the state after the last complete task (or after `tasks` of them).

    Raises:
        CheckpointError: nothing to load, a damaged file, or another configuration.
    """
    complete = completed_tasks(directory)[:tasks]
    if not complete:
        raise CheckpointError(f"{directory} holds no complete checkpoint (expected task_0.json and .safetensors)")
    for task_id in complete:
        load_task(directory, moleflow, task_id, model_options)
    return complete


def load_task(directory: Path, moleflow: MoLEFlow, task_id: int, model_options: Mapping[str, Any]) -> None:
    """Add what one complete task learned; the tasks that it builds on are there.

    Raises:
        CheckpointError: a damaged file, or another configuration.
    """
    description = _description(directory, task_id)
    _require_same_options(directory, description.model, model_options)
    file = _tensor_file(directory, task_id)
    tensors = read_tensors(
        file, description.sha256, "delete it and its .json to train that task and the later ones again"
    )
    try:
        _take_in(moleflow, description, task_id, tensors)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{file} does not fit the model: {error}") from error


def _take_in(moleflow: MoLEFlow, description: Description, task_id: int, tensors: Mapping[str, Tensor]) -> None:
    model = moleflow.flow
    state = {n.removeprefix(_MODEL): v for n, v in tensors.items() if n.startswith(_MODEL)}
    if any(owner > task_id for owner in reference_format.task_ids(state)):
        raise ValueError("it holds a later task")
    moleflow.task_classes[task_id] = description.classes
    model.add_task(task_id)
    result = model.load_state_dict(state, strict=False)
    if result.unexpected_keys or (description.whole and result.missing_keys):
        raise ValueError(_some([*result.unexpected_keys, *result.missing_keys]))
    prefix = f"{_ROUTER}{task_id}."
    prototype = moleflow.router.new_prototype(task_id, description.classes)
    prototype.load_state_dict(
        _of_width(model.embed_dim, {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
    )
    moleflow.router.add_prototype(prototype)
    if _STATISTICS + "mean" in tensors:
        found = {name: tensors[_STATISTICS + name] for name in ("mean", "std")}
        model.feature_statistics.restore(**_of_width(model.embed_dim, found))
    model.freeze()


def _of_width(width: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, if they are of so many channels."""
    square = (width, width)
    shapes = {"mean": (width,), "std": (width,), "covariance": square, "scatter": square, "fourth": (), "n_samples": ()}
    wrong = [name for name, value in tensors.items() if value.shape != shapes[name] or value.is_complex()]
    if wrong:
        raise ValueError(f"{_some(wrong)} not of {width} channels")
    return tensors


def _description(directory: Path, task_id: int) -> Description:
    file = _marker(directory, task_id)
    remedy = "delete it to train that task and the later ones again"
    try:
        with reading(file):
            content = json.loads(file.read_bytes())
        schema = content.get("schema", 0)
        if type(schema) is int and schema > SCHEMA:
            raise CheckpointError(
                f"{file} is of schema {schema}, and this version of moleflow_fast reads up to {SCHEMA}: take the "
                "version that wrote it, or a newer one"
            )
        description = Description(**content)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); {remedy}") from error
    if not _sound(description, task_id):
        raise CheckpointError(f"{file} is damaged (not what task {task_id} writes); {remedy}")
    return description


def _sound(description: Description, task_id: int) -> bool:
    kinds = (int, list, dict, bool, int, str | None)
    values = asdict(description).values()
    return (
        all(isinstance(value, kind) for value, kind in zip(values, kinds, strict=True))
        and description.task_id == task_id
        and all(isinstance(name, str) for name in description.classes)
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:8])


def _require_same_options(directory: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    defaults = vars(AblationConfig())
    # A switch that the file does not name is younger than the file, which had what is its default now.
    stored = {**{name: defaults[name] for name in asked if name in defaults}, **stored}
    different = [
        f"{name}: checkpoint {stored.get(name)!r}, asked for {asked.get(name)!r}"
        for name in sorted({*stored, *asked})
        if stored.get(name) != json.loads(json.dumps(asked.get(name)))
    ]
    if stored.get("backbone") != asked.get("backbone") and len(different) == 1:
        raise CheckpointError(
            f"{directory} was trained on other backbone weights ({different[0]}): give those with --backbone_weights. "
            "Random ones lie in backbone.safetensors of the run's directory; a run of an older version has no such "
            "file, and loads only on the kind of processor that drew them: train it again"
        )
    if different:
        raise CheckpointError(
            f"{directory} belongs to another configuration ({'; '.join(different)}); use the same options or "
            "another --experiment_name"
        )


def _marker(directory: Path, task_id: int) -> Path:
    return directory / f"task_{task_id}.json"


def _tensor_file(directory: Path, task_id: int) -> Path:
    return directory / f"task_{task_id}.safetensors"
