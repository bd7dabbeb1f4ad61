"""AdamP over all tensors of an optimizer in six launches, without a look at the device: a CUDA graph can hold it.

Kernels find their tensors by address in a table. What they add up goes to buffers, one place a row and chunk of
columns, and is added from there in a fixed order: the same gradients give the same bits.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from .adamp_groups import AdamPSettings, AdamPTensor, Group

# Columns of the table of tensors; a vector is one row that is no matrix.
_ADDRESSES = tl.constexpr(0)  # of parameter, gradient, exp_avg, exp_avg_sq
_ROWS = tl.constexpr(4)
_COLUMNS = tl.constexpr(5)
_IS_MATRIX = tl.constexpr(6)
_GROUP = tl.constexpr(7)
_SUMS = tl.constexpr(8)  # where its row sums start: (chunks, rows)
_CHUNKS = tl.constexpr(9)
_FIELDS = tl.constexpr(10)

# Columns of the list of tiles; a tile is `_TILE` elements of one tensor, as wide as its kind.
_TENSOR = tl.constexpr(0)
_KIND = tl.constexpr(1)
_FIRST_ROW = tl.constexpr(2)
_FIRST_COLUMN = tl.constexpr(3)
_TILE_SUMS = tl.constexpr(4)  # where the sums of its first row are
_TILE_FIELDS = tl.constexpr(5)
_TILE = tl.constexpr(2048)
_WIDTHS = (16, 64, 256)

_NORM = tl.constexpr(0)
_SCALE = tl.constexpr(1)
_SKIP = tl.constexpr(2)

# What decides about a tensor's elements, in fp32.
_BETA1 = tl.constexpr(0)
_REST1 = tl.constexpr(1)
_BETA2 = tl.constexpr(2)
_REST2 = tl.constexpr(3)
_M_PART = tl.constexpr(4)
_G_PART = tl.constexpr(5)
_V_SCALE = tl.constexpr(6)
_EPS = tl.constexpr(7)
_G_SCALE = tl.constexpr(8)
_KEEP = tl.constexpr(9)
_STEP_SIZE = tl.constexpr(10)
_PROJECTION = tl.constexpr(11)
_ALONG = tl.constexpr(12)
_COEFFICIENTS = tl.constexpr(13)

_NONE = tl.constexpr(0)
_CHANNELS = tl.constexpr(1)
_LAYER = tl.constexpr(2)
_SETTINGS = tl.constexpr(len(AdamPSettings._fields))


@triton.jit
def _array(entry, number: tl.constexpr):
    return tl.load(entry + _ADDRESSES + number).to(tl.pointer_type(tl.float32))


@triton.jit
def _elements(tile, entry, WIDTH: tl.constexpr):
    """Offsets of a tile's elements and which of them exist; its rows and which of them exist."""
    HEIGHT: tl.constexpr = _TILE // WIDTH
    columns = tl.load(entry + _COLUMNS)
    row = tl.load(tile + _FIRST_ROW) + tl.arange(0, HEIGHT)
    column = tl.load(tile + _FIRST_COLUMN) + tl.arange(0, WIDTH)
    row_ok = row < tl.load(entry + _ROWS)
    ok = row_ok[:, None] & (column < columns)[None, :]
    return row[:, None] * columns + column[None, :], ok, row, row_ok


@triton.jit
def _measure_tile(tile, entry, tile_sum_ptr, sums_ptr, sums_stride, WIDTH: tl.constexpr):
    at, ok, row, row_ok = _elements(tile, entry, WIDTH)
    g = tl.load(_array(entry, 1) + at, mask=ok, other=0.0)
    gg = tl.sum(g * g, 1)
    tl.store(tile_sum_ptr, tl.sum(gg, 0))
    if tl.load(entry + _IS_MATRIX) != 0:
        p = tl.load(_array(entry, 0) + at, mask=ok, other=0.0)
        sums = sums_ptr + tl.load(tile + _TILE_SUMS) + row - tl.load(tile + _FIRST_ROW)
        tl.store(sums, gg, mask=row_ok)
        tl.store(sums + sums_stride, tl.sum(g * p, 1), mask=row_ok)
        tl.store(sums + 2 * sums_stride, tl.sum(p * p, 1), mask=row_ok)


