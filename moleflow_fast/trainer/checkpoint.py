"""Checkpoints: one safetensors file per task, written whole or not at all, and published ones imported.

    checkpoints/task_0.safetensors    shared base and expert of task 0
    checkpoints/task_1.safetensors    expert of task 1 (and the base again where it may have changed)
    checkpoints/task_<t>.json         classes, configuration, and which tasks the file builds on

The state after task t is files 0 to t merged in order. Each file also holds the task's routing prototype.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moleflow_fast.errors import UserError
from moleflow_fast.files import replacing, write_json
from moleflow_fast.models import reference_format
from moleflow_fast.models.routing import TaskPrototype
from moleflow_fast.trainer.continual_trainer import MoLEContinualTrainer

_MODEL, _ROUTER, _STATISTICS = "model.", "router.", "statistics."


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or of another configuration."""


def save_task(directory: Path, trainer: MoLEContinualTrainer, task_id: int, model_options: Mapping[str, Any]) -> None:
    """Write what `task_id` added or may have changed. The JSON file comes last: it marks the task complete."""
    whole = task_id == 0 or not trainer.promises_zero_forgetting
    state = trainer.nf_model.state_dict()
    tensors = {_MODEL + n: v for n, v in state.items() if _belongs(n, task_id, whole)}
    for name, value in trainer.router.prototypes[task_id].state_dict().items():
        tensors[f"{_ROUTER}{task_id}.{name}"] = value
    statistics = trainer.nf_model.feature_statistics
    if task_id == 0 and statistics.mean is not None and statistics.std is not None:
        tensors[_STATISTICS + "mean"], tensors[_STATISTICS + "std"] = statistics.mean, statistics.std
    try:
        with replacing(_tensor_file(directory, task_id)) as temporary:
            save_file({n: v.contiguous().cpu() for n, v in tensors.items()}, temporary)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"task {task_id} could not be saved to {directory} ({error}); earlier tasks are kept: free some space "
            "and run again with --resume"
        ) from error
    description = {
        "task_id": task_id,
        "classes": trainer.task_classes[task_id],
        "model": dict(model_options),
        "whole": whole,
    }
    write_json(_marker(directory, task_id), description)


def is_complete(directory: Path, task_id: int) -> bool:
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


def load_tasks(
    directory: Path, trainer: MoLEContinualTrainer, model_options: Mapping[str, Any], tasks: int | None = None
) -> list[int]:
    """Restore model and router to the state after the last complete task (or after `tasks` of them).

    Raises:
        CheckpointError: nothing to load, a damaged file, or another configuration.
    """
    complete = completed_tasks(directory)[:tasks]
    if not complete:
        raise CheckpointError(f"{directory} holds no complete checkpoint (expected task_0.json and .safetensors)")
    for task_id in complete:
        load_task(directory, trainer, task_id, model_options)
    return complete


def load_task(
    directory: Path, trainer: MoLEContinualTrainer, task_id: int, model_options: Mapping[str, Any]
) -> None:
    """Add what one complete task learned; the tasks that it builds on are there.

    Raises:
        CheckpointError: a damaged file, or another configuration.
    """
    description = json.loads(_marker(directory, task_id).read_text())
    _require_same_options(directory, description["model"], model_options)
    tensors = _read_tensors(_tensor_file(directory, task_id))
    model = trainer.nf_model
    trainer.task_classes[task_id] = list(description["classes"])
    model.add_task(task_id)
    state = {n.removeprefix(_MODEL): v for n, v in tensors.items() if n.startswith(_MODEL)}
    result = model.load_state_dict(state, strict=False)
    if result.unexpected_keys or (description["whole"] and result.missing_keys):
        wrong = [*result.unexpected_keys, *result.missing_keys]
        raise CheckpointError(f"{_tensor_file(directory, task_id)} does not fit the model: {', '.join(wrong[:8])}")
    prototype = TaskPrototype(task_id, description["classes"], trainer.device)
    prefix = f"{_ROUTER}{task_id}."
    prototype.load_state_dict({n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
    trainer.router.add_prototype(prototype)
    if _STATISTICS + "mean" in tensors:
        model.feature_statistics.restore(tensors[_STATISTICS + "mean"], tensors[_STATISTICS + "std"])
    model.freeze()


def load_published(path: Path, trainer: MoLEContinualTrainer) -> list[int]:
    """Import a checkpoint of the published implementation; returns its task ids.

    Accepts a bare state dict (`*.pth`), a directory `task_<t>/` with `nf_model.pth`, or a run directory holding
    several, of which the last is taken: its state dict contains every earlier expert. Routing prototypes are not
    part of that state dict; the caller builds them from training images (`build_prototype`).

    Raises:
        CheckpointError: not a checkpoint, needs pickled code, or does not fit the model.
    """
    file = _published_state_file(path)
    state = _read_torch(file)
    state = state.get("state_dict", state.get("nf_model", state))
    tasks = reference_format.task_ids(state)
    try:
        trainer.nf_model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{file} does not fit this model; set the options it was trained with "
            f"(--embed_dim, --num_coupling_layers, --lora_rank, --dia_n_blocks, ...): {error}"
        ) from error
    trainer.nf_model.freeze()
    return tasks


def _published_state_file(path: Path) -> Path:
    if path.is_file():
        return path
    if (path / "nf_model.pth").exists():
        return path / "nf_model.pth"
    found = sorted(path.glob("**/task_*/nf_model.pth"), key=lambda p: int(p.parent.name.removeprefix("task_")))
    if found:
        return found[-1]
    raise CheckpointError(
        f"{path} is no checkpoint: expected a run directory with checkpoints/task_0.json, a published task_<t>/ "
        "directory with nf_model.pth, or a state dict file"
    )


def _read_torch(file: Path) -> dict[str, Any]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds pickled Python objects, which could run code when loaded, and is refused; re-save it "
            "where it was made: torch.save(model.state_dict(), file)"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{file} cannot be read as a torch file (truncated?): {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds a {type(state).__name__}, not a state dict")
    return state


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged ({error}); delete it and its .json to train that task and the later ones again"
        ) from error


def _require_same_options(directory: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    different = [
        f"{name}: checkpoint {stored.get(name)!r}, asked for {asked.get(name)!r}"
        for name in sorted({*stored, *asked})
        if stored.get(name) != json.loads(json.dumps(asked.get(name)))
    ]
    if different:
        raise CheckpointError(
            f"{directory} belongs to another configuration ({'; '.join(different)}); use the same options or "
            "another --experiment_name"
        )


def _belongs(name: str, task_id: int, whole: bool) -> bool:
    """Whether a tensor goes into the file of `task_id`: its own expert, or all that had been learned by then."""
    owners = reference_format.task_ids({name: None})
    return all(owner <= task_id for owner in owners) if whole else owners == [task_id]


def _marker(directory: Path, task_id: int) -> Path:
    return directory / f"task_{task_id}.json"


def _tensor_file(directory: Path, task_id: int) -> Path:
    return directory / f"task_{task_id}.safetensors"
