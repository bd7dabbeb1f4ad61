"""Products whose tiles are read through pointers: of any size, alignment and dtype, with each image's own task too."""

import triton
import triton.language as tl
from torch import Tensor

from .elementary import room
from .epilogues import biased_relu, couple_tile, where_positive
from .operands import Coupling, Hidden, HiddenGradient, images_of
from .tiles import LOGDET_ROWS, Tile, precision


@triton.jit
def accumulate(
    acc, w_ptr, rows, w_row_stride, w_column_stride, x_ptr, x_stride, columns, inner, row_ok, column_ok,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, EVEN: tl.constexpr = False,
):  # fmt: skip
    """acc (BM, BN) += W[rows, :inner] X[:inner, columns]; with EVEN every tile is full."""
    k = tl.arange(0, BLOCK_K)
    w = w_ptr + rows.to(tl.int64)[:, None] * w_row_stride + k[None, :] * w_column_stride
    x = x_ptr + k.to(tl.int64)[:, None] * x_stride + columns[None, :]
    for start in range(0, inner, BLOCK_K):
        if EVEN:
            a, b = tl.load(w), tl.load(x)
        else:
            k_ok = k < inner - start
            a = tl.load(w, mask=row_ok[:, None] & k_ok[None, :], other=0.0)
            b = tl.load(x, mask=k_ok[:, None] & column_ok[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        w += BLOCK_K * w_column_stride
        x += BLOCK_K * x_stride
    return acc


@triton.jit
def token_tile(tile, tokens, tasks_ptr, pitch, MIXED: tl.constexpr, BLOCK_N: tl.constexpr):
    """Where a tile of tokens starts, where they end, and their task; with MIXED a tile stays within an image."""
    if MIXED:
        tiles = tl.cdiv(pitch, BLOCK_N)
        image = tile // tiles
        first, end = image * pitch + tile % tiles * BLOCK_N, image * pitch + pitch
        task = tl.load(tasks_ptr + image).to(tl.int64)
    else:
        first, end = tile * BLOCK_N, room(tokens)
        task = tl.full([], 0, tl.int64)
    return first, end, task


@triton.jit
def _relu_product(
    w_ptr, w_stride, bias_ptr, x_ptr, x_stride, y_ptr, y_stride, outputs, tokens,
    inner0, inner1, first_row1, networks, tasks_ptr, pitch, w_task_stride,
    MIXED: tl.constexpr, EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(outputs, BLOCK_M)
    tile = tl.program_id(0) % (tiles * networks)  # programs beside each other share their tokens
    network = tile // tiles
    rows = tile % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    first, end, task = token_tile(tl.program_id(0) // (tiles * networks), tokens, tasks_ptr, pitch, MIXED, BLOCK_N)
    columns = first + tl.arange(0, BLOCK_N)
    row_ok, column_ok = rows < outputs, columns < end
    if EVEN:
        row_ok, column_ok = tl.full([BLOCK_M], True, tl.int1), tl.full([BLOCK_N], True, tl.int1)
    rows += network * outputs
    if MIXED:
        w_ptr += task * w_task_stride
        bias_ptr += task * (outputs * networks)
    inner = tl.where(network == 0, inner0, inner1)
    x_ptr += tl.where(network == 0, 0, first_row1).to(tl.int64) * x_stride
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc = accumulate(
        acc, w_ptr, rows, w_stride, 1, x_ptr, x_stride, columns, inner, row_ok, column_ok, BLOCK_K, PRECISION, EVEN
    )
    acc = biased_relu(acc, bias_ptr, rows, row_ok)
    y = y_ptr + rows.to(tl.int64)[:, None] * y_stride + columns[None, :]
    tl.store(y, acc.to(y_ptr.dtype.element_ty), mask=row_ok[:, None] & column_ok[None, :])


@triton.jit
def _relu_gradient_product(
    w_ptr, w_stride, dy_ptr, dy_stride, h_ptr, h_stride, dh_ptr, dh_stride, sums_ptr, sums_stride, hidden, tokens,
    inner, networks, EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(hidden, BLOCK_M)
    tile = tl.program_id(0) % (tiles * networks)
    token_tile = tl.program_id(0) // (tiles * networks)
    network = tile // tiles
    units = tile % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = token_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    unit_ok, column_ok = units < hidden, columns < room(tokens)
    if EVEN:
        unit_ok, column_ok = tl.full([BLOCK_M], True, tl.int1), tl.full([BLOCK_N], True, tl.int1)
    first = (network * inner).to(tl.int64)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc = accumulate(
        acc, w_ptr + first * w_stride, units, 1, w_stride, dy_ptr + first * dy_stride, dy_stride, columns, inner,
        unit_ok, column_ok, BLOCK_K, PRECISION, EVEN,
    )  # fmt: skip
    units += network * hidden
    ok = unit_ok[:, None] & column_ok[None, :]
    h = tl.load(h_ptr + units.to(tl.int64)[:, None] * h_stride + columns[None, :], mask=ok, other=0.0)
    acc = where_positive(acc, h, columns, tokens)
    tl.store(
        dh_ptr + units.to(tl.int64)[:, None] * dh_stride + columns[None, :],
        acc.to(dh_ptr.dtype.element_ty),
        mask=ok,
    )
    tl.store(sums_ptr + token_tile * sums_stride + units, tl.sum(acc, 1), mask=unit_ok)


@triton.jit
def _coupling_product(
    w_ptr, w_stride, h_ptr, h_stride, second_ptr, inner, bias_ptr, state_ptr, state_stride, rows_ptr,
    pending_ptr, affine_ptr, s_ptr, s_stride, x2_ptr, x2_stride, logdet_ptr, logdet_stride, channels, tokens,
    clamp, s_factor, t_factor, tasks_ptr, pitch, w_task_stride,
    KEEP: tl.constexpr, MIXED: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(channels, BLOCK_M)
    tile = tl.program_id(0) % tiles
    own = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    first, end, task = token_tile(tl.program_id(0) // tiles, tokens, tasks_ptr, pitch, MIXED, BLOCK_N)
    columns = first + tl.arange(0, BLOCK_N)
    row_ok, column_ok = own < channels, columns < end
    if EVEN:
        row_ok, column_ok = tl.full([BLOCK_M], True, tl.int1), tl.full([BLOCK_N], True, tl.int1)
    if MIXED:
        w_ptr += task * w_task_stride
        bias_ptr += task * (2 * channels)
    s = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    s = accumulate(
        s, w_ptr, own, w_stride, 1, h_ptr, h_stride, columns, inner, row_ok, column_ok, BLOCK_K, PRECISION, EVEN
    )
    t = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    t = accumulate(
        t, w_ptr, channels + own, w_stride, 1, second_ptr, h_stride, columns, inner, row_ok, column_ok, BLOCK_K,
        PRECISION, EVEN,
    )  # fmt: skip
    couple_tile(
        s, t, tile, first, end, bias_ptr, state_ptr, state_stride, rows_ptr, pending_ptr, affine_ptr, s_ptr, s_stride,
        x2_ptr, x2_stride, logdet_ptr, logdet_stride, channels, clamp, s_factor, t_factor, KEEP, EVEN,
    )  # fmt: skip


def takes(op: Hidden | HiddenGradient, tile: Tile) -> bool:
    """Any operands."""
    return True


def takes_coupling_product(op: Coupling, tile: Tile) -> bool:
    return tile.rows == LOGDET_ROWS


def relu_product(op: Hidden, tile: Tile) -> None:
    """`products.relu_product` in tiles of this shape."""
    networks, outputs, _, tokens = op.shape
    pitch, images = images_of(op.tasks, tokens)
    tile = tile.fitted(outputs, pitch, max(op.inner))
    grid = (triton.cdiv(outputs, tile.rows) * networks * images * triton.cdiv(pitch, tile.tokens),)
    _relu_product[grid](
        op.weight, op.weight.stride(-2), op.bias, op.x, op.x.stride(0), op.out, op.out.stride(0), outputs, tokens,
        op.inner[0], op.inner[-1], op.first_row, networks, op.weight if op.tasks is None else op.tasks, pitch,
        op.weight.stride(0), MIXED=op.tasks is not None,
        EVEN=op.tasks is None and _even(tile, outputs, op.x, op.inner), PRECISION=precision(op.x.dtype),
        **tile.options(),
    )  # fmt: skip


def relu_gradient_product(op: HiddenGradient, tile: Tile) -> int:
    """`products.relu_gradient_product` in tiles of this shape."""
    networks, units, inner, tokens = op.shape
    inner //= networks
    tile = tile.fitted(units, tokens, inner)
    token_tiles = triton.cdiv(tokens, tile.tokens)
    _relu_gradient_product[(triton.cdiv(units, tile.rows) * networks * token_tiles,)](
        op.weight, op.weight.stride(0), op.dy, op.dy.stride(0), op.hidden, op.hidden.stride(0),
        op.out, op.out.stride(0), op.sums, op.sums.stride(0), units, tokens, inner, networks,
        EVEN=_even(tile, units, op.dy, (inner,)), PRECISION=precision(op.dy.dtype), **tile.options(),
    )  # fmt: skip
    return token_tiles


def coupling_product(op: Coupling, tile: Tile) -> None:
    """`coupling.coupling_product` in tiles of this shape."""
    channels, tokens, inner = op.rows.shape[0], op.state.shape[1], op.weight.shape[-1]
    pitch, images = images_of(op.tasks, tokens)
    tile = tile.fitted(channels, pitch, inner)
    grid = (triton.cdiv(channels, tile.rows) * images * triton.cdiv(pitch, tile.tokens),)
    _coupling_product[grid](
        op.weight, op.weight.stride(-2), op.hidden[0], op.hidden[0].stride(0), op.hidden[1], inner, *op.epilogue(),
        op.weight if op.tasks is None else op.tasks, pitch, op.weight.stride(0),
        KEEP=op.kept is not None, MIXED=op.tasks is not None,
        EVEN=op.tasks is None and _even(tile, channels, op.hidden[0], (inner,)), PRECISION=precision(op.weight.dtype),
        **tile.options(),
    )  # fmt: skip


def _even(tile: Tile, rows: int, x: Tensor, inner: tuple[int, ...]) -> bool:
    """Whether masks may go. Multiply-adds of fp32 hide them, and without them its hidden gradient spills."""
    return x.itemsize == 2 and tile.divides(rows, x.shape[1], inner)