@triton.jit
def _measure(tiles_ptr, table_ptr, tile_sums_ptr, sums_ptr, sums_stride):
    """Of each row's chunk the products of gradient and parameter, of each tile the gradient's square."""
    tile = tiles_ptr + tl.program_id(0) * _TILE_FIELDS
    entry = table_ptr + tl.load(tile + _TENSOR) * _FIELDS
    kind = tl.load(tile + _KIND)
    tile_sum_ptr = tile_sums_ptr + tl.program_id(0)
    if kind == 0:
        _measure_tile(tile, entry, tile_sum_ptr, sums_ptr, sums_stride, 16)
    elif kind == 1:
        _measure_tile(tile, entry, tile_sum_ptr, sums_ptr, sums_stride, 64)
    else:
        _measure_tile(tile, entry, tile_sum_ptr, sums_ptr, sums_stride, 256)


@triton.jit
def _clip(tile_sums_ptr, tiles, max_norm_ptr, skip_ptr, control_ptr, BLOCK: tl.constexpr):
    squares = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, tiles, BLOCK):
        at = start + tl.arange(0, BLOCK)
        squares += tl.load(tile_sums_ptr + at, mask=at < tiles, other=0.0).to(tl.float64)
    norm = tl.sqrt(tl.sum(squares, 0))
    scale = tl.load(max_norm_ptr) / (norm + 1e-6)
    skip = (tl.load(skip_ptr) != 0) | (norm != norm) | (norm == float("inf"))
    tl.store(control_ptr + _NORM, norm)
    tl.store(control_ptr + _SCALE, tl.where(scale < 1.0, scale, 1.0))
    tl.store(control_ptr + _SKIP, skip.to(tl.float64))


@triton.jit
def _nearly_orthogonal(gg, gp, pp, scale, eps, delta, width):
    """|cos| below delta / sqrt(width), each norm at least eps as in torch's cosine_similarity; False for NaN."""
    g_norm, p_norm = tl.sqrt(gg) * scale, tl.sqrt(pp)
    g_norm, p_norm = tl.where(g_norm < eps, eps, g_norm), tl.where(p_norm < eps, eps, p_norm)
    return tl.abs(gp * scale / (g_norm * p_norm)) < delta / tl.sqrt(width.to(tl.float64))


@triton.jit
def _projection(entry, sums_ptr, sums_stride, scale, eps, delta, BLOCK: tl.constexpr):
    is_matrix, chunks = tl.load(entry + _IS_MATRIX), tl.load(entry + _CHUNKS)
    rows, columns = tl.load(entry + _ROWS) * is_matrix, tl.load(entry + _COLUMNS)
    sums_ptr += tl.load(entry + _SUMS)
    far = tl.zeros((BLOCK,), tl.int32)
    layer_gg = tl.zeros((BLOCK,), tl.float64)
    layer_gp = tl.zeros((BLOCK,), tl.float64)
    layer_pp = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        ok = row < rows
        gg = tl.zeros((BLOCK,), tl.float64)
        gp = tl.zeros((BLOCK,), tl.float64)
        pp = tl.zeros((BLOCK,), tl.float64)
        for chunk in range(0, chunks):
            at = sums_ptr + chunk * rows + row
            gg += tl.load(at, mask=ok, other=0.0).to(tl.float64)
            gp += tl.load(at + sums_stride, mask=ok, other=0.0).to(tl.float64)
            pp += tl.load(at + 2 * sums_stride, mask=ok, other=0.0).to(tl.float64)
        near = _nearly_orthogonal(gg, gp, pp, scale, eps, delta, columns)
        far = tl.where(ok & (near == 0), 1, far)
        layer_gg += gg
        layer_gp += gp
        layer_pp += pp
    gg, gp, pp = tl.sum(layer_gg, 0), tl.sum(layer_gp, 0), tl.sum(layer_pp, 0)
    layer = _nearly_orthogonal(gg, gp, pp, scale, eps, delta, tl.load(entry + _ROWS) * columns)
    whole = tl.where(layer, _LAYER, _NONE)
    return tl.where(is_matrix == 0, _NONE, tl.where(tl.max(far, 0) == 0, _CHANNELS, whole))


