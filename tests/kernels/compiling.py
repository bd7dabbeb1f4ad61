"""What Triton's compiler makes of every kernel, at real sizes; needs no GPU.

Engine and operations run on meta tensors, and each launch is compiled, instead of launched, for the GPUs that matter:
with the configuration and the knowledge of its arguments (divisible by 16, equal to 1) that the launcher would have.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

RECORD = Path(__file__).with_name("compiled.json")
CHANNELS = 768
GRID, RAGGED = (16, 28, 28), (3, 14, 14)  # images, H, W: 12,544 tokens; 588, which 16 does not divide
TYPES = {"float32": "fp32", "float64": "fp64", "bfloat16": "bf16", "int32": "i32", "int64": "i64", "uint8": "u8"}
# Parameters that tell compiled variants of a kernel apart.
VARIANT = (
    "networks", "KERNEL", "KEEP", "PENDING", "MIXED", "LOSS", "TAIL", "WEIGHTED", "POSITIONS", "WITH_DX", "FLIPPED",
    "ACCUMULATE", "PIXELS_FIRST", "INPUTS", "OTHER", "SUMS",
)  # fmt: skip
INSTRUCTIONS = {"wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma", "mma.sync": "mma.sync"}
COPY = r"cp\.async\.c[ag]\.shared\.global.*?\], (\w+)"  # from global to shared memory, and how many bytes at a time
NARROW = re.compile(r"ld\.global\S*\.b16\s")  # one bf16 number at a time


class Launch(NamedTuple):
    """A launch as the compiler sees it."""

    label: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[int, ...]  # places of the arguments that are known to be divisible by 16
    options: dict[str, Any]


def launches(run: Callable[[], None]) -> list[Launch]:
    """Every distinct launch that `run` comes to."""
    from triton.runtime.jit import JITFunction

    found: list[Launch] = []

    def note(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launch = describe(kernel, args, options)
        if launch not in found:
            found.append(launch)

    launch_it, JITFunction.run = JITFunction.run, note
    try:
        run()
    finally:
        JITFunction.run = launch_it
    labels = [launch.label for launch in found]
    seen = [labels[: number + 1].count(label) for number, label in enumerate(labels)]
    return [it if n == 1 else it._replace(label=f"{it.label} #{n}") for it, n in zip(found, seen, strict=True)]


def run_flows(operands: str, grid: tuple[int, int, int]) -> None:
    """Forward, inference of one and of several tasks, and backward, with context and without; tensors are empty."""
    import torch

    from moleflow_fast.config import AblationConfig
    from moleflow_fast.engine import channel_major, channel_packing
    from moleflow_fast.engine.packing import pack, trained
    from moleflow_fast.models.mole_nf import MoLESpatialAwareNF

    x = torch.empty(*grid, CHANNELS, device="meta")
    for context in (True, False):
        with torch.device("meta"):
            config = AblationConfig(use_scale_context=context)
            model = MoLESpatialAwareNF(CHANNELS, 1, ablation_config=config, device="meta")
            model.add_task(0)
        parts = model._parts(0)
        packed, params = trained(parts, pack(parts, operands))
        z, logdet, saved = channel_major.forward(packed.plan, packed.tensors, x, keep=True)
        channel_major.forward(packed.plan, packed.tensors, x, keep=False)
        mixed = channel_packing.stack(packed.plan, [packed.tensors, packed.tensors])
        chosen = torch.empty(grid[0], dtype=torch.int32, device="meta")
        channel_major.forward(packed.plan, mixed, x, keep=False, tasks=chosen)
        channel_major.backward(packed.plan, packed.tensors, params, saved, z, logdet)


def run_operations() -> None:
    """What stands around the flow: features, whitening, loss, scores, optimizer."""
    import torch

    from moleflow_fast.kernels import (
        density,
        depthwise,
        image_score,
        mahalanobis,
        max_pool,
        normalize,
        patch_pool,
        pixel_map,
        stem,
        whitening,
    )
    from moleflow_fast.kernels.adamp import DeviceAdamP
    from moleflow_fast.ops.adamp import AdamPSettings, AdamPTensor

    images, height, width = GRID
    with torch.device("meta"):
        x, tokens = torch.empty(*GRID, CHANNELS), torch.empty(GRID)
        vector, positions = torch.empty(CHANNELS), torch.empty(height, width, CHANNELS)
        maps = [torch.empty(images, 512, height, width), torch.empty(images, 1024, height // 2, width // 2)]
        weight = torch.empty(CHANNELS, CHANNELS)
        adamp = DeviceAdamP([(AdamPSettings(1e-4, 0.9, 0.999, 1e-8, 0.01, 0.1, 0.1, False), [
            AdamPTensor(weight, weight, weight, weight, 1), AdamPTensor(vector, vector, vector, vector, 1),
        ])], max_norm=0.5)  # fmt: skip
        taps = torch.empty(9, CHANNELS)
    depthwise.depthwise(x, taps, vector)
    depthwise.depthwise(x, taps, None)
    depthwise.tap_gradients(x, x, taps)
    for where in (None, positions):
        whitening.whitening(x, vector, vector, where, height * width, 1e-5)
    for with_dx in (False, True):
        whitening.whitening_backward(x, x, vector, None, height * width, tokens, tokens, with_dx)
    density.patch_nll_backward(tokens, x)
    for tail in (0, 15):
        _, weights = density.density_loss(x, tokens, tail, 0.7, 1e-4)
    density.density_loss_backward(tokens.sum(), weights, x, tokens, 1e-4)
    image_score.mean_scores(tokens)
    image_score.quantiles(tokens, 0.99)
    image_score.cluster_scores(tokens, 0.99, 3, 0.5)
    image_score.top_scores(tokens, 3)
    patch_pool.pool_patches(maps, CHANNELS, (height, width))
    for dtype in (torch.float32, torch.bfloat16):
        lying = [m.to(dtype, memory_format=torch.channels_last) for m in maps]
        patch_pool.pool_patches_and_means(lying, CHANNELS, (height, width))
    image = torch.empty(images, 4 * height, 4 * width, 64, dtype=torch.bfloat16, device="meta").permute(0, 3, 1, 2)
    max_pool.max_pool(image, 3, 2, 1, image[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last))
    pixels, table = torch.empty(image.shape, dtype=torch.uint8, device="meta")[:, :3], image[0, 0].new_empty(3, 256)
    normalize.look_up(pixels, table, image[:, :8].contiguous(memory_format=torch.channels_last))
    blocks, out = image.new_empty(images, 4 * height + 3, 4 * width + 3, 16), image.permute(0, 2, 3, 1).contiguous()
    stem.look_up_blocks(pixels, table, blocks)
    stem.stem(blocks, blocks.new_empty(64, 4, 64), blocks.new_empty(64), out)
    lines = torch.empty(height, 8 * height, device="meta")
    pixel_map.between_matrices(lines, tokens, lines)
    triangles, factored = torch.empty(15, CHANNELS, CHANNELS, device="meta"), torch.empty((), device="meta").bool()
    ids = torch.empty(15, dtype=torch.int64, device="meta")
    mahalanobis.distances_and_nearest(x[0, 0], triangles[:, 0], [triangles], factored, ids)
    adamp.step()


def describe(kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Launch:
    """Specialise a launch on its arguments as Triton's launcher does."""
    values = dict(zip(kernel.arg_names, args, strict=False))
    constants = {name: options.pop(name) for name in kernel.arg_names if name in options}
    constants |= {name: value for name, value in values.items() if isinstance(value, int) and value == 1}
    signature = {n: "constexpr" if n in constants else type_name(values[n]) for n in kernel.arg_names}
    aligned = tuple(i for i, n in enumerate(kernel.arg_names) if n not in constants and is_aligned(values[n]))
    known = {**values, **constants}
    label = " ".join([kernel.__name__.strip("_"), *(f"{n}={int(known[n])}" for n in VARIANT if n in known)])
    return Launch(label, kernel, signature, constants, aligned, options)


