"""Which way an operation of the flow is done, by the table of the device that it runs on.

A table that was measured here (`moleflow tune`) goes before one that comes with the package, and that
before one of another device of the same compute capability. The same table gives the same ways, and the same bits.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .operands import Shape
from .tiles import default_tile, launchable, shared_limit
from .ways_table import NO_TABLE, DamagedTable, Table, Way, packaged, read_table, tuned_file

logger = logging.getLogger(__name__)

REMEDY = "moleflow tune measures this device in a minute"
_given: list[Table] = []


class Implementation(NamedTuple):
    """A way of one operation: what runs it on operands in a tile, which the library has none of; what it takes."""

    run: Callable[[Any, Any], Any]
    takes: Callable[[Any, Any], bool]


@contextmanager
def use_table(table: Table) -> Iterator[None]:
    """Choose by this table in the block, in every thread: a backward pass on a GPU has one of its own."""
    _given.append(table)
    try:
        yield
    finally:
        _given.remove(table)


def current_table(device: torch.device) -> Table:
    """That of the innermost `use_table`, else the device's own."""
    return _given[-1] if _given else table_of(device)


def table_of(device: torch.device) -> Table:
    """The table of a device, or the nearest; on a CPU, where Triton's interpreter runs, an empty one."""
    if device.type != "cuda":
        return NO_TABLE
    index = torch.cuda.current_device() if device.index is None else device.index
    return find_table(torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index))


@functools.cache
def find_table(name: str, capability: tuple[int, int]) -> Table:
    """The table for a device of this name, looked for once; says so where it is another device's or there is none."""
    tuned = tuned_file(name)
    if tuned.exists():
        try:
            return read_table(tuned)
        except DamagedTable as error:
            logger.warning("measured ways are left out: %s, or measure again: %s", error, REMEDY)
    tables = list(packaged())
    for table in tables:
        if table.device == name:
            return table
    for table in tables:
        if table.capability == capability:
            logger.warning("ways of products are those of %s, not measured on %s: %s", table.device, name, REMEDY)
            return table
    logger.warning("ways of products have not been measured on %s or its like, defaults serve: %s", name, REMEDY)
    return NO_TABLE


def choose(
    operation: str, shape: Shape, precision: str, device: torch.device, fits: Callable[[Way], bool] | None = None
) -> Way:
    """The fastest way of the current table that fits.

    Args:
        operation: "relu_product", "relu_gradient_product" or "coupling_product", with " by image" behind where each
            image has its own weights; "lora_gradients" of a layer, whose ways are "dense" and "factored";
            "weight_gradients" of a block, formed "beside" its input gradients in a stream of their own, or "in turn".
        precision: as `precision_name` gives it.
        fits: whether a way takes the operands; the last default always does.
    """
    ways = _in_order(current_table(device), operation, shape, precision, shared_limit(device))
    return next(way for way in ways if fits is None or fits(way))


def perform(operation: str, implementations: Mapping[str, Implementation], op: Any, like: Tensor) -> Any:
    """Do an operation on the operands `op` in the way that is chosen for them; `like` is one of those multiplied."""

    def fits(way: Way) -> bool:
        return way.name in implementations and implementations[way.name].takes(op, way.tile)

    name = operation if op.tasks is None else f"{operation} by image"
    way = choose(name, op.shape, precision_name(like.dtype), like.device, fits)
    return implementations[way.name].run(op, way.tile)


def precision_name(dtype: torch.dtype) -> str:
    """Of operands: "fp32", "tf32" or "bf16", for which fp16 may stand."""
    if dtype != torch.float32:
        return "bf16"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "fp32"


@functools.lru_cache(maxsize=4096)
def _in_order(table: Table, operation: str, shape: Shape, precision: str, limit: int) -> tuple[Way, ...]:
    """The table's ways that the device can launch, then the defaults."""
    known = table.ways(operation, shape, precision)
    itemsize = 2 if precision == "bf16" else 4
    fitting = (way for way in known if launchable(way.name, operation, way.tile, itemsize, limit))
    return (*fitting, *_defaults(operation, precision))


def _defaults(operation: str, precision: str) -> tuple[Way, ...]:
    """What runs everywhere and is never far off: in tf32 the library, whose rate no kernel here comes near."""
    if operation == "weight_gradients":
        return (Way("in turn"),)
    if operation == "lora_gradients":
        return (Way("factored" if precision == "fp32" else "dense"),)
    pointers = Way("pointers", default_tile(operation, 2 if precision == "bf16" else 4))
    return (Way("library"), pointers) if precision == "tf32" else (pointers,)
