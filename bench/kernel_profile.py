"""Every device kernel of our training steps and of inference by name, with its launches and microseconds, as JSON.

python bench/kernel_profile.py --results FOLDER     writes FOLDER/profile.json, anew after each subject

With MOLEFLOW_BENCH_SMALL=1 and TRITON_INTERPRET=1 it also runs on a CPU, on torch's operators, to see that it does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parent))

from counts import Work  # noqa: E402
from device import DEVICE, ON_GPU, SMALL  # noqa: E402
from machine import measure  # noqa: E402
from workloads import BACKBONES, IMAGE_SIZE, STEP_CASES, TrainingSteps, inference  # noqa: E402

from moleflow_fast.backend import why_not_triton  # noqa: E402

Json = dict[str, Any]
Subject = tuple[str, Callable[[], object], Work]
OURS = "triton-bf16" if ON_GPU else "triton"
STEPS = [(case, OURS) for case in ("later task, 28x28", "later task, 28x28, DIA only", "first task, 28x28")]
STEPS += [("later task, 28x28", "triton")] if ON_GPU else []
IMAGES = (256, 32, 1) if ON_GPU and not SMALL else (2,)
WARM_UP, TIMED, PROFILED = (3, 10, 3) if ON_GPU else (1, 1, 1)
NAME = 240  # characters of a kernel's name; templates have thousands


def subjects() -> Iterator[Subject]:
    """Its key in the file, what runs it once and waits for it, and the work that it needs."""
    for case, backend in STEPS:
        sizes = STEP_CASES[case]
        steps, patches = TrainingSteps(sizes, backend), sizes.patches()
        yield f"step|{case}|{backend}", lambda steps=steps, patches=patches: steps(patches), sizes.work(backend)
    for count in IMAGES:
        images = torch.randint(256, (count, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8, device=DEVICE)
        run, work = inference(BACKBONES["wide_resnet50_2"], images, OURS)
        yield f"infer|{count}|{OURS}", run, work


def profiled(run: Callable[[], object], work: Work) -> Json:
    """Times of a run in ms, its kernels a run, the costliest first."""
    for _ in range(WARM_UP):
        run()
    times = [_milliseconds(run) for _ in range(TIMED)]
    found = kernels(run)
    return {
        "time": {"median_ms": median(times), "min_ms": min(times), "max_ms": max(times)},
        "gflop": 2 * work.macs / 1e9,
        "launches": sum(kernel["launches"] for kernel in found),
        "kernel_us": sum(kernel["us"] for kernel in found),
        "kernels": [{**kernel, "us": round(kernel["us"], 1)} for kernel in found],
    }


def kernels(run: Callable[[], object], repeats: int = PROFILED) -> list[Json]:
    """Microseconds and launches a run of each device kernel; without a GPU of each operator."""
    kind = ProfilerActivity.CUDA if ON_GPU else ProfilerActivity.CPU
    with profile(activities=[kind]) as record:
        for _ in range(repeats):
            run()
    events = [event for event in record.key_averages() if not ON_GPU or event.device_type == DeviceType.CUDA]
    taken = {event: event.self_device_time_total if ON_GPU else event.self_cpu_time_total for event in events}
    return [
        {"us": us / repeats, "launches": event.count / repeats, "name": event.key[:NAME]}
        for event, us in sorted(taken.items(), key=lambda item: -item[1])
    ]


def _milliseconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    if obstacle := why_not_triton(DEVICE):
        raise SystemExit(f"{parser.prog} looks at our kernels, and they cannot run here: {obstacle}")
    options.results.mkdir(parents=True, exist_ok=True)
    result: Json = {"rates": measure().as_dict(), **({"small": True} if SMALL else {})}
    for name, run, work in subjects():
        found = result[name] = profiled(run, work)
        (options.results / "profile.json").write_text(json.dumps(result, indent=1) + "\n")
        print(
            f"{name}: {found['time']['median_ms']:.2f} ms; {found['launches']:.0f} kernels take "
            f"{found['kernel_us'] / 1e3:.2f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
