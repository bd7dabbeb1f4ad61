"""What Triton's compiler makes of every way of the flow's products, at the sizes of a step; see `compiling`.

Prints JSON: of each way, for each kind of GPU, the figures of `compiling.figures` and what `tiles.shared_bytes` says.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import compiling

TOKENS, RAGGED = 16 * 28 * 28, 3 * 14 * 14
IMAGES, UNALIGNED = (16, 28 * 28), (3, 14 * 28)  # and tokens of each; 16 does not divide the second, 8 does
FULL, HALF = 768, 384


class Variant(NamedTuple):
    """A launch of a way: its name, operation, precision and tile; what launches it; which GPU."""

    way: Any
    operation: str
    precision: str
    what: str  # tokens, and what a coupling keeps
    launch: Callable[[], object]
    arch: int


def wanted(full: bool) -> Iterator[Variant]:
    """All variants if `full`; else one tile a way, with tokens that tiles divide and do not, and bf16 elsewhere."""
    seen: set[tuple[object, ...]] = set()
    for variant in variants():
        kind = variant.way.name, variant.operation, variant.precision, variant.what.split(",")[0], variant.arch
        if full or (kind not in seen and (variant.arch == 90 or variant.precision == "bf16")):
            yield variant
        seen.add(kind)


def variants() -> Iterator[Variant]:
    """Every candidate for sm_90, and what runs without a table, at sizes that tiles divide, for the others."""
    from moleflow_fast.kernels.candidates import BY_IMAGE, PRODUCTS, candidates
    from moleflow_fast.kernels.tiles import default_tile
    from moleflow_fast.kernels.ways_table import Way

    for precision in ("bf16", "tf32", "fp32"):
        for operation in PRODUCTS:
            default = Way("pointers", default_tile(operation, 2 if precision == "bf16" else 4))
            ways = dict.fromkeys((*candidates(operation, precision), default))
            if precision == "tf32":
                ways.pop(Way("library"))  # whose passes are those of fp32
            for way in ways:
                for what, op in operands(operation, precision):
                    run = partial(launch, operation, way, op)
                    others = (80, 100) if way == default and f"N={TOKENS}" in what else ()
                    yield from (Variant(way, operation, precision, what, run, arch) for arch in (90, *others))
    for product in ("relu_product", "coupling_product"):
        for way in candidates(product + BY_IMAGE, "bf16"):
            # Through pointers images that start unaligned are copied in small pieces, which is accepted.
            for images, pitch in (IMAGES, UNALIGNED) if way.name == "descriptors" else (IMAGES,):
                run = partial(launch, product, way, of_images(product, images, pitch))
                yield Variant(way, product + BY_IMAGE, "bf16", f"{images} images of {pitch}", run, 90)


def operands(operation: str, precision: str, sizes: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """On meta tensors: in bf16 of tokens that tiles divide and do not, and with what training and inference keep."""
    import torch

    from moleflow_fast.kernels import channel_major
    from moleflow_fast.kernels.operands import Coupling, Hidden, HiddenGradient

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def empty(*shape: int, kind: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*shape, dtype=kind, device="meta")

    for tokens in sizes or ((TOKENS, RAGGED) if precision == "bf16" else (TOKENS,)):

        def rows(count: int, kind: torch.dtype = dtype, tokens: int = tokens) -> torch.Tensor:
            return channel_major(count, tokens, empty(0), kind)

        if operation == "relu_product":
            weight = empty(2 * FULL, FULL, kind=dtype)
            yield f"N={tokens}", Hidden(weight, empty(2 * FULL), rows(FULL), rows(2 * FULL), (FULL, HALF), 0, None)
            yield (
                f"N={tokens}, one network",
                Hidden(empty(FULL, HALF, kind=dtype), empty(FULL), rows(HALF), rows(FULL), (HALF,), 0, None),
            )
        elif operation == "relu_gradient_product":
            weight, sums = empty(2 * HALF, FULL, kind=dtype), empty(tokens // 64 + 1, 2 * FULL)
            yield f"N={tokens}", HiddenGradient(weight, rows(2 * HALF), rows(2 * FULL), rows(2 * FULL), 2, sums)
        else:
            hidden = rows(2 * FULL)
            for kept in (None, (rows(HALF), rows(HALF))):
                yield f"N={tokens}{', kept' if kept else ''}", Coupling(
                    empty(2 * HALF, FULL, kind=dtype), empty(2 * HALF), (hidden[:FULL], hidden[FULL:]),
                    rows(FULL, torch.float32), empty(HALF, kind=torch.int32), empty(FULL, 2), empty(HALF, 2),
                    rows(6, torch.float32), (1.9, 0.1, 0.1), kept, None,
                )  # fmt: skip


def of_images(product: str, images: int, pitch: int) -> Any:
    """Operands of three tasks, as inference mixes them: nothing is kept."""
    import torch

    plain = next(op for what, op in operands(product, "bf16", (images * pitch,)) if op.shape.networks == 2)
    weight, bias = (t.expand(3, *t.shape).contiguous() for t in (plain.weight, plain.bias))
    return plain._replace(weight=weight, bias=bias, tasks=torch.empty(images, dtype=torch.int32, device="meta"))


def launch(operation: str, way: Any, op: Any) -> None:
    from moleflow_fast.kernels import descriptors, library, pointers

    module = {"pointers": pointers, "descriptors": descriptors, "library": library}[way.name]
    getattr(module, operation)(op, way.tile)


def compiled(variant: Variant) -> dict[str, Any]:
    import torch

    from moleflow_fast.kernels.tiles import shared_bytes

    torch.backends.cuda.matmul.allow_tf32 = variant.precision == "tf32"
    ((_, launched),) = compiling.launches(variant.launch, variant.arch)
    tile, itemsize = variant.way.tile, 2 if variant.precision == "bf16" else 4
    foreseen = None if tile is None else shared_bytes(variant.way.name, variant.operation, tile, itemsize)
    return {
        "way": str(variant.way),
        "operation": variant.operation,
        "precision": variant.precision,
        "what": variant.what,
        "arch": variant.arch,
        "foreseen_bytes": foreseen,
        **compiling.compile_launch(launched, variant.arch),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="every tile of every way")
    full = parser.parse_args().full
    # Read when Triton is imported: kernels as kernels, and the assembler's report, which a cached result lacks.
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ |= {"TRITON_DUMP_PTXAS_LOG": "1", "TRITON_ALWAYS_COMPILE": "1"}
    print(json.dumps([compiled(variant) for variant in wanted(full)], indent=1))


if __name__ == "__main__":
    main()
