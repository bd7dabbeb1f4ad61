"""The packaged table of ways of an NVIDIA H200, from what was measured on one.

`python bench/ways_table.py` writes kernels/tables/nvidia-h200.json, or prints what differs with --check. Measured is
what this very kernel took; everything else is put together from measured parts, as each line below says, and is called
predicted until `moleflow tune` has run on one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from moleflow_fast.kernels.candidates import BY_IMAGE, candidates
from moleflow_fast.kernels.operands import Shape
from moleflow_fast.kernels.tiles import Tile
from moleflow_fast.kernels.ways_table import Entry, Table, Timing, Way, read_table, sorted_entry, write_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "cuda"
WAYS, KERNELS = RESULTS / "2026-11-28-nvidia-h200-ways.json", RESULTS / "2026-11-28-nvidia-h200.json"
TABLE = ROOT / "kernels" / "tables" / "nvidia-h200.json"
PITCH = 28 * 28  # tokens an image
TOKENS = 16 * PITCH
COPY = 4.2e6  # bytes a microsecond

BASE = {
    "relu_product": Shape(2, 768, 1152, TOKENS),
    "relu_gradient_product": Shape(2, 768, 768, TOKENS),
    "coupling_product": Shape(2, 384, 1536, TOKENS),
}
TASK_FIRST = Shape(1, 768, 384, TOKENS)
TASK = Shape(2, 384, 768, TOKENS)  # its other layers, their gradients and its couplings
Tiles = Iterable[tuple[Tile, float]]
TILED = re.compile(r"(.*) \((\d+), (\d+), (\d+), (\d+), (\d+)\)$")


class Measured:
    """Microseconds by name: of the probe's ways of a product (cold caches), of kernels beside their definitions."""

    def __init__(self) -> None:
        probe = json.loads(WAYS.read_text())
        self._probe = {name: row["cold_us"] for name, row in probe.items() if row and "cold_us" in row}
        result = json.loads(KERNELS.read_text())
        self.gpu = result["machine"]["gpu"]
        self._rows = {(b["group"], b["backend"]): 1e6 * b["median_s"] for b in result["benchmarks"]}

    def probe(self, name: str) -> float:
        return self._probe[name]

    def tiles(self, name: str) -> Iterator[tuple[Tile, float]]:
        """Those of the probe under this name."""
        for label, us in self._probe.items():
            match = TILED.match(label)
            if match and match[1] == name:
                yield Tile(*map(int, match.groups()[1:])), us

    def kernel(self, name: str, precision: str) -> float:
        return self._rows[f"{name}, {precision}", "triton"]

    def definition(self, name: str, precision: str) -> float:
        return self._rows[f"{name}, {precision}", "reference"]


def entries(known: Measured) -> Iterator[Entry]:
    yield from _bf16(known)
    for precision in ("fp32", "tf32"):
        yield from _fp32(known, precision)
    for precision in ("bf16", "fp32", "tf32"):
        for product in ("relu_product", "coupling_product"):
            yield _by_image(known, product, precision)
        # Of the four layers of a base block together; the dense form is the definition that it was compared with.
        both = ("dense", known.definition), ("factored", known.kernel)
        timings = [Timing(Way(way), _rounded(us("LoRA gradients", precision)), measured=True) for way, us in both]
        yield sorted_entry("lora_gradients", precision, Shape(1, 768, 768, TOKENS), timings)


def _bf16(known: Measured) -> Iterator[Entry]:
    def mm(outputs: int, inner: int) -> float:
        return known.probe(f"cublas channel-major {outputs}x{inner}")

    # The library's pass over a hidden layer moves two thirds of what mask and sums move.
    mask, task_mask = known.probe("relu mask and sums 1536"), known.probe("relu mask and sums 768")
    # Its pass over a coupling was timed with s and t in bf16 and x2 alone kept, 14 bytes a number; it moves 20, and the
    # products write 4 bytes more.
    couple = known.probe("coupling rows after cublas (32, 128, 4)") * 20 / 14 + 4 * 384 * TOKENS / COPY

    both = _both_first(known)
    library = mm(768, 768) + mm(768, 384) + mask * 2 / 3
    yield _entry("relu_product", BASE["relu_product"], both, known.tiles("today relu_product"), library)
    # Two networks of 384 x 384 have the tiles of one of 768 x 384.
    for shape, library in ((TASK_FIRST, mm(768, 384)), (TASK, 2 * mm(384, 384))):
        yield _entry(
            "relu_product", shape, known.tiles("relu persistent 768x384"), known.tiles("relu ptr 768x384"),
            library + task_mask * 2 / 3,
        )  # fmt: skip
    # Of a hidden gradient each network was timed by itself: the sum of both bounds one launch.
    for shape, units, today, library in (
        (BASE["relu_gradient_product"], 768, "today relu_gradient_product", 2 * mm(768, 384) + mask),
        (TASK, 384, "today relu_gradient_product, task flow", 2 * mm(384, 384) + task_mask),
    ):
        one_by_one = [(tile, 2 * us) for tile, us in known.tiles(f"grad tma {units}x384")]
        yield _entry("relu_gradient_product", shape, one_by_one, known.tiles(today), library)
    for shape, inner, today in (
        (BASE["coupling_product"], 768, "today coupling_product"),
        (TASK, 384, "today coupling_product, task flow"),
    ):
        probe = known.tiles(f"coupling seq K={inner} keep")
        yield _entry("coupling_product", shape, probe, known.tiles(today), 2 * mm(384, inner) + couple)


