"""The images of a data set alone, as decoding processes read them: they import this package and nothing else."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset


class ImageDataset(Protocol):
    """What is asked of a data set: item i is a tuple that starts with the image tensor (C, M, M)."""

    samples: Sequence[Any]  # each with a `path`
    augmented: bool  # whether an item differs from one access to the next

    def transform_key(self) -> str:
        """A text that differs whenever the way from file to tensor differs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, ...]: ...


def leave_interrupts_to_the_run(worker: int) -> None:
    """In a decoding process: Ctrl-C reaches every process of a terminal, and the run still needs its images."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class SeededImages(Dataset[Tensor]):
    """The images alone, each decoded under a random state of its own."""

    def __init__(self, dataset: ImageDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        if not self.dataset.augmented:
            return self.dataset[index][0]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed * len(self.dataset) + index)
            return self.dataset[index][0]
