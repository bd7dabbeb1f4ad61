"""The weights of a random backbone, which the run that drew them keeps.

No seed gives them again on every machine: torch draws normal numbers by other code for other instruction sets, and the
statistics of batch norms come from a forward pass, which rounds differently under another number of threads. Of a
ResNet-18 up to layer3 they are 11 MB.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from moleflow_fast.errors import UserError
from moleflow_fast.system.files import reading
from moleflow_fast.system.tensor_file import write_tensors

if TYPE_CHECKING:
    from .base import PatchExtractor


class DamagedWeights(UserError):
    """A file of random weights that is not what a run writes."""


def store(file: Path, extractor: PatchExtractor) -> None:
    """Write the weights that an extractor drew: a state dict of its timm model, without what it never runs.

    Raises:
        WriteFailed: the file cannot be written.
    """
    write_tensors(file, extractor.drawn)


def restore(model: nn.Module, file: Path) -> None:
    """Give a timm model the weights of a file; what the file leaves out is never run, and stays as it is.

    Raises:
        DamagedWeights: the file is none of ours, or of another backbone.
    """
    try:
        with reading(file), file.open("rb"):  # the library calls a file without rights none at all
            state = load_file(file)
        left_out = model.load_state_dict(state, strict=False)
        if left_out.unexpected_keys:
            raise ValueError(f"the backbone has no {', '.join(left_out.unexpected_keys[:4])}")
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedWeights(
            f"{file}, the random weights of the run's backbone, cannot be used ({error}): put back a copy of it, or "
            "train the run again"
        ) from error
