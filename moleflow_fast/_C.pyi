"""
Compiled part of moleflow_fast; use it through moleflow_fast._compiled.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing
import torch

__all__: list[str] = [
    "adamp",
    "base_coupling_backward",
    "base_coupling_forward",
    "bias_relu",
    "build_info",
    "coupling_backward",
    "coupling_forward",
    "defective_pixels",
    "density_loss",
    "density_loss_backward",
    "depthwise_backward_taps",
    "depthwise_forward",
    "find_regions",
    "gaussian_smooth",
    "image_score",
    "patch_nll",
    "patch_pool",
    "pixel_map",
    "ranked_figures",
    "relu_backward",
    "scale_patches",
    "whitening_backward",
    "whitening_forward",
]

def adamp(
    groups: collections.abc.Sequence[
        tuple[
            tuple[
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
                typing.SupportsFloat | typing.SupportsIndex,
                bool,
            ],
            collections.abc.Sequence[
                tuple[
                    torch.Tensor | numpy.ndarray,
                    torch.Tensor | numpy.ndarray,
                    torch.Tensor | numpy.ndarray,
                    torch.Tensor | numpy.ndarray,
                    typing.SupportsInt | typing.SupportsIndex,
                ]
            ],
        ]
    ],
    max_norm: typing.SupportsFloat | typing.SupportsIndex | None,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> float: ...
def base_coupling_backward(
    s: torch.Tensor | numpy.ndarray,
    s_bias: torch.Tensor | numpy.ndarray | None,
    x2: torch.Tensor | numpy.ndarray,
    dy: torch.Tensor | numpy.ndarray,
    dlogdet: torch.Tensor | numpy.ndarray,
    ds: torch.Tensor | numpy.ndarray,
    dt: torch.Tensor | numpy.ndarray,
    ds_sum: torch.Tensor | numpy.ndarray,
    dt_sum: torch.Tensor | numpy.ndarray,
    scale: torch.Tensor | numpy.ndarray,
    source: torch.Tensor | numpy.ndarray,
    split: typing.SupportsInt | typing.SupportsIndex,
    clamping: tuple[
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
    ],
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def base_coupling_forward(
    s: torch.Tensor | numpy.ndarray,
    t: torch.Tensor | numpy.ndarray,
    s_bias: torch.Tensor | numpy.ndarray | None,
    t_bias: torch.Tensor | numpy.ndarray | None,
    x: torch.Tensor | numpy.ndarray,
    y: torch.Tensor | numpy.ndarray,
    logdet: torch.Tensor | numpy.ndarray,
    scale: torch.Tensor | numpy.ndarray,
    offset: torch.Tensor | numpy.ndarray,
    source: torch.Tensor | numpy.ndarray,
    split: typing.SupportsInt | typing.SupportsIndex,
    clamping: tuple[
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
    ],
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def bias_relu(
    h: torch.Tensor | numpy.ndarray,
    bias: torch.Tensor | numpy.ndarray,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def build_info() -> dict:
    """
    The compiler, and whether it had OpenMP.
    """

def coupling_backward(
    s: torch.Tensor | numpy.ndarray,
    s_bias: torch.Tensor | numpy.ndarray | None,
    x2: torch.Tensor | numpy.ndarray,
    dy2: torch.Tensor | numpy.ndarray,
    dlogdet: torch.Tensor | numpy.ndarray,
    ds: torch.Tensor | numpy.ndarray,
    dt: torch.Tensor | numpy.ndarray,
    ds_sum: torch.Tensor | numpy.ndarray,
    dt_sum: torch.Tensor | numpy.ndarray,
    clamping: tuple[
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
    ],
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def coupling_forward(
    s: torch.Tensor | numpy.ndarray,
    t: torch.Tensor | numpy.ndarray,
    s_bias: torch.Tensor | numpy.ndarray | None,
    t_bias: torch.Tensor | numpy.ndarray | None,
    x2: torch.Tensor | numpy.ndarray,
    y2: torch.Tensor | numpy.ndarray,
    logdet: torch.Tensor | numpy.ndarray,
    clamping: tuple[
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
        typing.SupportsFloat | typing.SupportsIndex,
    ],
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def defective_pixels(
    masks: torch.Tensor | numpy.ndarray, threads: typing.SupportsInt | typing.SupportsIndex
) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.float64]]: ...
def density_loss(
    z: torch.Tensor | numpy.ndarray,
    logdet: torch.Tensor | numpy.ndarray,
    loss: torch.Tensor | numpy.ndarray,
    weights: torch.Tensor | numpy.ndarray,
    tail: typing.SupportsInt | typing.SupportsIndex,
    tail_weight: typing.SupportsFloat | typing.SupportsIndex,
    lambda_logdet: typing.SupportsFloat | typing.SupportsIndex,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def density_loss_backward(
    grad: torch.Tensor | numpy.ndarray,
    weights: torch.Tensor | numpy.ndarray,
    z: torch.Tensor | numpy.ndarray,
    logdet: torch.Tensor | numpy.ndarray,
    dz: torch.Tensor | numpy.ndarray,
    dlogdet: torch.Tensor | numpy.ndarray,
    lambda_logdet: typing.SupportsFloat | typing.SupportsIndex,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def depthwise_backward_taps(
    x: torch.Tensor | numpy.ndarray,
    dy: torch.Tensor | numpy.ndarray,
    dtaps: torch.Tensor | numpy.ndarray,
    dbias: torch.Tensor | numpy.ndarray,
    grid: tuple[
        typing.SupportsInt | typing.SupportsIndex,
        typing.SupportsInt | typing.SupportsIndex,
        typing.SupportsInt | typing.SupportsIndex,
    ],
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def depthwise_forward(
    x: torch.Tensor | numpy.ndarray,
    taps: torch.Tensor | numpy.ndarray,
    bias: torch.Tensor | numpy.ndarray | None,
    y: torch.Tensor | numpy.ndarray,
    grid: tuple[
        typing.SupportsInt | typing.SupportsIndex,
        typing.SupportsInt | typing.SupportsIndex,
        typing.SupportsInt | typing.SupportsIndex,
    ],
    accumulate: bool,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def find_regions(
    values: torch.Tensor | numpy.ndarray, mask: torch.Tensor | numpy.ndarray
) -> list[tuple[int, int, int, int, int, float]]: ...
def gaussian_smooth(
    maps: torch.Tensor | numpy.ndarray,
    out: torch.Tensor | numpy.ndarray,
    sigma: typing.SupportsFloat | typing.SupportsIndex,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def image_score(
    maps: torch.Tensor | numpy.ndarray,
    scores: torch.Tensor | numpy.ndarray,
    mode: typing.SupportsInt | typing.SupportsIndex,
    fraction: typing.SupportsFloat | typing.SupportsIndex,
    k: typing.SupportsInt | typing.SupportsIndex,
    weight: typing.SupportsFloat | typing.SupportsIndex,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def patch_nll(
    z: torch.Tensor | numpy.ndarray,
    logdet: torch.Tensor | numpy.ndarray,
    nll: torch.Tensor | numpy.ndarray,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def patch_pool(
    maps: collections.abc.Sequence[torch.Tensor | numpy.ndarray],
    out: torch.Tensor | numpy.ndarray,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def pixel_map(
    maps: torch.Tensor | numpy.ndarray,
    rows: torch.Tensor | numpy.ndarray,
    columns: torch.Tensor | numpy.ndarray,
    out: torch.Tensor | numpy.ndarray,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def ranked_figures(
    scores: torch.Tensor | numpy.ndarray,
    defects: torch.Tensor | numpy.ndarray,
    weights: torch.Tensor | numpy.ndarray,
    fpr_limit: typing.SupportsFloat | typing.SupportsIndex,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[float, float, float, float, float]: ...
def relu_backward(
    dh: torch.Tensor | numpy.ndarray,
    h: torch.Tensor | numpy.ndarray,
    sum: torch.Tensor | numpy.ndarray,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def scale_patches(
    z: torch.Tensor | numpy.ndarray,
    weights: torch.Tensor | numpy.ndarray,
    out: torch.Tensor | numpy.ndarray,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def whitening_backward(
    x: torch.Tensor | numpy.ndarray,
    gamma: torch.Tensor | numpy.ndarray,
    mean: torch.Tensor | numpy.ndarray,
    rstd: torch.Tensor | numpy.ndarray,
    dy: torch.Tensor | numpy.ndarray,
    dx: torch.Tensor | numpy.ndarray | None,
    dgamma: torch.Tensor | numpy.ndarray,
    dbeta: torch.Tensor | numpy.ndarray,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def whitening_forward(
    x: torch.Tensor | numpy.ndarray,
    gamma: torch.Tensor | numpy.ndarray,
    beta: torch.Tensor | numpy.ndarray,
    y: torch.Tensor | numpy.ndarray,
    mean: torch.Tensor | numpy.ndarray,
    rstd: torch.Tensor | numpy.ndarray,
    eps: typing.SupportsFloat | typing.SupportsIndex,
    threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
