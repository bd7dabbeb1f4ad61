"""Between our state dicts and those of the published implementation.

The only differences: the published code stores each permutation as two dense matrices `w_perm` and
`w_perm_inv` (newer FrEIA: integer vectors) where we keep one index, and it stores adapters for separated task
flows that never act, which loading drops. Its later release calls the task flows `acl_adapters`, and a model that was
trained under DataParallel has `module.` before every name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_INERT = re.compile(r"^task_flows\.\d+\..*\.(lora_A|lora_B|task_biases)\.\d+$")
_SEPARATED = re.compile(r"^(task_flows\.(\d+)\..*)\.base_linear\.weight$")
_PARALLEL, _DIA, _LATER_DIA = "module.", "dia_adapters.", "acl_adapters."
_TASK = re.compile(
    r"^(?:input_adapters|dia_adapters|task_flows)\.(\d+)\.|\.(?:lora_A|lora_B|task_biases|task_layers)\.(\d+)(?:\.|$)"
)


def to_native(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Our names for a state dict under any of the namings."""
    native = {}
    for name, value in _plainly_named(state_dict):
        if _INERT.match(name) or name.endswith(".w_perm_inv"):
            continue
        if name.endswith(".w_perm"):
            native[name.removesuffix("w_perm") + "perm_index"] = _as_index(name, value)
            continue
        native[name] = value
    return native


def _plainly_named(state_dict: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    parallel = bool(state_dict) and all(name.startswith(_PARALLEL) for name in state_dict)
    for name, value in state_dict.items():
        name = name.removeprefix(_PARALLEL) if parallel else name
        yield (_DIA + name.removeprefix(_LATER_DIA) if name.startswith(_LATER_DIA) else name), value


def to_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published names for one of our state dicts; permutations become dense matrices."""
    reference = {}
    for name, value in state_dict.items():
        if not name.endswith(".perm_index"):
            reference[name] = value
            continue
        stem = name.removesuffix("perm_index")
        reference[stem + "w_perm"] = torch.eye(len(value), device=value.device)[value]
        reference[stem + "w_perm_inv"] = reference[stem + "w_perm"].T.contiguous()
    return reference


def inert_adapters(state_dict: Mapping[str, Tensor], rank: int, biases: bool) -> dict[str, Tensor]:
    """The adapters of separated task flows, which never act: a strict load of the published code wants them.

    Args:
        rank: of LoRA.
        biases: whether there are task biases.
    """
    adapters: dict[str, Tensor] = {}
    for name, weight in state_dict.items():
        match = _SEPARATED.match(name)
        if match is None:
            continue
        layer, task_id = match.groups()
        adapters[f"{layer}.lora_A.{task_id}"] = weight.new_zeros(rank, weight.shape[1])
        adapters[f"{layer}.lora_B.{task_id}"] = weight.new_zeros(weight.shape[0], rank)
        if biases:
            adapters[f"{layer}.task_biases.{task_id}"] = weight.new_zeros(weight.shape[0])
    return adapters


def task_ids(names: Iterable[str]) -> list[int]:
    """The tasks whose experts a state dict of these names holds, ascending."""
    found = (match for name in names for match in _TASK.finditer(name))
    return sorted({int(match.group(1) or match.group(2)) for match in found})


def _as_index(name: str, permutation: Tensor) -> Tensor:
    dense = permutation.dim() == 2
    index = permutation.argmax(dim=1) if dense else permutation.long()
    if not torch.equal(index.sort().values, torch.arange(len(index), device=index.device)):
        raise ValueError(f"{name} is not a permutation of {len(index)} channels")
    if dense and not torch.equal(permutation.to(torch.bool).sum(dim=1), torch.ones_like(index)):
        raise ValueError(f"{name} is a learned or soft permutation; only hard ones are supported")
    return index
