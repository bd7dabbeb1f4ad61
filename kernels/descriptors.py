"""Products whose tiles are read through tensor descriptors, by the copy engine of sm_90 and newer; 16-bit operands.

A descriptor fills what lies outside of its tensor with zeros and drops what is written there, so tiles at the ends
need no masks, and the padding of the tokens is neither read nor written.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .elementary import room
from .epilogues import biased_relu, couple_tile, where_positive
from .operands import Coupling, Hidden, HiddenGradient
from .tiles import LOGDET_ROWS, Tile

ALIGNMENT = 16  # bytes, of where a tensor starts and of its strides


@triton.jit
def _relu_product_tma(
    w, x, y, bias_ptr, outputs, tokens, inner0, inner1, first_row1, networks,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row_tiles = tl.cdiv(outputs, BLOCK_M)
    tiles = row_tiles * tl.cdiv(tokens, BLOCK_N)
    # Programs take tiles in turn. Network 0 reads at least as many inputs as network 1, so long tiles go first.
    for tile in tl.range(tl.program_id(0), tiles * networks, tl.num_programs(0), flatten=True):
        network = tile // tiles
        m = network * outputs + tile % tiles % row_tiles * BLOCK_M
        n = tile % tiles // row_tiles * BLOCK_N
        inner = tl.where(network == 0, inner0, inner1)
        first = tl.where(network == 0, 0, first_row1)
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in tl.range(0, inner, BLOCK_K):
            acc = tl.dot(w.load([m, k]), x.load([first + k, n]), acc)
        rows = m + tl.arange(0, BLOCK_M)
        acc = biased_relu(acc, bias_ptr, rows, rows < outputs * networks)
        y.store([m, n], acc.to(y.dtype))


@triton.jit
def _relu_gradient_product_tma(
    w, dy, h, dh, sums_ptr, sums_stride, hidden, tokens, inner, networks,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(hidden, BLOCK_M)
    tile = tl.program_id(0) % (tiles * networks)  # programs beside each other share their tokens
    token_tile = tl.program_id(0) // (tiles * networks)
    network = tile // tiles
    unit, n = tile % tiles * BLOCK_M, token_tile * BLOCK_N
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(network * inner, network * inner + inner, BLOCK_K):
        acc = tl.dot(tl.trans(w.load([k, unit])), dy.load([k, n]), acc)
    m = network * hidden + unit
    acc = where_positive(acc, h.load([m, n]), n + tl.arange(0, BLOCK_N), tokens)
    dh.store([m, n], acc.to(dh.dtype))
    rows = m + tl.arange(0, BLOCK_M)
    tl.store(sums_ptr + token_tile * sums_stride + rows, tl.sum(acc, 1), mask=rows < hidden * networks)


@triton.jit
def _coupling_product_tma(
    w, h, second, inner, bias_ptr, state_ptr, state_stride, rows_ptr, pending_ptr, affine_ptr, s_ptr, s_stride,
    x2_ptr, x2_stride, logdet_ptr, logdet_stride, channels, tokens, clamp, s_factor, t_factor,
    KEEP: tl.constexpr, EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(channels, BLOCK_M)
    tile = tl.program_id(0) % tiles
    m, n = tile * BLOCK_M, tl.program_id(0) // tiles * BLOCK_N
    s = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, inner, BLOCK_K):
        s = tl.dot(w.load([m, k]), h.load([k, n]), s)
    t = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, inner, BLOCK_K):
        t = tl.dot(w.load([channels + m, k]), second.load([k, n]), t)
    couple_tile(
        s, t, tile, n, room(tokens), bias_ptr, state_ptr, state_stride, rows_ptr, pending_ptr, affine_ptr, s_ptr,
        s_stride, x2_ptr, x2_stride, logdet_ptr, logdet_stride, channels, clamp, s_factor, t_factor, KEEP, EVEN,
    )  # fmt: skip


def takes_relu_product(op: Hidden, tile: Tile) -> bool:
    """Whether every tensor is aligned; of two networks tiles may not reach into the other's rows."""
    networks, outputs, _, tokens = op.shape
    apart = networks == 1 or tile.fitted(outputs, tokens, min(op.inner)).divides(outputs, 0, op.inner)
    return op.tasks is None and apart and _aligned(op.weight, op.x, op.out)


def takes_relu_gradient_product(op: HiddenGradient, tile: Tile) -> bool:
    networks, units, inner, tokens = op.shape
    inner //= networks
    apart = networks == 1 or tile.fitted(units, tokens, inner).divides(units, 0, (inner,))
    return apart and _aligned(op.weight, op.dy, op.hidden, op.out)


def takes_coupling_product(op: Coupling, tile: Tile) -> bool:
    return op.tasks is None and tile.rows == LOGDET_ROWS and _aligned(op.weight, *op.hidden)


def relu_product(op: Hidden, tile: Tile) -> None:
    """`products.relu_product` in tiles of this shape, by as many programs as run at once."""
    networks, outputs, _, tokens = op.shape
    tile = tile.fitted(outputs, tokens, min(op.inner))
    tiles = triton.cdiv(outputs, tile.rows) * networks * triton.cdiv(tokens, tile.tokens)
    rows = op.x[: op.inner[0]] if networks == 1 else op.x
    _relu_product_tma[(min(multiprocessors(op.x.device), tiles),)](
        _descriptor(op.weight, tile.rows, tile.inner), _descriptor(rows, tile.inner, tile.tokens),
        _descriptor(op.out, tile.rows, tile.tokens), op.bias, outputs, tokens, op.inner[0], op.inner[-1], op.first_row,
        networks, **tile.options(),
    )  # fmt: skip


def relu_gradient_product(op: HiddenGradient, tile: Tile) -> int:
    """`products.relu_gradient_product` in tiles of this shape."""
    networks, units, inner, tokens = op.shape
    inner //= networks
    tile = tile.fitted(units, tokens, inner)
    token_tiles = triton.cdiv(tokens, tile.tokens)
    _relu_gradient_product_tma[(triton.cdiv(units, tile.rows) * networks * token_tiles,)](
        _descriptor(op.weight, tile.inner, tile.rows), _descriptor(op.dy, tile.inner, tile.tokens),
        _descriptor(op.hidden, tile.rows, tile.tokens), _descriptor(op.out, tile.rows, tile.tokens),
        op.sums, op.sums.stride(0), units, tokens, inner, networks, **tile.options(),
    )  # fmt: skip
    return token_tiles


def coupling_product(op: Coupling, tile: Tile) -> None:
    """`coupling.coupling_product` in tiles of this shape."""
    channels, tokens, inner = op.rows.shape[0], op.state.shape[1], op.weight.shape[-1]
    tile = tile.fitted(channels, tokens, inner)
    _coupling_product_tma[(triton.cdiv(channels, tile.rows) * triton.cdiv(tokens, tile.tokens),)](
        _descriptor(op.weight, tile.rows, tile.inner), *(_descriptor(h, tile.inner, tile.tokens) for h in op.hidden),
        inner, *op.epilogue(), KEEP=op.kept is not None, EVEN=tile.divides(channels, tokens, (inner,)),
        **tile.options(),
    )  # fmt: skip


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """That run programs side by side; in the interpreter so few that each takes several tiles."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


def _descriptor(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [rows, columns])


def _aligned(*tensors: Tensor) -> bool:
    return all(
        t.itemsize == 2 and t.stride(1) == 1 and t.data_ptr() % ALIGNMENT == 0
        and t.stride(0) * t.itemsize % ALIGNMENT == 0
        for t in tensors
    )  # fmt: skip
