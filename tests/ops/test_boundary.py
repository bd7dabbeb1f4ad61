"""What the compiled part refuses, by the argument's name, before it touches memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moleflow_fast._compiled import compiled
from moleflow_fast.ops.adamp import AdamPSettings, AdamPTensor

N, WIDTH, SPLIT, CHANNELS = 6, 3, 2, 5
CLAMPING = (1.9, 0.1, 0.1)
SETTINGS = AdamPSettings(1e-3, 0.9, 0.999, 1e-8, 0.0, 0.1, 0.1, False)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


# Arguments that each function takes, in its order, one row of tokens an image of 2 x 3.
CALLS: dict[str, dict[str, Any]] = {
    "coupling_forward": {
        "s": zeros(N, WIDTH), "t": zeros(N, WIDTH), "s_bias": zeros(WIDTH), "t_bias": None, "x2": zeros(N, WIDTH),
        "y2": zeros(N, WIDTH), "logdet": zeros(N), "clamping": CLAMPING,
    },
    "coupling_backward": {
        "s": zeros(N, WIDTH), "s_bias": None, "x2": zeros(N, WIDTH), "dy2": zeros(N, WIDTH), "dlogdet": zeros(N),
        "ds": zeros(N, WIDTH), "dt": zeros(N, WIDTH), "ds_sum": zeros(WIDTH), "dt_sum": zeros(WIDTH),
        "clamping": CLAMPING,
    },
    "base_coupling_forward": {
        "s": zeros(N, WIDTH), "t": zeros(N, WIDTH), "s_bias": zeros(WIDTH), "t_bias": zeros(WIDTH),
        "x": zeros(N, CHANNELS + 1), "y": zeros(N, CHANNELS), "logdet": zeros(N), "scale": zeros(CHANNELS),
        "offset": zeros(CHANNELS), "source": torch.arange(CHANNELS, dtype=torch.int32), "split": SPLIT,
        "clamping": CLAMPING,
    },
    "base_coupling_backward": {
        "s": zeros(N, WIDTH), "s_bias": zeros(WIDTH), "x2": zeros(N, WIDTH), "dy": zeros(N, CHANNELS),
        "dlogdet": zeros(N), "ds": zeros(N, WIDTH), "dt": zeros(N, WIDTH), "ds_sum": zeros(WIDTH),
        "dt_sum": zeros(WIDTH), "scale": zeros(CHANNELS), "source": torch.arange(CHANNELS, dtype=torch.int32),
        "split": SPLIT, "clamping": CLAMPING,
    },
    "bias_relu": {"h": zeros(N, WIDTH), "bias": zeros(WIDTH)},
    "relu_backward": {"dh": zeros(N, WIDTH), "h": zeros(N, WIDTH), "sum": zeros(WIDTH)},
    "depthwise_forward": {
        "x": zeros(N, WIDTH), "taps": zeros(9, WIDTH), "bias": zeros(WIDTH), "y": zeros(N, WIDTH), "grid": (1, 2, 3),
        "accumulate": False,
    },
    "depthwise_backward_taps": {
        "x": zeros(N, WIDTH), "dy": zeros(N, WIDTH), "dtaps": zeros(9, WIDTH), "dbias": zeros(WIDTH), "grid": (1, 2, 3),
    },
    "whitening_forward": {
        "x": zeros(1, 2, 3, WIDTH), "gamma": zeros(WIDTH), "beta": zeros(WIDTH), "y": zeros(1, 2, 3, WIDTH),
        "mean": zeros(1, 2, 3), "rstd": zeros(1, 2, 3), "eps": 1e-5,
    },
    "whitening_backward": {
        "x": zeros(1, 2, 3, WIDTH), "gamma": zeros(WIDTH), "mean": zeros(1, 2, 3), "rstd": zeros(1, 2, 3),
        "dy": zeros(1, 2, 3, WIDTH), "dx": zeros(1, 2, 3, WIDTH), "dgamma": zeros(WIDTH), "dbeta": zeros(WIDTH),
    },
    "patch_nll": {"z": zeros(1, 2, 3, WIDTH), "logdet": zeros(1, 2, 3), "nll": zeros(1, 2, 3)},
    "scale_patches": {"z": zeros(1, 2, 3, WIDTH), "weights": zeros(1, 2, 3), "out": zeros(1, 2, 3, WIDTH)},
    "density_loss": {
        "z": zeros(1, 2, 3, WIDTH), "logdet": zeros(1, 2, 3), "loss": zeros(), "weights": zeros(1, 2, 3), "tail": 2,
        "tail_weight": 0.5, "lambda_logdet": 0.0,
    },
    "density_loss_backward": {
        "grad": zeros(), "weights": zeros(1, 2, 3), "z": zeros(1, 2, 3, WIDTH), "logdet": zeros(1, 2, 3),
        "dz": zeros(1, 2, 3, WIDTH), "dlogdet": zeros(1, 2, 3), "lambda_logdet": 0.0,
    },
    "patch_pool": {"maps": [zeros(1, 4, 2, 3)], "out": zeros(1, 2, 3, WIDTH)},
    "image_score": {"maps": zeros(N, 2, 3), "scores": zeros(N), "mode": 0, "fraction": 0.5, "k": 1, "weight": 0.5},
    "pixel_map": {"maps": zeros(N, 2, 3), "rows": zeros(4, 2), "columns": zeros(3, 4), "out": zeros(N, 4, 4)},
    "gaussian_smooth": {"maps": zeros(N, 2, 3), "out": zeros(N, 2, 3), "sigma": 1.0},
    "ranked_figures": {
        "scores": zeros(N), "defects": torch.tensor([1, 4]), "weights": torch.ones(2, dtype=torch.float64) / 2,
        "fpr_limit": 0.3,
    },
    "defective_pixels": {"masks": torch.zeros(N, 2, 3, dtype=torch.uint8)},
    "find_regions": {"values": zeros(4, 5), "mask": torch.zeros(4, 5, dtype=torch.uint8)},
}  # fmt: skip
ROWS = ("coupling", "relu", "depthwise")  # their matrices may be columns of wider ones
TENSORS = [(name, argument) for name, given in CALLS.items() for argument, v in given.items() if isinstance(v, Tensor)]


def call(name: str, **changed: Any) -> Any:
    threads = {} if name == "find_regions" else {"threads": 1}
    return getattr(compiled, name)(**{**CALLS[name], **changed}, **threads)


def refused(name: str, argument: str, value: Any) -> str:
    with pytest.raises(ValueError, match=rf"^{argument} ") as caught:
        call(name, **{argument: value})
    return str(caught.value)


@pytest.mark.parametrize("name", CALLS)
def test_what_fits_is_taken(name: str) -> None:
    call(name)


def test_every_function_is_tried_here() -> None:
    functions = {name for name in dir(compiled) if not name.startswith("_")} - {"build_info", "adamp"}
    assert functions == set(CALLS)


# Their last axis may have any size.
FREE = {
    ("base_coupling_forward", "x"), ("base_coupling_forward", "y"), ("density_loss", "z"), ("patch_nll", "z"),
    ("patch_pool", "out"), ("image_score", "maps"), ("ranked_figures", "scores"), ("defective_pixels", "masks"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_an_axis_more_or_a_size_more_is_refused(name: str, argument: str) -> None:
    value = CALLS[name][argument]
    wrong = [value[None]]
    if value.dim() and (name, argument) not in FREE:
        wrong.append(torch.zeros(*value.shape[:-1], value.shape[-1] + 3, dtype=value.dtype))
    for changed in wrong:
        with pytest.raises(ValueError, match="must"):
            call(name, **{argument: changed})


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_another_dtype_is_refused(name: str, argument: str) -> None:
    value = CALLS[name][argument]
    with pytest.raises(ValueError, match=r"must be \w+( or float64)?, got bfloat16"):
        call(name, **{argument: value.bfloat16()})


@pytest.mark.parametrize("name", CALLS)
def test_all_are_of_one_dtype(name: str) -> None:
    narrow = [a for a, v in CALLS[name].items() if isinstance(v, Tensor) and v.dtype == torch.float32]
    for argument in narrow if len(narrow) > 1 else ():
        with pytest.raises(ValueError, match=r"must be float\d\d, got float\d\d"):
            call(name, **{argument: CALLS[name][argument].double()})


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_other_strides_are_refused(name: str, argument: str) -> None:
    value = CALLS[name][argument]
    if value.dim() == 0:
        return
    apart = torch.zeros(*value.shape, 2, dtype=value.dtype)[..., 0]
    assert "must" in refused(name, argument, apart)


@pytest.mark.parametrize("name", [name for name in CALLS if any(part in name for part in ROWS)])
def test_columns_of_a_wider_matrix_are_taken(name: str) -> None:
    wide = {a: torch.zeros(N, v.shape[1] + 4)[:, 2:-2] for a, v in CALLS[name].items() if _is_matrix_of_tokens(v)}
    assert wide
    call(name, **wide)


def _is_matrix_of_tokens(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and len(value) == N


def test_rows_that_overlap_are_read_and_never_written() -> None:
    same = zeros(1, WIDTH).expand(N, WIDTH)
    call("relu_backward", h=same)
    assert "overlap" in refused("relu_backward", "dh", same)


def test_the_message_has_both_shapes() -> None:
    assert refused("bias_relu", "bias", zeros(4)) == "bias must be (3,), got (4,)"
    assert refused("bias_relu", "h", zeros(4)) == "h must be (n, width), got (4,)"


VALUES: list[tuple[str, str, Any, str]] = [
    ("base_coupling_forward", "split", 6, "among the channels"),
    ("base_coupling_forward", "x", zeros(N, CHANNELS - 1), "a column for each channel"),
    ("depthwise_forward", "taps", zeros(8, WIDTH), "odd side"),
    ("depthwise_forward", "taps", zeros(4, WIDTH), "odd side"),
    ("depthwise_forward", "grid", (2, 2, 3), "rows of x"),
    ("density_loss", "tail", 7, "number of patches"),
    ("image_score", "mode", 4, "not known"),
    ("image_score", "k", 7, "number of patches"),
    ("image_score", "fraction", 1.5, r"\[0, 1\]"),
    ("gaussian_smooth", "sigma", 0.0, "positive"),
    ("ranked_figures", "defects", torch.tensor([1, 6]), "among the scores"),
    ("patch_pool", "maps", [], "at least one"),
    ("patch_pool", "maps", [zeros(2, 4, 2, 3)], "as many images"),
    ("patch_pool", "maps", [zeros(1, 4, 3, 2).mT], "contiguous"),
]


@pytest.mark.parametrize(("name", "argument", "value", "why"), VALUES)
def test_values_are_checked(name: str, argument: str, value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument} .*{why}"):
        call(name, **{argument: value})


def test_arrays_are_taken_and_kept_whole() -> None:
    values = np.zeros((4, 5), dtype=np.float32)
    values[1:3, 2] = 7
    values.flags.writeable = False
    assert call("find_regions", values=values, mask=(values > 0).view(np.uint8)) == [(2, 1, 3, 3, 2, 7.0)]
    assert "read-only" in refused("bias_relu", "h", np.broadcast_to(np.float32(0), (1, WIDTH)))


@pytest.mark.parametrize("value", [None, 3.0, [1.0, 2.0]])
def test_what_is_no_tensor_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match="expected a tensor"):
        call("bias_relu", h=value)


def test_a_tensor_elsewhere_is_refused() -> None:
    with pytest.raises((ValueError, RuntimeError, BufferError)):
        call("bias_relu", h=torch.zeros(N, WIDTH, device="meta"))


def adamp(change: Callable[[AdamPTensor], AdamPTensor]) -> float:
    good = AdamPTensor(*(torch.ones(2, 3) for _ in range(4)), step=1)
    return compiled.adamp([(SETTINGS, [good, change(good)])], 1.0, 1)


@pytest.mark.parametrize("field", ["gradient", "exp_avg", "exp_avg_sq"])
def test_the_optimizer_names_group_tensor_and_field(field: str) -> None:
    assert adamp(lambda good: good) == pytest.approx(12**0.5)
    for wrong in (torch.ones(3, 2), torch.ones(2, 3).double(), torch.ones(3, 2).mT):
        with pytest.raises(ValueError, match=rf"^groups\[0\], tensor 1: {field} must be"):
            adamp(lambda good, wrong=wrong: good._replace(**{field: wrong}))  # type: ignore[misc]


def test_nothing_to_step() -> None:
    assert compiled.adamp([], None, 1) == 0
    assert compiled.adamp([(SETTINGS, [])], 1.0, 1) == 0
