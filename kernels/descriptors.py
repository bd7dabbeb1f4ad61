"""Products whose tiles are read through tensor descriptors, by the copy engine of sm_90 and newer; 16-bit operands.

A descriptor fills what lies outside of its tensor with zeros and drops what is written there, so tiles at the ends
need no masks, and the padding of the tokens is neither read nor written. Where images have their own tasks each image
ends like a tensor: tokens (K, images, pitch), whose pitch has to be aligned as every stride.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .epilogues import biased_relu, couple_tile, where_positive
from .operands import Coupling, Hidden, HiddenGradient, images_of
from .pointers import token_tile
from .tiles import LOGDET_ROWS, Tile

ALIGNMENT = 16  # bytes, of where a tensor starts and of its strides


@triton.jit
def _place(token, pitch, MIXED: tl.constexpr):
    """A token's image, and where it stands in there; without MIXED all tokens are one image."""
    image, n = 0, token
    if MIXED:
        image, n = token // pitch, token % pitch
    return image, n


@triton.jit
def _weights(w, task, row, column, MIXED: tl.constexpr):
    """A block (BM, BK) of weights (M, K), with MIXED (T, M, K)."""
    if MIXED:
        block = w.load([task.to(tl.int32), row, column])
        block = tl.reshape(block, (block.shape[1], block.shape[2]))
    else:
        block = w.load([row, column])
    return block


@triton.jit
def _tokens(x, row, image, n, MIXED: tl.constexpr):
    """A block (BK, BN) of tokens (K, N), with MIXED (K, images, pitch)."""
    if MIXED:
        block = x.load([row, image, n])
        block = tl.reshape(block, (block.shape[0], block.shape[2]))
    else:
        block = x.load([row, n])
    return block


@triton.jit
def _store_tokens(y, row, image, n, block, MIXED: tl.constexpr):
    if MIXED:
        y.store([row, image, n], tl.reshape(block, (block.shape[0], 1, block.shape[1])))
    else:
        y.store([row, n], block)