def _both_first(known: Measured) -> list[tuple[Tile, float]]:
    """Both first layers in one launch: a product of 1536 x 768 whose second half has tiles of half the length.

    On 132 multiprocessors a program takes 9 of its tiles of 128 x 128, or 5 of 128 x 256: as long as 7, or 4, full
    ones.
    """
    rounds = {128: 7 / 9, 256: 4 / 5}
    return [(tile, us * rounds[tile.tokens]) for tile, us in known.tiles("relu persistent 1536x768")]


def _by_image(known: Measured, product: str, precision: str) -> Entry:
    """Pointers as they were measured; descriptors, 16-bit operands alone, as for one task, but for the tiles that reach
    beyond an image: 7 of 128 tokens for its 784, 4 of 256."""
    name, shape = f"{product}{BY_IMAGE}", BASE[product]
    ways = candidates(name, precision)
    pointers = next(way for way in ways if way.name == "pointers")
    measured = Timing(pointers, _rounded(known.kernel(name, precision)), measured=product == "relu_product")
    one_task = _both_first(known) if product == "relu_product" else known.tiles("coupling seq K=768 nokeep")
    padded = {Way("descriptors", tile): us * -(-PITCH // tile.tokens) * tile.tokens / PITCH for tile, us in one_task}
    predicted = [Timing(way, _rounded(us), measured=False) for way, us in padded.items() if way in ways]
    return sorted_entry(name, precision, shape, [measured, *predicted])


def _fp32(known: Measured, precision: str) -> Iterator[Entry]:
    """Kernels as they were measured; the library at its rate in input gradients, and passes by their bytes."""

    def library(macs: int, fp32_pass: float) -> float:
        if macs == TASK_FIRST.macs:
            return known.kernel("input gradient, task flow", precision) + fp32_pass
        return known.kernel("input gradient", precision) * macs / BASE["relu_product"].macs + fp32_pass

    mask, task_mask = 2 * known.probe("relu mask and sums 1536"), 2 * known.probe("relu mask and sums 768")
    couple = known.probe("coupling rows after cublas (32, 128, 4)") * 24 / 14
    for operation, shape, name, fp32_pass in (
        ("relu_product", BASE["relu_product"], "relu_product", mask * 2 / 3),
        ("relu_product", TASK_FIRST, "relu_product, task flow, first", task_mask * 2 / 3),
        ("relu_product", TASK, "relu_product, task flow, middle", task_mask * 2 / 3),
        ("relu_gradient_product", BASE["relu_gradient_product"], "relu_gradient_product", mask),
        ("relu_gradient_product", TASK, "relu_gradient_product, task flow", task_mask),
        ("coupling_product", BASE["coupling_product"], "coupling_product", couple),
        ("coupling_product", TASK, "coupling_product, task flow", couple),
    ):
        pointers = candidates(operation, precision)[-1]
        timings = [
            Timing(pointers, _rounded(known.kernel(name, precision)), measured=operation != "coupling_product"),
            Timing(Way("library"), _rounded(library(shape.macs, fp32_pass)), measured=False),
        ]
        yield sorted_entry(operation, precision, shape, timings)


def _entry(operation: str, shape: Shape, descriptors: Tiles, pointers: Tiles, library: float) -> Entry:
    """In bf16, of the tiles that are candidates."""
    ways = [(Way("descriptors", tile), us) for tile, us in descriptors]
    ways += [(Way("pointers", tile), us) for tile, us in pointers]
    ways = [(way, us) for way, us in ways if way in candidates(operation, "bf16")]
    timings = [Timing(way, _rounded(us), measured=False) for way, us in (*ways, (Way("library"), library))]
    return sorted_entry(operation, "bf16", shape, timings)


def _rounded(us: float) -> float:
    return round(us, 1)


def table() -> Table:
    known = Measured()
    major, minor = map(int, known.gpu["capability"].split("."))
    return Table(known.gpu["name"], (major, minor), "bench/ways_table.py, of 2026-11-28", tuple(entries(known)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the file is another")
    made = table()
    if not parser.parse_args().check:
        write_table(TABLE, made)
    elif read_table(TABLE).to_json() != made.to_json():
        sys.exit(f"{TABLE} is not what bench/ways_table.py makes: run it")


if __name__ == "__main__":
    main()
