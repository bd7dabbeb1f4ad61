"""What one launch does for all layers of a flow: merged weights, sums of partial sums, gradients of LoRA factors."""

from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, random

from moleflow_fast.kernels.lora_gradients import LoraGradients, LoraLayer
from moleflow_fast.kernels.merge import Merge, MergedLayer
from moleflow_fast.kernels.progress import count, judge
from moleflow_fast.kernels.sums import Sum, Sums

pytestmark = pytest.mark.usefixtures("poisoned")
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]
BOUND = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def assert_near(actual: torch.Tensor, expected: torch.Tensor, bound: float = 1e-5) -> None:
    assert float((actual.double() - expected).abs().max()) <= bound * float(expected.abs().max())


def layers(rank: int) -> list[MergedLayer]:
    """With and without LoRA, biases of each kind and none, and one that leaves columns over."""
    shared: dict[str, Any] = {"lora_a": None, "lora_b": None, "task_bias": None}
    a, b = random(rank, 21), random(70, rank)
    wide = MergedLayer(random(70, 21), random(70), random(70, seed=1), a, b, width=21, out=0, bias_out=0)
    narrow = MergedLayer(random(9, 5), None, random(9), random(rank, 5), random(9, rank), 21, 70 * 21, 70)
    plain = MergedLayer(random(3, 130), random(3), **shared, width=130, out=79 * 21 + 11, bias_out=79)
    bare = MergedLayer(random(2, 2), None, **shared, width=2, out=79 * 21 + 11 + 390, bias_out=82)
    return [wide, narrow, plain, bare]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 40])
def test_merged_weights_and_biases(dtype: torch.dtype, rank: int) -> None:
    own = layers(rank)
    merge = Merge(own, 0.3, dtype)
    (weights, biases), again = merge(), merge()
    for layer in own:
        rows, columns = layer.weight.shape
        expected = torch.zeros(rows, layer.width, dtype=torch.float64, device=DEVICE)
        expected[:, :columns] = layer.weight
        if layer.lora_a is not None and layer.lora_b is not None:
            expected[:, :columns] += 0.3 * layer.lora_b.double() @ layer.lora_a.double()
        assert_near(weights[layer.out :][: rows * layer.width].view(rows, -1), expected, BOUND[dtype])
        given = [t.double() for t in (layer.bias, layer.task_bias) if t is not None]
        total = sum(given, torch.zeros(rows, dtype=torch.float64, device=DEVICE))
        assert_near(biases[layer.bias_out :][:rows], total)
    assert torch.equal(weights.nan_to_num(), again[0].nan_to_num()) and torch.equal(biases, again[1])
    gap = weights[79 * 21 : 79 * 21 + 11]
    assert bool(gap.isnan().all()), "what no layer owns was written"


def test_a_merge_follows_values_and_knows_other_places() -> None:
    own = layers(2)
    merge = Merge(own, 1.0, torch.float32)
    own[3].weight.fill_(7.0)
    assert merge()[0][own[3].out :][:4].tolist() == [7.0] * 4
    assert merge.holds(layers(2)[:0] + own)
    assert not merge.holds([*own[:3], own[3]._replace(weight=own[3].weight.clone())])


def test_sums_of_partial_sums() -> None:
    parts = random(7, 300).to(DEVICE)
    parts[5:, 150:] = torch.nan  # rows that were not written
    out = torch.full((700,), torch.nan, device=DEVICE)
    Sums((Sum(0, 150, 7, (10, -1)), Sum(150, 149, 5, (200, 400)), Sum(299, 1, 5, (-1, 0))), parts.device)(parts, out)
    assert_near(out[10:160], parts[:, :150].double().sum(0))
    second = parts[:5, 150:299].double().sum(0)
    assert_near(out[200:349], second)
    assert_near(out[400:549], second)
    assert float(out[0]) == pytest.approx(float(parts[:5, 299].sum()), rel=1e-5)
    assert int(out.isnan().sum()) == 700 - 150 - 149 * 2 - 1


@pytest.mark.parametrize("rank", [1, 3, 70])
def test_gradients_of_lora_factors(rank: int) -> None:
    """One layer's dense gradient stands among the others, the other's beside them with columns of no meaning."""
    shapes, scaling = [(37, 66), (130, 20)], 0.4
    factors = [(random(rank, i), random(o, rank)) for o, i in shapes]
    gradients, beside = torch.full((4000 + 400 * rank,), torch.nan, device=DEVICE), random(30 + 130 * 45)
    own = gradients[5 : 5 + 37 * 66].view(37, 66).copy_(random(37, 66, seed=3))
    other = beside[30:].view(130, 45)[:, :20]
    first, second = 2500, 2500 + rank * (37 + 66)
    wanted = [
        LoraLayer(*_at(factors[0]), 5, 66, False, 37, rank, 66, first, first + rank * 66),
        LoraLayer(*_at(factors[1]), 30, 45, True, 130, rank, 20, second, second + rank * 20),
    ]
    LoraGradients(wanted, scaling, gradients.device)(gradients, beside, coarse=False)
    for (a, b), dense, layer in zip(factors, (own, other), wanted, strict=True):
        da = gradients[layer.a_out :][: a.numel()].view(a.shape)
        db = gradients[layer.b_out :][: b.numel()].view(b.shape)
        assert_near(da, scaling * b.double().T @ dense.double())
        assert_near(db, scaling * dense.double() @ a.double().T)
    written = 37 * 66 + sum(t.numel() for pair in factors for t in pair)
    assert int((~gradients.isnan()).sum()) == written


def _at(factors: tuple[torch.Tensor, torch.Tensor]) -> tuple[int, int]:
    return factors[0].data_ptr(), factors[1].data_ptr()


@pytest.mark.parametrize(
    ("loss", "held", "expected"),
    [(-3.5, 0, 0), (1e8, 0, 0), (1.1e8, 0, 1), (torch.nan, 0, 1), (torch.inf, 0, 1), (-torch.inf, 0, 1), (2.0, 1, 1)],
)
def test_which_batches_count(loss: float, held: int, expected: int) -> None:
    skip = torch.full((1,), 9, dtype=torch.uint8, device=DEVICE)
    value, held_now = torch.tensor(loss, device=DEVICE), torch.tensor([held], dtype=torch.uint8, device=DEVICE)
    judge(value, held_now, 1e8, skip)
    assert skip.item() == expected
    totals = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, device=DEVICE)
    count(value, held_now, skip[0].double(), totals)
    added = [0.0, 0.0, 0.0] if held else [0.0, 0.0, 1.0] if expected else [loss, 1.0, 0.0]
    assert totals.tolist() == pytest.approx([t + a for t, a in zip([1.0, 2.0, 3.0], added, strict=True)])
