"""Checkpoints of the published implementation: `nf_model.pth` with a task's whole state dict, both ways."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from moleflow_fast.errors import UserError
from moleflow_fast.inference.moleflow import MoLEFlow
from moleflow_fast.models import published_format as reference_format
from moleflow_fast.system.files import WriteFailed, replacing
from moleflow_fast.system.tensor_file import CheckpointError
from moleflow_fast.trainer.published_files import STATE_FILE

_WRAPPERS = ("model_state_dict", "nf_model_state_dict", "state_dict", "nf_model")  # a state dict may be under one
_MOST_TASKS = 1000  # an expert is made for every task that a file names, before its tensors are looked at


def load_published(path: Path, moleflow: MoLEFlow) -> list[int]:
    """Import a checkpoint of the published implementation; returns its task ids.

    Accepts a state dict (`*.pth`), bare or under a name that training scripts use, a directory `task_<t>/` with
    `nf_model.pth`, or a run directory holding several, of which the last is taken: its state dict contains every
    earlier expert. Routing prototypes are not part of that state dict; the caller builds them from training images
    (`MoLEContinualTrainer.build_prototype`).

    Raises:
        CheckpointError: not a checkpoint, needs pickled code, or does not fit the model.
    """
    file = _published_state_file(path)
    state = _read_torch(file)
    state = next((state[name] for name in _WRAPPERS if name in state), state)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{file} holds no state dict: tensors by name")
    try:
        state = reference_format.to_native(state)
        tasks = reference_format.task_ids(state)
        if len(tasks) > _MOST_TASKS:
            raise ValueError(f"it names {len(tasks)} tasks")
        moleflow.flow.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(
            f"{file} does not fit this model; set the options it was trained with "
            f"(--embed_dim, --num_coupling_layers, --lora_rank, --dia_n_blocks, ...): {error}"
        ) from error
    moleflow.flow.freeze()
    return tasks


def export_published(moleflow: MoLEFlow, directory: Path, task_id: int) -> Path:
    """Write the flow's state after `task_id` as `task_<t>/nf_model.pth`; returns that file.

    Raises:
        UserError: the model has Gaussian fronts, which the published implementation does not know.
        WriteFailed: the file cannot be written.
    """
    if moleflow.config.has_front:
        raise UserError(
            "this run has Gaussian fronts (--adapter_mode gaussian), which no published checkpoint can hold: train "
            "with --adapter_mode whitening to write one, or take `moleflow export` for one program"
        )
    file = directory / f"task_{task_id}" / STATE_FILE
    state = {name: value.cpu() for name, value in moleflow.flow.reference_state_dict().items()}
    with replacing(file) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # which is how it tells of a full disk
            raise WriteFailed(f"{file} could not be written ({error})") from error
    return file


def _published_state_file(path: Path) -> Path:
    if path.is_file():
        return path
    if (path / STATE_FILE).exists():
        return path / STATE_FILE
    found = {p.parent.name.removeprefix("task_"): p for p in path.glob(f"**/task_*/{STATE_FILE}")}
    numbers = [number for number in found if number.isdecimal()]
    if numbers:
        return found[max(numbers, key=int)]
    raise CheckpointError(
        f"{path} is no checkpoint: expected a run directory with checkpoints/task_0.json, a published task_<t>/ "
        f"directory with {STATE_FILE}, or a state dict file"
    )


def _read_torch(file: Path) -> dict[str, Any]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds pickled Python objects, which could run code when loaded, and is refused; re-save it "
            "where it was made: torch.save(model.state_dict(), file)"
        ) from error
    except Exception as error:  # torch's unpickler raises what the damaged bytes make it stumble over
        raise CheckpointError(f"{file} cannot be read as a torch file (truncated?): {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds a {type(state).__name__}, not a state dict")
    return state
