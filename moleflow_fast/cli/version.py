"""`moleflow --version`: what would run here, and what is missing for more."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from moleflow_fast.cli.outcome import outcome
from moleflow_fast.system.heavy_imports import heavy_imports


def version() -> int:
    """0; 1 where the environment asks for a backend that there is none of."""
    return outcome(_print, "nothing was done")


def _print() -> int:
    with heavy_imports():
        import torch  # noqa: F401
    for name, text in (
        ("moleflow_fast", f"{_installed('moleflow_fast')}, Python {platform.python_version()}"),
        ("torch", f"{_installed('torch')}, Triton {_installed('triton')}"),
        ("compiled part", _compiled()),
        ("GPU", _gpu()),
        ("backend", _backend()),
    ):
        print(f"{name:<15}{text}")
    return 0


def _installed(package: str) -> str:
    try:
        return installed(package)
    except PackageNotFoundError:
        return "not installed"


def _compiled() -> str:
    try:
        from moleflow_fast._compiled import compiled
    except ImportError as error:
        return f"missing: {error}"
    info = compiled.build_info()
    openmp = "OpenMP" if info["openmp"] else "no OpenMP, so one thread: install it for your compiler and build again"
    return f"{info['compiler']}, {openmp}"


def _gpu() -> str:
    import torch

    from moleflow_fast.backend import why_not_triton

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else "; this torch is built without CUDA: see https://pytorch.org/get-started"
        return f"none, so Triton kernels cannot run (torch.cuda.is_available() is false{built})"
    reason = why_not_triton("cuda")
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return f"{names}; Triton kernels {'can run' if reason is None else f'cannot run: {reason}'}"


def _backend() -> str:
    """What the flow runs on where no --backend is given."""
    import torch

    from moleflow_fast.backend import flow_backend, requested_backend, why_not_triton

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    requested = requested_backend()
    if requested != "auto":
        return f"{requested}, as MOLEFLOW_BACKEND says"
    chosen = flow_backend(device)
    runs = "eager" if chosen == "triton" and why_not_triton(device.type) else chosen
    return f"{runs} on {device.type} (auto; --backend or MOLEFLOW_BACKEND chooses another)"
