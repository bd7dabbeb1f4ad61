"""Compiles launches found on meta tensors, then launches the same on real ones: prints what Triton finds in its cache.

In a process of its own: beside the tests kernels are decorated for the interpreter. Nothing runs: there need be no GPU.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from moleflow_fast.kernels.adamp import DeviceAdamP
from moleflow_fast.kernels.adamp_groups import AdamPSettings, AdamPTensor
from moleflow_fast.kernels.products import relu_product
from moleflow_fast.precompile.compiling import compile_launches
from moleflow_fast.precompile.launches import launches


@triton.jit
def _every_kind(
    described, x_ptr, shifted_ptr, nothing, flag, one, count, odd, large, number, TYPE: tl.constexpr,
    NAME: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    tile = described.load([0, 0]).to(TYPE)
    if NAME == "bf16":  # a string, which Triton's own record would give back as a type
        tile += 1.0
    if nothing is None and flag:
        total = tl.sum(tl.sum(tile, 1), 0) * number + one + count + odd + large
        tl.store(x_ptr + WIDE, total + tl.load(shifted_ptr))


def work(device: str) -> None:
    """Launches of products, of an optimizer, whose tensors are found by address, and of every kind of argument."""
    weight, bias, x = (torch.empty(size, device=device) for size in ((48, 32), (48,), (32, 112)))
    for operands in (torch.float32, torch.bfloat16):
        out = torch.empty(48, 112, device=device, dtype=operands)
        relu_product(weight.to(operands), bias, x.to(operands), out)
        relu_product(weight.to(operands), bias, x.to(operands)[:, :98], out[:, :98])
    own = [AdamPTensor(*(torch.empty(size, device=device) for _ in range(4)), 1) for size in ((40, 24), (7,))]
    adamp = DeviceAdamP([(AdamPSettings(1e-4, 0.9, 0.999, 1e-8, 0.01, 0.1, 0.1, False), own)], max_norm=0.5)
    adamp.step()
    adamp.step(torch.zeros(1, dtype=torch.bool, device=device))
    tokens = torch.empty(128, 256, dtype=torch.bfloat16, device=device)
    for TYPE, name in ((tl.float32, "bf16"), (tl.float16, "fp32")):
        _every_kind[(1,)](
            TensorDescriptor.from_tensor(tokens, [64, 128]), x, x.view(-1)[1:], None, True, 1, 32, 33, 1 << 40, 0.5,
            TYPE=TYPE, NAME=name, WIDE=True, num_warps=8,
        )  # fmt: skip


class Driver:
    """An sm_90 that launches nothing."""

    def get_current_device(self) -> int:
        return 1_000

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def launch_on_real_tensors() -> list[tuple[str, bool]]:
    """Through `JITFunction.run`, but for the launch itself: each kernel, and whether it was in the cache."""
    asked: list[tuple[str, bool]] = []
    knobs.compilation.listener = lambda *, src, cache_hit, **_: asked.append((src.name, cache_hit))
    driver.set_active(Driver())
    run = JITFunction.run

    def warm_up(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return run(kernel, *args, grid=grid, warmup=True, **options)

    JITFunction.run = warm_up
    work("cpu")
    return asked


def files() -> list[str]:
    return sorted(str(file) for file in Path(os.environ["TRITON_CACHE_DIR"]).rglob("*") if file.is_file())


def main() -> None:
    found = launches(lambda: work("meta"), 90)
    outcome = compile_launches(found, 90)
    before = files()
    asked = launch_on_real_tensors()
    written = sorted(set(files()) - set(before))
    print(json.dumps({"outcome": outcome._asdict(), "asked": asked, "written": written, "files": len(before)}))


if __name__ == "__main__":
    main()
