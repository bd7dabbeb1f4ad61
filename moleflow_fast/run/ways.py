"""The table of ways that a run was started with: it stays the run's, so that what is resumed gives the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from moleflow_fast.backend import flow_backend, why_not_triton
from moleflow_fast.run.directory import DamagedRunFile, RunDirectory

if TYPE_CHECKING:
    from moleflow_fast.kernels.ways_table import Table


def keep_ways(directory: RunDirectory, device: torch.device) -> str | None:
    """Store the table of the device with a run that has none yet; returns which is the run's, in words.

    None where no Triton kernel runs, and nothing is stored.
    """
    if not _on_triton(device):
        return None
    from moleflow_fast.kernels.ways import current_table
    from moleflow_fast.kernels.ways_table import write_table

    if not directory.ways.exists():
        write_table(directory.ways, current_table(device))
    table = _read(directory)
    return f"by the table of {table.device}, {table.digest}" if table.entries else "by defaults: there is no table"


@contextmanager
def stored_ways(directory: RunDirectory, device: torch.device) -> Iterator[None]:
    """In the block products are done by the table of the run, if it has one.

    Raises:
        DamagedRunFile: ways.json is not what a run writes.
    """
    if not (_on_triton(device) and directory.ways.exists()):
        yield
        return
    from moleflow_fast.kernels.ways import use_table

    with use_table(_read(directory)):
        yield


def _read(directory: RunDirectory) -> Table:
    from moleflow_fast.kernels.ways_table import DamagedTable, read_table

    try:
        return read_table(directory.ways)
    except DamagedTable as error:
        raise DamagedRunFile(f"{error}, and the run goes on with the table of this device") from error


def _on_triton(device: torch.device) -> bool:
    return flow_backend(device) == "triton" and why_not_triton(device.type) is None