def type_name(value: Any) -> str:
    if isinstance(value, float):
        return "fp32"
    return "i32" if isinstance(value, int) else "*" + TYPES[str(value.dtype).removeprefix("torch.")]


def is_aligned(value: Any) -> bool:
    if isinstance(value, float):
        return False
    return (value if isinstance(value, int) else value.storage_offset() * value.element_size()) % 16 == 0


def compile_launch(launch: Launch, arch: int) -> dict[str, Any]:
    """Figures of the compiled kernel for sm_<arch>."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    attributes = {(place,): [["tt.divisibility", 16]] for place in launch.aligned}
    source = ASTSource(launch.kernel, launch.signature, launch.constants, attributes)
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=launch.options)
    return figures(log.getvalue(), compiled.asm["ptx"], compiled.metadata.shared)


def figures(log: str, ptx: str, shared: int) -> dict[str, Any]:
    """From what the assembler says, the PTX, and the shared memory that the launcher asks for."""
    used = re.search(r"Used (\d+) registers", log)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    assert used and spills, f"the assembler's report reads otherwise than expected:\n{log}"
    return {
        "registers": int(used[1]),
        "spill_bytes": max(map(int, spills)),
        "shared_bytes": shared,
        "instruction": next((name for name, text in INSTRUCTIONS.items() if text in ptx), None),
        "serialized": "serialized" in log,
        "copy_bytes": sorted({int(size, 0) for size in re.findall(COPY, ptx)}),
        "narrow_loads": len(NARROW.findall(ptx)),
    }


def wanted() -> Iterator[tuple[str, int, Launch]]:
    """All kernels for each kind of GPU, and the products of odd sizes in bf16."""
    found = [(operands, launches(partial(run_flows, operands, GRID))) for operands in ("bf16", "fp32")]
    found.append(("fp32", launches(run_operations)))
    for arch in (80, 90, 100):
        for operands, some in found:
            yield from ((operands, arch, launch) for launch in some)
    # Of several tasks each image starts where the one before ends: unaligned at such sizes, which is accepted.
    ragged = launches(partial(run_flows, "bf16", RAGGED))
    wide = [launch for launch in ragged if "product" in launch.label and "MIXED=1" not in launch.label]
    yield from (("bf16 ragged", 90, launch) for launch in wide)


def compile_all() -> dict[str, Any]:
    import triton

    kernels = {f"{launch.label} {kind} sm_{arch}": compile_launch(launch, arch) for kind, arch, launch in wanted()}
    return {"triton": triton.__version__, "kernels": kernels}


def one_a_line(result: dict[str, Any]) -> str:
    """JSON in which a kernel that changed is one line of a diff."""
    lines = [f"  {json.dumps(name)}: {json.dumps(kernel)}" for name, kernel in result["kernels"].items()]
    return f'{{\n "triton": "{result["triton"]}",\n "kernels": {{\n' + ",\n".join(lines) + "\n }\n}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"replace {RECORD.name} instead of printing")
    write = parser.parse_args().write
    # Read when Triton is imported: kernels as kernels, and the assembler's report, which a cached result lacks.
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ |= {"TRITON_DUMP_PTXAS_LOG": "1", "TRITON_ALWAYS_COMPILE": "1"}
    text = one_a_line(compile_all())
    if write:
        RECORD.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
