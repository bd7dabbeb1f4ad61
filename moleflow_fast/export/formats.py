"""The program in files: torch.export, AOTInductor and ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.export import Dim, ExportedProgram

from moleflow_fast.backend import use_backend
from moleflow_fast.errors import UserError
from moleflow_fast.export.parity import TRACED_BATCH
from moleflow_fast.export.program import INPUT, OUTPUTS, DetectorProgram

if TYPE_CHECKING:
    import onnx

LARGEST_ONNX = 2**31 - 2**24  # bytes of weights: protobuf's limit, with room for the graph
_BATCH = "batch"
_TALKATIVE = ("torch.onnx", "torch.export", "torch.utils.cpp_extension", "onnxscript", "onnx_ir")


@torch.no_grad()
def trace(program: DetectorProgram) -> ExportedProgram:
    """The program as a graph of torch's own operators, for any batch size."""
    images = torch.zeros(TRACED_BATCH, program.side, program.side, 3, dtype=torch.uint8)
    with use_backend("eager"), _quiet():
        return torch.export.export(program, (images,), dynamic_shapes={INPUT: {0: Dim(_BATCH, min=1)}}, strict=False)


def write_torch(exported: ExportedProgram, file: Path, description: Mapping[str, str]) -> None:
    """One file, the description as extra files in it."""
    with _quiet():
        torch.export.save(exported, file, extra_files=dict(description))


def write_aot(exported: ExportedProgram, file: Path) -> None:
    """Compile for this machine's processor.

    Raises:
        UserError: no C++ compiler.
    """
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        with _quiet():
            torch._inductor.aoti_compile_and_package(exported, package_path=str(file))
    except InvalidCxxCompiler as error:
        raise UserError("--aot needs a C++ compiler: install g++, or name one in the environment as CXX") from error


@torch.no_grad()
def write_onnx(exported: ExportedProgram, file: Path) -> None:
    """One file of standard operators, checked; weights go to `<file>.data` where it would be too large."""
    import onnx

    with _quiet():
        converted = torch.onnx.export(
            exported, dynamo=True, input_names=[INPUT], output_names=list(OUTPUTS), verbose=False
        )
        assert converted is not None  # it is None where torch.onnx.export writes the file itself
        converted.save(file, external_data=_bytes(exported) > LARGEST_ONNX)
    model = onnx.load(file, load_external_data=False)
    _name_batch(model)
    onnx.save_model(model, file)
    onnx.checker.check_model(str(file))


def describe_onnx(file: Path, description: Mapping[str, str]) -> None:
    """Add the description to a written file, as its metadata."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    onnx.helper.set_model_props(model, dict(description))
    onnx.save_model(model, file)


def _bytes(exported: ExportedProgram) -> int:
    tensors = [*exported.state_dict.values(), *exported.tensor_constants.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _name_batch(model: onnx.ModelProto) -> None:
    """Call the symbol that stands for the batch by its name."""
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == symbol:
                dim.dim_param = _BATCH


@contextmanager
def _quiet() -> Iterator[None]:
    """What exporters say of their own inside is not for who exports a detector."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
