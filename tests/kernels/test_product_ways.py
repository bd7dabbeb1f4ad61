"""The flow's products in every way, with operands of fp32 and fp16, on a GPU bf16 too.

Tiles divide no size, some, and all; the padding is full of NaN.
"""

from collections.abc import Iterator

import pytest
import torch
from kernel_checks import DEVICE, random

from moleflow_fast.kernels import channel_major, coupling, descriptors, products
from moleflow_fast.kernels.coupling import coupling_backward, coupling_product, logdet_tiles
from moleflow_fast.kernels.operands import Hidden
from moleflow_fast.kernels.products import relu_gradient_product, relu_product, sum_tiles
from moleflow_fast.kernels.tiles import Tile
from moleflow_fast.kernels.ways import Implementation, use_table
from moleflow_fast.kernels.ways_table import Way, table_of_one
from moleflow_fast.ops.coupling import Clamping

pytestmark = pytest.mark.usefixtures("poisoned")
# The interpreter multiplies the raw bits of bf16.
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16
BOUND = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
CLAMPING = Clamping(1.9, 0.1, 0.3)
HIDDEN_WAYS = {
    "pointers": Way("pointers", Tile(32, 64, 16, 4, 2)),
    "descriptors": Way("descriptors", Tile(32, 64, 16, 4, 2)),
    "library": Way("library"),
}
COUPLING_WAYS = {name: Way(name, tile and tile._replace(rows=64)) for name, (_, tile) in HIDDEN_WAYS.items()}
# descriptors multiply 16-bit operands alone
WAYS = [
    ("pointers", torch.float32), ("pointers", HALF), ("descriptors", HALF),
    ("library", torch.float32), ("library", HALF),
]  # fmt: skip
every_way = pytest.mark.parametrize(("name", "dtype"), WAYS)
Inner = tuple[int, int] | None


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the ways that ran."""
    names: list[str] = []
    for ways in (products._HIDDEN, products._HIDDEN_GRADIENT, coupling._WAYS):
        for name, way in ways.items():

            def run(op: object, tile: Tile, way: Implementation = way, name: str = name) -> object:
                names.append(name)
                return way.run(op, tile)

            monkeypatch.setitem(ways, name, Implementation(run, way.takes))
    return names


def rows(count: int, tokens: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """A random (count, tokens) tensor in a padded layout."""
    out = channel_major(count, tokens, torch.empty(0, device=DEVICE), dtype)
    return out.copy_(random(count, tokens, seed=seed))


def weights(count: int, inner: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """A random (count, inner) tensor whose rows start aligned, with NaN between them."""
    room = torch.full((count, -(-inner // 8) * 8), torch.nan, device=DEVICE, dtype=dtype)
    return room[:, :inner].copy_(random(count, inner, seed=seed) / inner**0.5)


def room_for_sums(rows: int, tokens: int) -> torch.Tensor:
    """As the engine cuts it out of a wider tensor: (tiles, rows), full of NaN."""
    wide = torch.full((sum_tiles(tokens), rows + 5), torch.nan, device=DEVICE)
    return wide[:, 3 : 3 + rows]


def assert_near(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    error = (actual.double() - expected.double()).abs().max()
    assert float(error) <= BOUND[dtype] * float(expected.abs().max()), float(error)


@every_way
@pytest.mark.parametrize(
    ("outputs", "inner", "tokens"),
    [(34, None, 42), (34, (19, 11), 42), (64, (48, 16), 42), (64, (32, 32), 128), (70, None, 200)],
)
def test_hidden_layers(
    name: str, dtype: torch.dtype, outputs: int, inner: Inner, tokens: int, taken: list[str]
) -> None:
    width = 19 if inner is None else inner[0]
    first_row = 0 if inner is None else 5
    weight, bias, x = weights(outputs, width, dtype), random(outputs), rows(width + 5, tokens, dtype)
    out, again = channel_major(outputs, tokens, x), channel_major(outputs, tokens, x)
    with use_table(table_of_one("relu_product", HIDDEN_WAYS[name])):
        relu_product(weight, bias, x, out, inner, first_row)
        relu_product(weight, bias, x, again, inner, first_row)
    parts_touch = name == "descriptors" and inner == (19, 11)  # tiles of one network would reach into the other
    assert taken == 2 * ["pointers" if parts_touch else name]
    w, x64, half = weight.double(), x.double(), outputs // 2
    if inner is None:
        expected = w @ x64[:width]
    else:
        shift = w[half:, : inner[1]] @ x64[first_row : first_row + inner[1]]
        expected = torch.cat([w[:half] @ x64[:width], shift])
    assert_near(out, (expected + bias.double()[:, None]).relu(), dtype)
    assert torch.equal(out, again)


@every_way
@pytest.mark.parametrize(("inner", "units", "tokens"), [(13, 9, 42), (32, 64, 42), (32, 64, 128), (16, 32, 200)])
@pytest.mark.parametrize("networks", [1, 2])
def test_gradients_of_hidden_layers(
    name: str, dtype: torch.dtype, networks: int, inner: int, units: int, tokens: int, taken: list[str]
) -> None:
    weight, dy = weights(networks * inner, units, dtype), rows(networks * inner, tokens, dtype)
    hidden = rows(networks * units, tokens, dtype, seed=1)
    results = []
    for _ in range(2):
        out, sums = channel_major(networks * units, tokens, dy), room_for_sums(networks * units, tokens)
        with use_table(table_of_one("relu_gradient_product", HIDDEN_WAYS[name])):
            written = relu_gradient_product(weight, dy, hidden, out, networks, sums)
        assert 0 < written <= sum_tiles(tokens) and sums[written:].isnan().all()
        results.append((out, sums[:written].sum(0)))
    parts_touch = name == "descriptors" and inner == 13 and networks == 2
    assert taken == 2 * ["pointers" if parts_touch else name]
    pairs = zip(weight.double().chunk(networks), dy.double().chunk(networks), strict=True)
    expected = torch.cat([w.t() @ own for w, own in pairs]) * (hidden > 0)
    assert_near(results[0][0], expected, dtype)
    assert_near(results[0][1], expected.sum(1), dtype)
    assert all(map(torch.equal, results[0], results[1]))


class Coupled:
    """A coupling's operands, what it computes, and the same in fp64."""

    def __init__(self, channels: int, inner: int, tokens: int, dtype: torch.dtype, keep: torch.dtype | None) -> None:
        self.weight, self.bias = weights(2 * channels, inner, dtype), random(2 * channels)
        self.hidden, self.state = rows(2 * inner, tokens, dtype), rows(2 * channels + 8, tokens, seed=2)
        order = torch.randperm(2 * channels + 8, generator=torch.Generator().manual_seed(0))
        self.at = order[:channels].to(DEVICE)
        self.pending, self.affine = random(2 * channels + 8, 2), random(channels, 2, seed=3)
        self.logdet = channel_major(logdet_tiles(channels, tokens, dtype), tokens, self.state)
        self.kept = None if keep is None else (rows(channels, tokens, keep), rows(channels, tokens, keep))
        self.before = self.state.double()
        w, h, bias = self.weight.double(), self.hidden.double(), self.bias.double()[:, None]
        self.s = (w[:channels] @ h[:inner] + bias[:channels]).requires_grad_(True)
        self.t = (w[channels:] @ h[inner:] + bias[channels:]).requires_grad_(True)
        pending = self.pending.double()[self.at]
        self.x2 = (self.before[self.at] * pending[:, :1] + pending[:, 1:]).requires_grad_(True)
        self.log_scale = CLAMPING.clamp * torch.tanh(CLAMPING.s_factor * self.s)
        moved = self.x2 * self.log_scale.exp() + CLAMPING.t_factor * self.t
        self.y2 = moved * self.affine[:, :1].double() + self.affine[:, 1:].double()

    def run(self) -> tuple[torch.Tensor, ...]:
        """Couple a copy of the state; every result, and the log-determinant of each token."""
        state, inner = channel_major(*self.state.shape, self.state).copy_(self.state), self.weight.shape[1]
        self.logdet.fill_(torch.nan)
        coupling_product(
            self.weight, self.bias, (self.hidden[:inner], self.hidden[inner:]), state, self.at.int(), self.pending,
            self.affine, self.logdet, CLAMPING, self.kept,
        )  # fmt: skip
        return state, self.logdet.sum(0), *(self.kept or ())