@triton.jit
def _decide(
    table_ptr, settings_ptr, lr_ptr, steps_ptr, control_ptr, sums_ptr, sums_stride, coefficients_ptr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Count the step, choose the projection; in fp64, since 1 - beta2 in fp32 is off by 1e-5."""
    if tl.load(control_ptr + _SKIP) == 0.0:
        tensor = tl.program_id(0)
        entry = table_ptr + tensor * _FIELDS
        group = tl.load(entry + _GROUP)
        step = tl.load(steps_ptr + tensor) + 1
        tl.store(steps_ptr + tensor, step)
        lr = tl.load(lr_ptr + group)
        settings = settings_ptr + group * _SETTINGS
        beta1, beta2, eps = tl.load(settings + 1), tl.load(settings + 2), tl.load(settings + 3)
        decay, delta, wd_ratio = tl.load(settings + 4), tl.load(settings + 5), tl.load(settings + 6)
        nesterov = tl.load(settings + 7) != 0.0
        scale = tl.load(control_ptr + _SCALE)
        projection = _projection(entry, sums_ptr, sums_stride, scale, eps, delta, BLOCK)
        c = coefficients_ptr + tensor * _COEFFICIENTS
        tl.store(c + _BETA1, beta1.to(tl.float32))
        tl.store(c + _REST1, (1.0 - beta1).to(tl.float32))
        tl.store(c + _BETA2, beta2.to(tl.float32))
        tl.store(c + _REST2, (1.0 - beta2).to(tl.float32))
        tl.store(c + _M_PART, tl.where(nesterov, beta1, 1.0).to(tl.float32))
        tl.store(c + _G_PART, tl.where(nesterov, 1.0 - beta1, 0.0).to(tl.float32))
        tl.store(c + _V_SCALE, (1.0 / tl.sqrt(1.0 - _power(beta2, step))).to(tl.float32))
        tl.store(c + _EPS, eps.to(tl.float32))
        tl.store(c + _G_SCALE, scale.to(tl.float32))
        decay = tl.where(decay > 0.0, lr * decay, 0.0)
        tl.store(c + _KEEP, (1.0 - decay * tl.where(projection == _NONE, 1.0, wd_ratio)).to(tl.float32))
        tl.store(c + _STEP_SIZE, (lr / (1.0 - _power(beta1, step))).to(tl.float32))
        tl.store(c + _PROJECTION, projection.to(tl.float32))


@triton.jit
def _power(base, exponent):
    """Of a base in [0, 1) and an exponent from 1."""
    logarithm = tl.log(tl.where(base > 0.0, base, 1.0))
    return tl.where(base > 0.0, tl.exp(exponent.to(tl.float64) * logarithm), 0.0)


@triton.jit
def _perturbation(m, v, g, c):
    denominator = tl.sqrt_rn(v) * tl.load(c + _V_SCALE) + tl.load(c + _EPS)
    return (tl.load(c + _M_PART) * m + tl.load(c + _G_PART) * g) / denominator


@triton.jit
def _advance_tile(tile, entry, c, sums_ptr, sums_stride, WIDTH: tl.constexpr):
    at, ok, row, row_ok = _elements(tile, entry, WIDTH)
    p = tl.load(_array(entry, 0) + at, mask=ok, other=0.0)
    g = tl.load(_array(entry, 1) + at, mask=ok, other=0.0) * tl.load(c + _G_SCALE)
    m = tl.load(_array(entry, 2) + at, mask=ok, other=0.0)
    v = tl.load(_array(entry, 3) + at, mask=ok, other=0.0)
    m = tl.load(c + _BETA1) * m + tl.load(c + _REST1) * g
    v = tl.load(c + _BETA2) * v + tl.load(c + _REST2) * g * g
    tl.store(_array(entry, 2) + at, m, mask=ok)
    tl.store(_array(entry, 3) + at, v, mask=ok)
    u = _perturbation(m, v, g, c)
    if tl.load(c + _PROJECTION) == _NONE:
        p = tl.load(c + _KEEP) * p - tl.load(c + _STEP_SIZE) * u
        tl.store(_array(entry, 0) + at, p, mask=ok)
    else:
        sums = sums_ptr + tl.load(tile + _TILE_SUMS) + row - tl.load(tile + _FIRST_ROW)
        tl.store(sums + 3 * sums_stride, tl.sum(tl.where(ok, p * u, 0.0), 1), mask=row_ok)


@triton.jit
def _advance(tiles_ptr, table_ptr, control_ptr, coefficients_ptr, sums_ptr, sums_stride):
    """Moments; parameters where nothing is projected, else products of parameter and perturbation."""
    if tl.load(control_ptr + _SKIP) == 0.0:
        tile = tiles_ptr + tl.program_id(0) * _TILE_FIELDS
        tensor, kind = tl.load(tile + _TENSOR), tl.load(tile + _KIND)
        entry, c = table_ptr + tensor * _FIELDS, coefficients_ptr + tensor * _COEFFICIENTS
        if kind == 0:
            _advance_tile(tile, entry, c, sums_ptr, sums_stride, 16)
        elif kind == 1:
            _advance_tile(tile, entry, c, sums_ptr, sums_stride, 64)
        else:
            _advance_tile(tile, entry, c, sums_ptr, sums_stride, 256)


@triton.jit
def _along(pp, pu, eps):
    """The perturbation's component along the parameter, in units of the parameter."""
    norm = tl.sqrt(pp) + eps
    return (pu / (norm * norm)).to(tl.float32)


@triton.jit
def _project_layer(table_ptr, control_ptr, coefficients_ptr, sums_ptr, sums_stride, BLOCK: tl.constexpr):
    c = coefficients_ptr + tl.program_id(0) * _COEFFICIENTS
    if tl.load(control_ptr + _SKIP) == 0.0 and tl.load(c + _PROJECTION) == _LAYER:
        entry = table_ptr + tl.program_id(0) * _FIELDS
        count = tl.load(entry + _ROWS) * tl.load(entry + _CHUNKS)
        sums_ptr += tl.load(entry + _SUMS)
        pp = tl.zeros((BLOCK,), tl.float64)
        pu = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, count, BLOCK):
            at = start + tl.arange(0, BLOCK)
            pp += tl.load(sums_ptr + 2 * sums_stride + at, mask=at < count, other=0.0).to(tl.float64)
            pu += tl.load(sums_ptr + 3 * sums_stride + at, mask=at < count, other=0.0).to(tl.float64)
        along = _along(tl.sum(pp, 0), tl.sum(pu, 0), tl.load(c + _EPS).to(tl.float64))
        tl.store(c + _ALONG, along)


