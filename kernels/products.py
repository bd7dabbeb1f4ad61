"""Products of two networks at once on channel-major tokens: hidden layers with bias and ReLU, and their gradients.

The scale and the shift network of a coupling are one launch, network 0 and 1: both have the same number of outputs,
their weights may reduce over different numbers of inputs (`inner`) that start at different rows (`first_row`).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elementary import room


@triton.jit
def accumulate(
    acc, w_ptr, rows, w_row_stride, w_column_stride, x_ptr, x_stride, columns, inner, row_ok, column_ok,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc (BM, BN) += W[rows, :inner] X[:inner, columns]."""
    k = tl.arange(0, BLOCK_K)
    w = w_ptr + rows.to(tl.int64)[:, None] * w_row_stride + k[None, :] * w_column_stride
    x = x_ptr + k.to(tl.int64)[:, None] * x_stride + columns[None, :]
    for start in range(0, inner, BLOCK_K):
        k_ok = k < inner - start
        a = tl.load(w, mask=row_ok[:, None] & k_ok[None, :], other=0.0)
        b = tl.load(x, mask=k_ok[:, None] & column_ok[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        w += BLOCK_K * w_column_stride
        x += BLOCK_K * x_stride
    return acc


@triton.jit
def token_tile(tile, tokens, tasks_ptr, pitch, MIXED: tl.constexpr, BLOCK_N: tl.constexpr):
    """Columns of a tile of tokens, which of them exist, and their task; with MIXED a tile stays within an image."""
    if MIXED:
        tiles = tl.cdiv(pitch, BLOCK_N)
        image = tile // tiles
        local = tile % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
        columns, column_ok = image * pitch + local, local < pitch
        task = tl.load(tasks_ptr + image).to(tl.int64)
    else:
        columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        column_ok = columns < room(tokens)
        task = tl.full([], 0, tl.int64)
    return columns, column_ok, task


@triton.jit
def _relu_product(
    w_ptr, w_stride, bias_ptr, x_ptr, x_stride, y_ptr, y_stride, outputs, tokens,
    inner0, inner1, first_row1, networks, tasks_ptr, pitch, w_task_stride,
    MIXED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(outputs, BLOCK_M)
    tile = tl.program_id(0) % (tiles * networks)  # programs beside each other share their tokens
    network = tile // tiles
    rows = tile % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    columns, column_ok, task = token_tile(
        tl.program_id(0) // (tiles * networks), tokens, tasks_ptr, pitch, MIXED, BLOCK_N
    )
    row_ok = rows < outputs
    rows += network * outputs
    if MIXED:
        w_ptr += task * w_task_stride
        bias_ptr += task * (outputs * networks)
    inner = tl.where(network == 0, inner0, inner1)
    x_ptr += tl.where(network == 0, 0, first_row1).to(tl.int64) * x_stride
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc = accumulate(
        acc, w_ptr, rows, w_stride, 1, x_ptr, x_stride, columns, inner, row_ok, column_ok, BLOCK_K, PRECISION
    )
    acc += tl.load(bias_ptr + rows, mask=row_ok, other=0.0)[:, None]
    # NaN must come through, as it does in torch.relu.
    acc = tl.where(acc < 0.0, 0.0, acc)
    y = y_ptr + rows.to(tl.int64)[:, None] * y_stride + columns[None, :]
    tl.store(y, acc.to(y_ptr.dtype.element_ty), mask=row_ok[:, None] & column_ok[None, :])


@triton.jit
def _relu_gradient_product(
    w_ptr, w_stride, dy_ptr, dy_stride, h_ptr, h_stride, dh_ptr, dh_stride, sums_ptr, sums_stride, hidden, tokens,
    inner, networks,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(hidden, BLOCK_M)
    tile = tl.program_id(0) % (tiles * networks)
    token_tile = tl.program_id(0) // (tiles * networks)
    network = tile // tiles
    units = tile % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = token_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    unit_ok, column_ok = units < hidden, columns < room(tokens)
    first = (network * inner).to(tl.int64)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc = accumulate(
        acc, w_ptr + first * w_stride, units, 1, w_stride, dy_ptr + first * dy_stride, dy_stride, columns, inner,
        unit_ok, column_ok, BLOCK_K, PRECISION,
    )  # fmt: skip
    units += network * hidden
    ok = unit_ok[:, None] & column_ok[None, :]
    h = tl.load(h_ptr + units.to(tl.int64)[:, None] * h_stride + columns[None, :], mask=ok, other=0.0)
    # Sums over tokens follow, so the padding must not count.
    acc = tl.where((h > 0.0) & (columns < tokens)[None, :], acc, 0.0)
    tl.store(
        dh_ptr + units.to(tl.int64)[:, None] * dh_stride + columns[None, :],
        acc.to(dh_ptr.dtype.element_ty),
        mask=ok,
    )
    tl.store(sums_ptr + token_tile * sums_stride + units, tl.sum(acc, 1), mask=unit_ok)


def relu_product(
    weight: Tensor, bias: Tensor, x: Tensor, out: Tensor, inner: tuple[int, int] | None = None, first_row: int = 0,
    tasks: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """out (M, N) = max(W x + b, 0).

    Args:
        weight: (M, K), rows contiguous; with `inner` the first M / 2 outputs are network 0, the others network 1.
        bias: (M,) fp32.
        x: (rows, N).
        inner: how many inputs each of two networks reads; None for one network of K inputs.
        first_row: where network 1's inputs start in x.
        tasks: (images,) int32, which of weights (T, M, K) and biases (T, M) each image takes; N / images tokens each.
    """
    networks, (inner0, inner1) = (1, (weight.shape[-1],) * 2) if inner is None else (2, inner)
    outputs, tokens = out.shape[0] // networks, x.shape[1]
    pitch, images = (tokens, 1) if tasks is None else (tokens // len(tasks), len(tasks))
    config = tiles(outputs, pitch, max(inner0, inner1), x.dtype)
    token_tiles = images * triton.cdiv(pitch, config["BLOCK_N"])
    _relu_product[(triton.cdiv(outputs, config["BLOCK_M"]) * networks * token_tiles,)](
        weight, weight.stride(-2), bias, x, x.stride(0), out, out.stride(0), outputs, tokens, inner0, inner1, first_row,
        networks, weight if tasks is None else tasks, pitch, weight.stride(0), MIXED=tasks is not None, **config,
    )  # fmt: skip
    return out


def relu_gradient_product(
    weight: Tensor, dy: Tensor, hidden: Tensor, out: Tensor, networks: int, sums: Tensor
) -> int:
    """out (M, N) = (W^T dy) where `hidden` is positive, else 0; returns how many rows of partial sums were written.

    Args:
        weight: (networks * C, M / networks): the layer after the hidden one, network 1 below network 0.
        dy: (networks * C, N), its output gradient.
        hidden: (M, N), after the ReLU.
        sums: (`sum_tiles`, M) fp32, gets partial sums of `out` over tokens, which add up to the bias gradient.
    """
    units, tokens = hidden.shape[0] // networks, dy.shape[1]
    inner = dy.shape[0] // networks
    config = tiles(units, tokens, inner, dy.dtype)
    token_tiles = triton.cdiv(tokens, config["BLOCK_N"])
    _relu_gradient_product[(triton.cdiv(units, config["BLOCK_M"]) * networks * token_tiles,)](
        weight, weight.stride(0), dy, dy.stride(0), hidden, hidden.stride(0), out, out.stride(0), sums, sums.stride(0),
        units, tokens, inner, networks, **config,
    )  # fmt: skip
    return token_tiles


def sum_tiles(tokens: int) -> int:
    """Most rows of partial sums over tokens that any kernel writes."""
    return triton.cdiv(tokens, 64)


def tiles(rows: int, tokens: int, inner: int, dtype: torch.dtype, largest: int = 128) -> dict:
    """Tile shape and launch options; on sm_90 in bf16 128 x 128 x 64 with 8 warps does not spill and uses wgmma."""
    wide = dtype != torch.bfloat16
    return {
        "BLOCK_M": fitting(rows, 64 if wide else largest),
        "BLOCK_N": fitting(tokens, 128),
        "BLOCK_K": fitting(inner, 32 if wide else 64),
        "PRECISION": precision(dtype),
        "num_warps": 8,
        "num_stages": 3,
    }


def fitting(size: int, largest: int) -> int:
    """A power of two from 16, the least that a product takes, to `largest`."""
    return max(16, min(largest, triton.next_power_of_2(size)))


def precision(dtype: torch.dtype) -> str:
    """How fp32 operands are multiplied: as torch's own products are; bf16 needs no choice."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"
