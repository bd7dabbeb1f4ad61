"""The ways that are worth measuring: each compiles for sm_90 without spills, and came first or close on an H200."""

from __future__ import annotations

from .tiles import Tile, default_tile
from .ways_table import Way

_POINTERS = {
    "relu_product": (Tile(128, 128, 64, 8, 3), Tile(128, 256, 64, 8, 4), Tile(64, 128, 64, 4, 3)),
    "relu_gradient_product": (Tile(128, 128, 64, 8, 3), Tile(128, 128, 64, 8, 4), Tile(64, 128, 64, 4, 3)),
    "coupling_product": (Tile(64, 128, 64, 8, 3), Tile(64, 64, 64, 4, 4), Tile(64, 128, 128, 8, 3)),
}
_DESCRIPTORS = {
    "relu_product": (Tile(128, 128, 64, 4, 4), Tile(128, 256, 64, 8, 3), Tile(64, 128, 64, 4, 4)),
    "relu_gradient_product": (Tile(128, 128, 64, 8, 3), Tile(128, 128, 64, 4, 4)),
    "coupling_product": (Tile(64, 128, 64, 4, 4), Tile(64, 128, 64, 8, 4)),
}
PRODUCTS = tuple(_POINTERS)
BY_IMAGE = " by image"


def candidates(operation: str, precision: str) -> tuple[Way, ...]:
    """Of an operation as `ways.choose` names it."""
    if operation == "lora_gradients":
        return Way("dense"), Way("factored")
    product = operation.removesuffix(BY_IMAGE)
    if precision != "bf16":
        pointers: tuple[Way, ...] = (Way("pointers", default_tile(product, 4)),)
        descriptors: tuple[Way, ...] = ()
    else:
        pointers = tuple(Way("pointers", tile) for tile in _POINTERS[product])
        descriptors = tuple(Way("descriptors", tile) for tile in _DESCRIPTORS[product])
    library = () if operation.endswith(BY_IMAGE) else (Way("library"),)
    return (*descriptors, *library, *pointers)