@triton.jit
def _move_tile(tile, entry, c, sums_ptr, sums_stride, WIDTH: tl.constexpr):
    at, ok, row, row_ok = _elements(tile, entry, WIDTH)
    rows = tl.load(entry + _ROWS)
    sums_ptr += tl.load(entry + _SUMS)
    pp = tl.zeros(row.shape, tl.float64)
    pu = tl.zeros(row.shape, tl.float64)
    for chunk in range(0, tl.load(entry + _CHUNKS)):
        sums = sums_ptr + 2 * sums_stride + chunk * rows + row
        pp += tl.load(sums, mask=row_ok, other=0.0).to(tl.float64)
        pu += tl.load(sums + sums_stride, mask=row_ok, other=0.0).to(tl.float64)
    along = _along(pp, pu, tl.load(c + _EPS).to(tl.float64))
    along = tl.where(tl.load(c + _PROJECTION) == _LAYER, tl.load(c + _ALONG), along)
    p = tl.load(_array(entry, 0) + at, mask=ok, other=0.0)
    g = tl.load(_array(entry, 1) + at, mask=ok, other=0.0) * tl.load(c + _G_SCALE)
    m = tl.load(_array(entry, 2) + at, mask=ok, other=0.0)
    v = tl.load(_array(entry, 3) + at, mask=ok, other=0.0)
    u = _perturbation(m, v, g, c) - along[:, None] * p
    tl.store(_array(entry, 0) + at, tl.load(c + _KEEP) * p - tl.load(c + _STEP_SIZE) * u, mask=ok)


