"""What Triton's compiler makes of every kernel, at real sizes; needs no GPU.

Engine and operations run on meta tensors, and each launch is compiled, instead of launched, for the GPUs that matter.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moleflow_fast.precompile.launches import Launch

RECORD = Path(__file__).with_name("compiled.json")
CHANNELS = 768
GRID, RAGGED = (16, 28, 28), (3, 14, 14)  # images, H, W: 12,544 tokens; 588, which 16 does not divide
# Parameters that tell compiled variants of a kernel apart.
VARIANT = (
    "networks", "KERNEL", "KEEP", "PENDING", "MIXED", "LOSS", "TAIL", "WEIGHTED", "POSITIONS", "WITH_DX", "FLIPPED",
    "ACCUMULATE", "PIXELS_FIRST", "INPUTS", "OTHER", "SUMS",
)  # fmt: skip
INSTRUCTIONS = {"wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma", "mma.sync": "mma.sync"}
COPY = r"cp\.async\.c[ag]\.shared\.global.*?\], (\w+)"  # from global to shared memory, and how many bytes at a time
NARROW = re.compile(r"ld\.global\S*\.b16\s")  # one bf16 number at a time


def launches(run: Callable[[], None], arch: int) -> list[tuple[str, Launch]]:
    """Every distinct launch that `run` comes to on sm_<arch>, under a label of its own."""
    from moleflow_fast.precompile.launches import launches

    found = launches(run, arch)
    labels = [label(launch) for launch in found]
    seen = [labels[: number + 1].count(text) for number, text in enumerate(labels)]
    return [(text if n == 1 else f"{text} #{n}", it) for it, text, n in zip(found, labels, seen, strict=True)]


def label(launch: Launch) -> str:
    """The kernel, and the arguments that tell its variants apart."""
    variant = [f"{name}={int(launch.scalars[name])}" for name in VARIANT if name in launch.scalars]
    return " ".join([launch.kernel.__name__.strip("_"), *variant])


def run_flows(operands: str, grid: tuple[int, int, int]) -> None:
    """Forward, inference of one and of several tasks, and backward, with context and without; tensors are empty."""
    import torch

    from moleflow_fast.config import AblationConfig
    from moleflow_fast.engine import channel_layout, channel_major
    from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
    from moleflow_fast.packing.packer import pack, trained
    from moleflow_fast.packing.target import Target

    x = torch.empty(*grid, CHANNELS, device="meta")
    for context in (True, False):
        with torch.device("meta"):
            config = AblationConfig(use_scale_context=context)
            model = MoLESpatialAwareNF(CHANNELS, 1, ablation_config=config, device="meta")
            model.add_task(0)
        flow = model.expert(0).flow
        packed, params = trained(flow, pack(flow, Target("channel_major", operands)))
        z, logdet, saved = channel_major.forward(packed.plan, packed.tensors, x, keep=True)
        channel_major.forward(packed.plan, packed.tensors, x, keep=False)
        stacked = channel_layout.stack(packed.plan, [packed.tensors, packed.tensors])
        chosen = torch.empty(grid[0], dtype=torch.int32, device="meta")
        channel_major.forward(packed.plan, stacked, x, keep=False, tasks=chosen)
        channel_major.backward(packed.plan, packed.tensors, params, saved, z, logdet)


def run_operations() -> None:
    """What stands around the flow: features, whitening, loss, scores, optimizer."""
    import torch

    from moleflow_fast.kernels import (
        channel_major,
        density,
        depthwise,
        gaussian_front,
        image_score,
        latent,
        mahalanobis,
        max_pool,
        normalize,
        patch_pool,
        pixel_map,
        shared_mahalanobis,
        stem,
        whitening,
    )
    from moleflow_fast.kernels.adamp import DeviceAdamP
    from moleflow_fast.kernels.adamp_groups import AdamPSettings, AdamPTensor

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
    depthwise.tap_gradients(x, x, taps, (taps, vector))
    whitening.whitening(x, vector, vector, 1e-5)
    several, chosen = torch.empty(15, CHANNELS, device="meta"), torch.empty(images, dtype=torch.int32, device="meta")
    whitening.whitening(x, several, several, 1e-5, chosen, positions)
    directions, gains = x.new_empty(height, width, 32, CHANNELS), x.new_empty(height, width, 32)
    fronts = gaussian_front.addresses(*([t] * 15 for t in (weight, directions, gains, tokens[0])))
    gaussian_front.gaussian_front(x, x.new_empty(15, height, width, CHANNELS), fronts, chosen, chosen.long())
    for with_dx in (False, True):
        out = vector, vector
        whitening.whitening_backward(x, x, vector, tokens, tokens, with_dx, out)
    density.patch_nll_backward(tokens, x)
    for tail in (0, 15):
        _, weights = density.density_loss(x, tokens, tail, 0.7, 1e-4)
    density.density_loss_backward(tokens.sum(), weights, x, tokens, 1e-4)
    state, tiles = (channel_major(rows, tokens.numel(), x) for rows in (CHANNELS, 72))
    pending = torch.empty(CHANNELS, 2, device="meta")
    latent.state_nll(state, pending, tiles, tokens.sum(), tokens, tokens)
    latent.state_gradient(tokens.sum(), weights, state, pending, tokens, 1e-4, state, tokens)
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
    shared_mahalanobis.shared_distances_and_nearest(x[0, 0], triangles[:, 0], vector, weight, ids)
    adamp.step()


def compile_launch(launch: Launch, arch: int) -> dict[str, Any]:
    """Figures of the compiled kernel for sm_<arch>."""
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        compiled = launch.compiled(arch)
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


def wanted(full: bool) -> Iterator[tuple[str, str, int, Launch]]:
    """Label, kind, GPU and launch: kernels for sm_90, which all is tuned for, a minute of compiling.

    `full`: three minutes more. For the other GPUs too, and for sm_90 flows in fp32 and the products of odd sizes.
    """
    bf16, fp32 = ((operands, partial(run_flows, operands, GRID)) for operands in ("bf16", "fp32"))
    for arch in (80, 90, 100) if full else (90,):
        for operands, run in (bf16, *((fp32,) if arch == 90 and full else ()), ("fp32", run_operations)):
            yield from ((text, operands, arch, launch) for text, launch in launches(run, arch))
    if not full:
        return
    # Of several tasks each image starts where the one before ends: unaligned at such sizes, which is accepted.
    ragged = launches(partial(run_flows, "bf16", RAGGED), 90)
    wide = [(text, launch) for text, launch in ragged if "product" in text and "MIXED=1" not in text]
    yield from ((text, "bf16 ragged", 90, launch) for text, launch in wide)


def compile_all(full: bool) -> dict[str, Any]:
    import triton

    kernels = {f"{text} {kind} sm_{arch}": compile_launch(launch, arch) for text, kind, arch, launch in wanted(full)}
    return {"triton": triton.__version__, "kernels": kernels}


def one_a_line(result: dict[str, Any]) -> str:
    """JSON in which a kernel that changed is one line of a diff."""
    lines = [f"  {json.dumps(name)}: {json.dumps(kernel)}" for name, kernel in result["kernels"].items()]
    return f'{{\n "triton": "{result["triton"]}",\n "kernels": {{\n' + ",\n".join(lines) + "\n }\n}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="every kernel for every kind of GPU")
    parser.add_argument("--write", action="store_true", help=f"replace {RECORD.name}, in full, instead of printing")
    args = parser.parse_args()
    # Read when Triton is imported: kernels as kernels, and the assembler's report, which a cached result lacks.
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ |= {"TRITON_DUMP_PTXAS_LOG": "1", "TRITON_ALWAYS_COMPILE": "1"}
    text = one_a_line(compile_all(args.full or args.write))
    if args.write:
        RECORD.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