@triton.jit
def _relu_product_tma(
    w, x, y, bias_ptr, outputs, tokens, inner0, inner1, first_row1, networks, tasks_ptr, pitch,
    MIXED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row_tiles = tl.cdiv(outputs, BLOCK_M)
    tiles = row_tiles * tl.cdiv(pitch, BLOCK_N) * (tokens // pitch)
    # Programs take tiles in turn. Network 0 reads at least as many inputs as network 1, so long tiles go first.
    for tile in tl.range(tl.program_id(0), tiles * networks, tl.num_programs(0), flatten=True):
        network = tile // tiles
        m = network * outputs + tile % tiles % row_tiles * BLOCK_M
        token, _, task = token_tile(tile % tiles // row_tiles, tokens, tasks_ptr, pitch, MIXED, BLOCK_N)
        image, n = _place(token, pitch, MIXED)
        inner = tl.where(network == 0, inner0, inner1)
        first = tl.where(network == 0, 0, first_row1)
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in tl.range(0, inner, BLOCK_K):
            acc = tl.dot(_weights(w, task, m, k, MIXED), _tokens(x, first + k, image, n, MIXED), acc)
        rows = m + tl.arange(0, BLOCK_M)
        acc = biased_relu(acc, bias_ptr + task * (outputs * networks), rows, rows < outputs * networks)
        _store_tokens(y, m, image, n, acc.to(y.dtype), MIXED)


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
    x2_ptr, x2_stride, logdet_ptr, logdet_stride, channels, tokens, clamp, s_factor, t_factor, tasks_ptr, pitch,
    KEEP: tl.constexpr, MIXED: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(channels, BLOCK_M)
    tile = tl.program_id(0) % tiles
    if MIXED:
        pitch = pitch // 8 * 8  # as it is: so the compiler knows, and moves 16 bytes of the state at a time
    token, end, task = token_tile(tl.program_id(0) // tiles, tokens, tasks_ptr, pitch, MIXED, BLOCK_N)
    image, n = _place(token, pitch, MIXED)
    m = tile * BLOCK_M
    s = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, inner, BLOCK_K):
        s = tl.dot(_weights(w, task, m, k, MIXED), _tokens(h, k, image, n, MIXED), s)
    t = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, inner, BLOCK_K):
        t = tl.dot(_weights(w, task, channels + m, k, MIXED), _tokens(second, k, image, n, MIXED), t)
    couple_tile(
        s, t, tile, token, end, bias_ptr + task * (2 * channels), state_ptr, state_stride, rows_ptr, pending_ptr,
        affine_ptr, s_ptr, s_stride, x2_ptr, x2_stride, logdet_ptr, logdet_stride, channels, clamp, s_factor,
        t_factor, KEEP, EVEN,
    )  # fmt: skip


def takes_relu_product(op: Hidden, tile: Tile) -> bool:
    """Whether every tensor is aligned; of two networks tiles may not reach into the other's rows."""
    networks, outputs, _, tokens = op.shape
    apart = networks == 1 or tile.fitted(outputs, tokens, min(op.inner)).divides(outputs, 0, op.inner)
    return apart and _aligned(op.weight, *(_by_image(t, op.tasks) for t in (op.x, op.out)))


def takes_relu_gradient_product(op: HiddenGradient, tile: Tile) -> bool:
    networks, units, inner, tokens = op.shape
    inner //= networks
    apart = networks == 1 or tile.fitted(units, tokens, inner).divides(units, 0, (inner,))
    return apart and _aligned(op.weight, op.dy, op.hidden, op.out)


def takes_coupling_product(op: Coupling, tile: Tile) -> bool:
    return tile.rows == LOGDET_ROWS and _aligned(op.weight, *(_by_image(h, op.tasks) for h in op.hidden))


def relu_product(op: Hidden, tile: Tile) -> None:
    """`products.relu_product` in tiles of this shape, by as many programs as run at once."""
    networks, outputs, _, tokens = op.shape
    pitch, images = images_of(op.tasks, tokens)
    tile = tile.fitted(outputs, pitch, min(op.inner))
    tiles = triton.cdiv(outputs, tile.rows) * networks * images * triton.cdiv(pitch, tile.tokens)
    rows = op.x[: op.inner[0]] if networks == 1 else op.x
    _relu_product_tma[(min(multiprocessors(op.x.device), tiles),)](
        _weights_of(op.weight, tile.rows, tile.inner), _tokens_of(rows, op.tasks, tile.inner, tile.tokens),
        _tokens_of(op.out, op.tasks, tile.rows, tile.tokens), op.bias, outputs, tokens, op.inner[0], op.inner[-1],
        op.first_row, networks, op.tasks, pitch, MIXED=op.tasks is not None, **tile.options(),
    )  # fmt: skip


def relu_gradient_product(op: HiddenGradient, tile: Tile) -> int:
    """`products.relu_gradient_product` in tiles of this shape."""
    networks, units, inner, tokens = op.shape
    inner //= networks
    tile = tile.fitted(units, tokens, inner)
    token_tiles = triton.cdiv(tokens, tile.tokens)
    _relu_gradient_product_tma[(triton.cdiv(units, tile.rows) * networks * token_tiles,)](
        _descriptor(op.weight, [tile.inner, tile.rows]), _descriptor(op.dy, [tile.inner, tile.tokens]),
        _descriptor(op.hidden, [tile.rows, tile.tokens]), _descriptor(op.out, [tile.rows, tile.tokens]),
        op.sums, op.sums.stride(0), units, tokens, inner, networks, **tile.options(),
    )  # fmt: skip
    return token_tiles


def coupling_product(op: Coupling, tile: Tile) -> None:
    """`coupling.coupling_product` in tiles of this shape."""
    channels, tokens, inner = op.rows.shape[0], op.state.shape[1], op.weight.shape[-1]
    pitch, images = images_of(op.tasks, tokens)
    tile = tile.fitted(channels, pitch, inner)
    hidden = (_tokens_of(h, op.tasks, tile.inner, tile.tokens) for h in op.hidden)
    _coupling_product_tma[(triton.cdiv(channels, tile.rows) * images * triton.cdiv(pitch, tile.tokens),)](
        _weights_of(op.weight, tile.rows, tile.inner), *hidden, inner, *op.epilogue(), op.tasks, pitch,
        KEEP=op.kept is not None, MIXED=op.tasks is not None, EVEN=tile.divides(channels, pitch, (inner,)),
        **tile.options(),
    )  # fmt: skip


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """That run programs side by side; in the interpreter so few that each takes several tiles."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


def _by_image(tokens: Tensor, tasks: Tensor | None) -> Tensor:
    """Rows of tokens (K, N), where images have tasks as (K, images, pitch): a tile ends where its image does."""
    return tokens if tasks is None else tokens.unflatten(1, (len(tasks), -1))


def _weights_of(weight: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """Of weights (M, K), or of several tasks' (T, M, K)."""
    return _descriptor(weight, [rows, columns] if weight.dim() == 2 else [1, rows, columns])


def _tokens_of(tokens: Tensor, tasks: Tensor | None, rows: int, columns: int) -> TensorDescriptor:
    return _descriptor(_by_image(tokens, tasks), [rows, columns] if tasks is None else [rows, 1, columns])


def _descriptor(tensor: Tensor, block: list[int]) -> TensorDescriptor:
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), block)


def _aligned(*tensors: Tensor) -> bool:
    return all(
        t.itemsize == 2 and t.stride(-1) == 1 and t.data_ptr() % ALIGNMENT == 0
        and all(stride * t.itemsize % ALIGNMENT == 0 for stride in t.stride()[:-1])
        for t in tensors
    )  # fmt: skip