@every_way
@pytest.mark.parametrize("keep", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "inner", "tokens"), [(21, 17, 42), (70, 24, 42), (128, 32, 128), (64, 16, 200)])
def test_couplings(
    name: str, dtype: torch.dtype, keep: torch.dtype | None, channels: int, inner: int, tokens: int, taken: list[str]
) -> None:
    case = Coupled(channels, inner, tokens, dtype, keep)
    with use_table(table_of_one("coupling_product", COUPLING_WAYS[name])):
        first, second = ([result.clone() for result in case.run()] for _ in range(2))
    assert taken == [name, name]
    assert all(map(torch.equal, first, second))
    state, logdet, *kept = first
    assert_near(state[case.at], case.y2.detach(), dtype)
    assert_near(logdet, case.log_scale.detach().sum(0), dtype)
    untouched = torch.ones(len(state), dtype=torch.bool, device=DEVICE).index_fill(0, case.at, False)
    assert torch.equal(state[untouched].double(), case.before[untouched])
    if keep is not None:
        assert_near(kept[0], case.s.detach(), max(keep, dtype, key=BOUND.__getitem__))
        assert_near(kept[1], case.x2.detach(), keep)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("keep", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [42, 600])
def test_gradients_of_couplings(dtype: torch.dtype, keep: torch.dtype, tokens: int) -> None:
    """Kept in bf16, s and x2 are rounded before the gradient is taken: it is exact for the rounded ones."""
    channels = 21
    case = Coupled(channels, 17, tokens, dtype, keep)
    s, x2 = (rows(channels, tokens, keep).copy_(value.detach()) for value in (case.s, case.x2))
    s64, x64 = (value.double().requires_grad_(True) for value in (s, x2))
    log_scale = CLAMPING.clamp * torch.tanh(CLAMPING.s_factor * s64)
    y2 = (x64 * log_scale.exp() + CLAMPING.t_factor * case.t) * case.affine[:, :1].double()
    grad, dlogdet, sums = rows(50, tokens, seed=4), random(tokens), room_for_sums(2 * channels, tokens)
    above, dout = grad[case.at].double(), channel_major(2 * channels, tokens, grad, dtype)
    at = case.at.int()
    written = coupling_backward(s, x2, grad, at, case.affine, dlogdet, dout, CLAMPING, sums)
    loss = (y2 * above).sum() + (log_scale.sum(0) * dlogdet.double()).sum()
    dx2, ds, dt = torch.autograd.grad(loss, (x64, s64, case.t))
    assert_near(grad[case.at], dx2, dtype)
    assert_near(dout, torch.cat([ds, dt]), dtype)
    assert sums[written:].isnan().all()
    assert_near(sums[:written].sum(0), torch.cat([ds, dt]).sum(1), dtype)


