"""The commands there are."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

# In the order in which one needs them. Each is the module of this name beside this file.
USUAL = {
    "demo": "learn six synthetic categories, find defects in test images, and show the pictures",
    "train": "learn product categories one after another; add products to a run, or take some out",
    "predict": "score images with a finished run: tables, heat maps, an HTML page",
    "calibrate": "measure anew which scores are normal",
    "evaluate": "evaluate a run again from its checkpoints",
    "report": "compare finished runs in one document",
    "export": "write a run as one program, ONNX or torch",
    "sweep": "do many runs: presets or a grid of options, times seeds",
}
RARE = {
    "tune": "measure which kernels are fastest on this GPU",
    "precompile": "compile the GPU kernels of a run beforehand",
    "export_published": "write a run's checkpoints for the published implementation",
}
COMMANDS = USUAL | RARE


def command(name: str) -> ModuleType:
    """Its module, with `build_parser` and `main`."""
    return import_module(f"moleflow_fast.cli.{name}")
