"""moleflow tune: measure the ways of the flow's products on this GPU, and keep the fastest."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moleflow_fast.cli.outcome import outcome
from moleflow_fast.cli.parser import CommandParser
from moleflow_fast.errors import UserError

if TYPE_CHECKING:
    import torch

    from moleflow_fast.engine.tuning import Case, Timer
    from moleflow_fast.kernels.ways_table import Entry, Table

SECONDS = 45  # after which no other way is begun; the last one, and the start, take some more
CHANNELS, PITCH = 768, 28 * 28  # tokens an image
BATCHES = (16, 1)  # images of a step and of a single prediction

DESCRIPTION = """\
Measure the ways in which this GPU can do the flow's products, and keep which is fastest.

Each product of a training step can be done by tiles that are read through pointers or through tensor descriptors, in
tiles of several shapes, or by the vendor's library and a pass over its result. Which is fastest depends on the device.
The package has a table for some; for others the nearest serves, and says so. This command takes less than a minute.
"""
EXAMPLES = """\
The result is kept in $MOLEFLOW_CACHE or ~/.cache/moleflow_fast, under ways/, and goes before the package's own table.
Delete the file to go back. A run stores the table that it was started with and keeps it when it is resumed or
extended, so measuring again changes no run that there is.

examples; CUDA_VISIBLE_DEVICES chooses the GPU:
  moleflow tune
  CUDA_VISIBLE_DEVICES=1 moleflow tune
"""


def build_parser() -> CommandParser:
    return CommandParser("tune", "", DESCRIPTION, EXAMPLES)


def main(arguments: Sequence[str] | None = None) -> int:
    build_parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    return outcome(tune_here, "the table is as it was")


def tune_here() -> int:
    """Measure on the current GPU, and write the table.

    Raises:
        UserError: there is none.
    """
    import torch

    from moleflow_fast.backend import why_not_triton

    if not torch.cuda.is_available():
        raise UserError("there is no GPU to measure: run this where the flow is to run (torch.cuda.is_available())")
    if reason := why_not_triton("cuda"):
        raise UserError(f"nothing to choose from: {reason}")
    from moleflow_fast.engine.tuning import Sizes, cases, replays
    from moleflow_fast.kernels.ways_table import tuned_file, write_table

    device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device)
    batches = " and ".join(map(str, BATCHES))
    print(f"{name}: the flow's products at {batches} images of {PITCH} tokens, {CHANNELS} channels", flush=True)
    measured = [case for images in BATCHES for case in cases(Sizes(CHANNELS, images, PITCH, device))]
    table = tune(measured, name, torch.cuda.get_device_capability(device), device, replays)
    file = tuned_file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_table(file, table)
    print(f"kept in {file}; runs that start from now on take it, others keep the table that they were started with")
    return 0


def tune(
    cases: Sequence[Case], name: str, capability: tuple[int, int], device: torch.device, timer: Timer,
    seconds: float = SECONDS,
) -> Table:  # fmt: skip
    """The table of a device; prints each choice as it falls."""
    from moleflow_fast.engine.tuning import measure
    from moleflow_fast.kernels.ways_table import Table

    deadline = time.monotonic() + seconds
    entries = []
    for case in cases:
        entry = measure(case, device, timer, deadline)
        if entry is not None:
            print(line(entry), flush=True)
            entries.append(entry)
    return Table(name, capability, f"moleflow tune, {time.strftime('%Y-%m-%d')}", tuple(entries))


def line(entry: Entry) -> str:
    """What was chosen, and against what."""
    networks, outputs, inner, tokens = entry.shape
    size = f"{networks} x {outputs} of {inner}, {tokens}"
    (best, *others) = (f"{timing.way} {timing.us:.1f} us" for timing in entry.timings)
    against = f"; {'; '.join(others)}" if others else ""
    return f"{entry.operation:<24} {entry.precision:<5} {size:<24} {best}{against}"