@every_way
@pytest.mark.parametrize(("chosen", "pitch"), [((2, 0), 21), ((2, 0), 64), ((1, 0, 2), 40), ((2, 1, 0, 1, 1), 72)])
def test_each_image_with_its_own_task(
    name: str, dtype: torch.dtype, chosen: tuple[int, ...], pitch: int, taken: list[str]
) -> None:
    """The library has no such product, and descriptors need images that start at 16 bytes: pointers take the rest."""
    tasks, tokens = torch.tensor(chosen, dtype=torch.int32, device=DEVICE), len(chosen) * pitch
    weight = (random(3, 64, 24) / 24**0.5).to(dtype)
    bias, x = random(3, 64), rows(24, tokens, dtype)
    outs = [channel_major(64, tokens, x) for _ in range(2)]
    with use_table(table_of_one("relu_product by image", HIDDEN_WAYS[name])):
        for out in outs:
            relu_product(weight, bias, x, out, (24, 16), tasks=tasks)
    weight64, bias64 = weight.double(), bias.double()[..., None]
    parts = [
        torch.cat([weight64[task, :32] @ own, weight64[task, 32:, :16] @ own[:16]]) + bias64[task]
        for task, own in zip(chosen, x.double().chunk(len(chosen), dim=1), strict=True)
    ]
    assert_near(outs[0], torch.cat(parts, dim=1).relu(), dtype)
    assert torch.equal(*outs)

    case = Coupled(64, 16, tokens, dtype, None)
    case.weight, case.bias = (random(3, 128, 16) / 4).to(dtype), random(3, 128)
    state = channel_major(*case.state.shape, case.state).copy_(case.state)
    with use_table(table_of_one("coupling_product by image", COUPLING_WAYS[name])):
        coupling_product(
            case.weight, case.bias, (case.hidden[:16], case.hidden[16:]), state, case.at.int(), case.pending,
            case.affine, case.logdet, CLAMPING, None, tasks,
        )  # fmt: skip
    weight64, bias64 = case.weight.double(), case.bias.double()[..., None]
    images = list(zip(chosen, case.hidden.double().chunk(len(chosen), dim=1), strict=True))
    s = torch.cat([weight64[task, :64] @ own[:16] + bias64[task, :64] for task, own in images], dim=1)
    t = torch.cat([weight64[task, 64:] @ own[16:] + bias64[task, 64:] for task, own in images], dim=1)
    log_scale = CLAMPING.clamp * torch.tanh(CLAMPING.s_factor * s)
    assert_near(case.logdet.sum(0), log_scale.sum(0), dtype)
    x2 = case.state[case.at].double() * case.pending[case.at, :1] + case.pending[case.at, 1:]
    y2 = (x2 * log_scale.exp() + CLAMPING.t_factor * t) * case.affine[:, :1] + case.affine[:, 1:]
    assert_near(state[case.at], y2, dtype)
    assert taken == 3 * [name if name == "descriptors" and pitch % 8 == 0 else "pointers"]


def test_descriptors_take_aligned_tensors_of_16_bits_alone() -> None:
    def takes(weight: torch.Tensor, x: torch.Tensor) -> bool:
        op = Hidden(weight, random(32), x, channel_major(32, 42, x), (weight.shape[1],), 0, None)
        return descriptors.takes_relu_product(op, Tile(32, 64, 16, 4, 2))

    x = rows(24, 42, HALF)
    assert takes(weights(32, 19, HALF), x[:19])
    assert not takes(random(32, 19).to(HALF), x[:19])  # 38 bytes a row
    assert not takes(weights(32, 24, HALF), random(24, 42).to(HALF))  # 84 bytes a row
    assert not takes(weights(32, 25, HALF)[:, 1:], x)  # starts 2 bytes into a row
    assert not takes(weights(32, 24, torch.float32), rows(24, 42))
