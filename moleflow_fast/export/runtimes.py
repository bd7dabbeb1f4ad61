"""Exported files at work: each runtime loads one and answers about images."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moleflow_fast.export.parity import Answers, Runtime
from moleflow_fast.export.program import INPUT, OUTPUTS


class NotLoaded(Exception):
    """A runtime that is not there or does not take the file."""


def torch_program(file: Path) -> Runtime:
    """A `.pt2` of torch.export, in plain PyTorch."""
    return of_torch(torch.export.load(file).module())


def aot_package(file: Path) -> Runtime:
    """A package of AOTInductor: compiled code."""
    return of_torch(torch._inductor.aoti_load_package(str(file)))


def onnxruntime(file: Path) -> Runtime:
    """On the CPU, with as many threads as torch."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.uint8]) -> Answers:
        return dict(zip(OUTPUTS, session.run(list(OUTPUTS), {INPUT: images}), strict=True))

    return run


def openvino(file: Path) -> Runtime:
    """On the CPU in fp32, with as many threads as torch.

    Raises:
        NotLoaded: it is not installed, or does not take the file.
    """
    if importlib.util.find_spec("openvino") is None:
        raise NotLoaded("not installed")
    import openvino as ov

    # By itself it would compute in bf16 where the processor does.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        model = ov.Core().compile_model(str(file), "CPU", settings)
    except RuntimeError as error:
        raise NotLoaded(f"does not load it ({str(error).splitlines()[0]})") from error

    def run(images: NDArray[np.uint8]) -> Answers:
        found = model({INPUT: images})
        return {name: found[name].copy() for name in OUTPUTS}

    return run


def of_torch(module: Callable[[Tensor], dict[str, Tensor]]) -> Runtime:
    """Whatever torch calls like a module."""

    @torch.no_grad()
    def run(images: NDArray[np.uint8]) -> Answers:
        return {name: value.numpy() for name, value in module(torch.from_numpy(images)).items()}

    return run