@triton.jit
def _move(tiles_ptr, table_ptr, control_ptr, coefficients_ptr, sums_ptr, sums_stride):
    """Parameters whose perturbation is projected."""
    tile = tiles_ptr + tl.program_id(0) * _TILE_FIELDS
    tensor, kind = tl.load(tile + _TENSOR), tl.load(tile + _KIND)
    entry, c = table_ptr + tensor * _FIELDS, coefficients_ptr + tensor * _COEFFICIENTS
    if tl.load(control_ptr + _SKIP) == 0.0 and tl.load(c + _PROJECTION) != _NONE:
        if kind == 0:
            _move_tile(tile, entry, c, sums_ptr, sums_stride, 16)
        elif kind == 1:
            _move_tile(tile, entry, c, sums_ptr, sums_stride, 64)
        else:
            _move_tile(tile, entry, c, sums_ptr, sums_stride, 256)


class DeviceAdamP:
    """Steps of AdamP with these parameters, gradients and moments, at the addresses that they have now.

    Args:
        groups: as for `adamp_step`: fp32, contiguous and on one device. The plan keeps the tensors alive.
        max_norm: as for `adamp_step`; infinity never scales.

    Attributes:
        table: where everything is; `step` takes another with other gradients.
        lr: (groups,) fp64, what the next step takes; to be written to in place.
        steps: (tensors,) int64, how many steps each tensor has taken.
        control: (3,) fp64, of the last step: the norm before scaling, the scale, 1 if the step was skipped.
        scratch: what a step writes before it reads it.
    """

    def __init__(self, groups: Sequence[Group], max_norm: float = math.inf) -> None:
        self.tensors = [t for _, own in groups for t in own]
        _check(self.tensors)
        device = self.tensors[0].parameter.device
        table, tiles = _tables(groups)
        self.table = torch.tensor(table, device=device)
        self._tiles = torch.tensor(tiles, dtype=torch.int64, device=device)
        self._settings = torch.tensor([s for s, _ in groups], dtype=torch.float64, device=device)
        self._max_norm = torch.tensor([max_norm], dtype=torch.float64, device=device)
        self._never = torch.zeros(1, dtype=torch.uint8, device=device)
        self.lr = self._settings[:, 0].clone()
        self.steps = torch.tensor([t.step - 1 for t in self.tensors], device=device)
        self.control = self._settings.new_zeros(3)
        row_sums = max(1, table[-1][8] + table[-1][4] * table[-1][9])
        self.scratch = (
            torch.empty(len(tiles), device=device),
            torch.empty(4, row_sums, device=device),  # gg, gp, pp and pu of gradient, parameter, perturbation
            torch.empty(len(table), _COEFFICIENTS.value, device=device),
        )

    def point(self, table: Tensor, gradients: Sequence[Tensor]) -> None:
        """Let a copy of `table` lead to these gradients, one for each tensor; the caller keeps them alive."""
        _check([t._replace(gradient=g) for t, g in zip(self.tensors, gradients, strict=True)])
        table[:, 1].copy_(torch.tensor([g.data_ptr() for g in gradients]))

    def step(self, skip: Tensor | None = None, table: Tensor | None = None) -> Tensor:
        """Update parameters, moments and step counts, unless the norm is not finite or `skip` holds.

        Args:
            skip: (1,) or (), bool or uint8, on the device.
            table: `table`, or a copy of it that leads to other gradients.

        Returns:
            The norm of the gradients before scaling, fp64 (), a view that the next step overwrites.

        Only launches; the first call compiles, so it comes before a capture.
        """
        skip = self._never if skip is None else skip.view(torch.uint8)
        table = self.table if table is None else table
        tile_sums, row_sums, coefficients = self.scratch
        sums = (row_sums, row_sums.stride(0))
        tiles, tensors = len(self._tiles), len(self.tensors)
        # Eight warps: with four `_advance` takes 254 registers.
        if tiles:
            _measure[(tiles,)](self._tiles, table, tile_sums, *sums, num_warps=8)
        _clip[(1,)](tile_sums, tiles, self._max_norm, skip, self.control, BLOCK=1024)
        _decide[(tensors,)](table, self._settings, self.lr, self.steps, self.control, *sums, coefficients, BLOCK=256)
        if tiles:
            _advance[(tiles,)](self._tiles, table, self.control, coefficients, *sums, num_warps=8)
            _project_layer[(tensors,)](table, self.control, coefficients, *sums, BLOCK=1024)
            _move[(tiles,)](self._tiles, table, self.control, coefficients, *sums, num_warps=8)
        increment_version([w for t in self.tensors for w in (t.parameter, t.exp_avg, t.exp_avg_sq)])
        return self.control[0]


