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
TASKS = (2, 0, 0, 1, 2)  # of each image


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


def weights(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """A random tensor, of several tasks (T, M, K), whose rows start aligned, with NaN between them."""
    inner = shape[-1]
    room = torch.full((*shape[:-1], -(-inner // 8) * 8), torch.nan, device=DEVICE, dtype=dtype)
    return room[..., :inner].copy_(random(*shape) / inner**0.5)


def product(
    weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor, tasks: tuple[int, ...] | None = None
) -> torch.Tensor:
    """W x + b in fp64, of each image with its own task's."""
    if tasks is None:
        return weight.double() @ x.double() + bias.double()[:, None]
    images = zip(tasks, x.chunk(len(tasks), dim=1), strict=True)
    return torch.cat([product(weight[task], bias[task], own) for task, own in images], dim=1)


def chosen(tasks: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(tasks, dtype=torch.int32, device=DEVICE)


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
    weight, bias, x = weights(outputs, width, dtype=dtype), random(outputs), rows(width + 5, tokens, dtype)
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
    weight, dy = weights(networks * inner, units, dtype=dtype), rows(networks * inner, tokens, dtype)
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

    def __init__(
        self, channels: int, inner: int, tokens: int, dtype: torch.dtype, keep: torch.dtype | None,
        tasks: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        several = () if tasks is None else (max(tasks) + 1,)
        self.weight, self.bias = weights(*several, 2 * channels, inner, dtype=dtype), random(*several, 2 * channels)
        self.tasks = None if tasks is None else chosen(tasks)
        self.hidden, self.state = rows(2 * inner, tokens, dtype), rows(2 * channels + 8, tokens, seed=2)
        order = torch.randperm(2 * channels + 8, generator=torch.Generator().manual_seed(0))
        self.at = order[:channels].to(DEVICE)
        self.pending, self.affine = random(2 * channels + 8, 2), random(channels, 2, seed=3)
        self.logdet = channel_major(logdet_tiles(channels, tokens, dtype), tokens, self.state)
        self.kept = None if keep is None else (rows(channels, tokens, keep), rows(channels, tokens, keep))
        self.before = self.state.double()
        halves = zip(self.weight.chunk(2, -2), self.bias.chunk(2, -1), self.hidden.chunk(2), strict=True)
        self.s, self.t = (product(*half, tasks).requires_grad_(True) for half in halves)
        pending = self.pending.double()[self.at]
        self.x2 = (self.before[self.at] * pending[:, :1] + pending[:, 1:]).requires_grad_(True)
        self.log_scale = CLAMPING.clamp * torch.tanh(CLAMPING.s_factor * self.s)
        moved = self.x2 * self.log_scale.exp() + CLAMPING.t_factor * self.t
        self.y2 = moved * self.affine[:, :1].double() + self.affine[:, 1:].double()

    def run(self) -> tuple[torch.Tensor, ...]:
        """Couple a copy of the state; every result, and the log-determinant of each token."""
        state, inner = channel_major(*self.state.shape, self.state).copy_(self.state), self.weight.shape[-1]
        self.logdet.fill_(torch.nan)
        coupling_product(
            self.weight, self.bias, (self.hidden[:inner], self.hidden[inner:]), state, self.at.int(), self.pending,
            self.affine, self.logdet, CLAMPING, self.kept, self.tasks,
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
        assert_coupled(case, dtype, keep)
    assert taken == [name, name]


def assert_coupled(case: Coupled, dtype: torch.dtype, keep: torch.dtype | None) -> None:
    """As in fp64, rows that are not driven as they were, and the same bits twice."""
    first, second = ([result.clone() for result in case.run()] for _ in range(2))
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


def way_of_images(name: str, pitch: int) -> str:
    """Pointers alone take images that start anywhere, and the library takes no tasks at all."""
    return name if name == "descriptors" and pitch % 8 == 0 else "pointers"


@every_way
@pytest.mark.parametrize(("outputs", "inner"), [(34, None), (64, (48, 16)), (64, (32, 32))])
@pytest.mark.parametrize("pitch", [14, 40, 64, 72])
def test_hidden_layers_of_images_with_their_own_tasks(
    name: str, dtype: torch.dtype, outputs: int, inner: Inner, pitch: int, taken: list[str]
) -> None:
    """Of tiles of 64 tokens: less than one, one, one and a bit."""
    width, first_row, tokens = 19 if inner is None else inner[0], 0 if inner is None else 5, len(TASKS) * pitch
    weight, bias, x = weights(3, outputs, width, dtype=dtype), random(3, outputs), rows(width + 5, tokens, dtype)
    results = []
    for _ in range(2):
        out = channel_major(outputs, tokens, x)
        with use_table(table_of_one("relu_product by image", HIDDEN_WAYS[name])):
            results.append(relu_product(weight, bias, x, out, inner, first_row, chosen(TASKS)))
    assert taken == 2 * [way_of_images(name, pitch)]
    if inner is None:
        expected = product(weight, bias, x[:width], TASKS)
    else:
        inputs = x[: inner[0]], x[first_row : first_row + inner[1]]
        parts = zip(weight.chunk(2, 1), bias.chunk(2, 1), inputs, strict=True)
        expected = torch.cat([product(w[..., : len(own)], b, own, TASKS) for w, b, own in parts])
    assert_near(results[0], expected.relu(), dtype)
    assert torch.equal(*results)


@every_way
@pytest.mark.parametrize("keep", [None, torch.bfloat16])
@pytest.mark.parametrize(
    ("channels", "inner", "pitch"), [(21, 17, 14), (21, 17, 40), (70, 24, 64), (128, 32, 72), (64, 16, 128)]
)
def test_couplings_of_images_with_their_own_tasks(
    name: str, dtype: torch.dtype, keep: torch.dtype | None, channels: int, inner: int, pitch: int, taken: list[str]
) -> None:
    case = Coupled(channels, inner, len(TASKS) * pitch, dtype, keep, TASKS)
    with use_table(table_of_one("coupling_product by image", COUPLING_WAYS[name])):
        assert_coupled(case, dtype, keep)
    assert taken == 2 * [way_of_images(name, pitch)]


@every_way
@pytest.mark.parametrize("pitch", [14, 40])
def test_no_tile_reaches_into_another_image(name: str, dtype: torch.dtype, pitch: int) -> None:
    """Every other image is full of NaN: the images between come out as they did."""
    tasks, tokens = chosen(TASKS), len(TASKS) * pitch
    case, weight = Coupled(21, 16, tokens, dtype, None, TASKS), weights(3, 32, 16, dtype=dtype)
    results = []
    for spoilt in (False, True):
        if spoilt:
            case.hidden.unflatten(1, (-1, pitch))[:, ::2] = torch.nan
        out = channel_major(32, tokens, case.hidden)
        with use_table(table_of_one("relu_product by image", HIDDEN_WAYS[name])):
            relu_product(weight, random(3, 32), case.hidden[:16], out, tasks=tasks)
        with use_table(table_of_one("coupling_product by image", COUPLING_WAYS[name])):
            state, logdet = case.run()
        results.append([t.unflatten(-1, (-1, pitch))[..., 1::2, :] for t in (out, state[case.at], logdet)])
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after)


def test_descriptors_take_aligned_tensors_of_16_bits_alone() -> None:
    def takes(weight: torch.Tensor, x: torch.Tensor) -> bool:
        op = Hidden(weight, random(32), x, channel_major(32, 42, x), (weight.shape[1],), 0, None)
        return descriptors.takes_relu_product(op, Tile(32, 64, 16, 4, 2))

    x = rows(24, 42, HALF)
    assert takes(weights(32, 19, dtype=HALF), x[:19])
    assert not takes(random(32, 19).to(HALF), x[:19])  # 38 bytes a row
    assert not takes(weights(32, 24, dtype=HALF), random(24, 42).to(HALF))  # 84 bytes a row
    assert not takes(weights(32, 25, dtype=HALF)[:, 1:], x)  # starts 2 bytes into a row
    assert not takes(weights(32, 24, dtype=torch.float32), rows(24, 42))


def test_descriptors_take_images_that_start_aligned() -> None:
    def takes(pitch: int) -> bool:
        x, weight = rows(24, 5 * pitch, HALF), weights(3, 32, 24, dtype=HALF)
        op = Hidden(weight, random(3, 32), x, channel_major(32, 5 * pitch, x), (24,), 0, chosen(TASKS))
        return descriptors.takes_relu_product(op, Tile(32, 64, 16, 4, 2))

    assert takes(28 * 28) and takes(8)
    assert not takes(14 * 14)  # 392 bytes an image
