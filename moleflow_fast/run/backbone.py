"""The random weights of a run's backbone, which its directory holds: so it is the same run on every machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from moleflow_fast.extractors import PatchExtractor, random_weights
from moleflow_fast.run.directory import RunDirectory
from moleflow_fast.system.files import replacing


def keep_weights(directory: RunDirectory, extractor: PatchExtractor, drawn_by: RunDirectory | None) -> None:
    """Store the weights of an extractor with a run, if they are random and not there yet.

    Args:
        drawn_by: the run that they were taken from.

    Raises:
        WriteFailed: the file cannot be written.
    """
    if directory.backbone.exists():
        return
    if extractor.drawn:
        random_weights.store(directory.backbone, extractor)
    elif drawn_by is not None and drawn_by.backbone.exists():
        with replacing(directory.backbone) as temporary:
            shutil.copyfile(drawn_by.backbone, temporary)


@contextmanager
def drawn_as_by(run: RunDirectory | None) -> Iterator[None]:
    """In the block torch computes with as many threads as a run that does not hold its random weights, as older ones.

    Drawn again with so many they are the same on the same kind of processor; a checkpoint says whether they are.
    """
    threads = None if run is None or run.backbone.exists() else run.threads
    before = torch.get_num_threads()
    if threads in (None, before):
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