def _check(tensors: Sequence[AdamPTensor]) -> None:
    if not tensors:
        raise ValueError("DeviceAdamP needs at least one parameter")
    device = tensors[0].parameter.device
    for t in tensors:
        for operand in t[:4]:
            if operand.dtype != torch.float32 or not operand.is_contiguous() or operand.device != device:
                raise ValueError(
                    "DeviceAdamP takes contiguous float32 tensors on one device, got "
                    f"{operand.dtype} with strides {operand.stride()} on {operand.device}"
                )
            if operand.shape != t.parameter.shape:
                raise ValueError(f"operands of one parameter differ in shape: {[tuple(o.shape) for o in t[:4]]}")


def _tables(groups: Sequence[Group]) -> tuple[list[list[int]], list[list[int]]]:
    table: list[list[int]] = []
    tiles: list[list[int]] = []
    sums = 0
    for group, (_, own) in enumerate(groups):
        for t in own:
            p = t.parameter
            is_matrix = p.dim() > 1 and p.numel() > 0
            rows = p.shape[0] if is_matrix else min(1, p.numel())
            columns = p.numel() // max(1, rows)
            kind = next((k for k, width in enumerate(_WIDTHS) if columns <= width), len(_WIDTHS) - 1)
            chunks = triton.cdiv(columns, _WIDTHS[kind])
            tiles += _tiles(len(table), kind, rows, columns, sums)
            addresses = [operand.data_ptr() for operand in t[:4]]
            table.append([*addresses, rows, columns, int(is_matrix), group, sums, chunks])
            sums += rows * chunks
    return table, tiles


def _tiles(tensor: int, kind: int, rows: int, columns: int, sums: int) -> Iterator[list[int]]:
    width = _WIDTHS[kind]
    for chunk, column in enumerate(range(0, columns, width)):
        for row in range(0, rows, _TILE.value // width):
            yield [tensor, kind, row, column, sums + chunk * rows + row]
