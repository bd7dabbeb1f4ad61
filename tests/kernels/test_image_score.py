import pytest
import torch
from kernel_checks import DEVICE, on_triton, random

from moleflow_fast.ops.image_score import MODES, image_score, image_score_reference

RULES = [
    {"fraction": 0.0, "top_k": 1, "weight": 0.0},
    {"fraction": 0.7, "top_k": 4, "weight": 0.3},
    {"fraction": 0.5, "top_k": 11, "weight": 0.5},
    {"fraction": 1.0, "top_k": 300, "weight": 1.0},
]


def assert_equal_to_definition(maps: torch.Tensor, mode: str, rule: dict) -> None:
    """In fp64, but for the rank of a quantile: the definition rounds it to the dtype of the maps."""
    scores = on_triton(image_score, maps, mode, **rule)
    ranked = mode in ("percentile", "spatial_cluster")
    expected = image_score_reference(maps if ranked else maps.double(), mode, **rule).float()
    assert not scores.isnan().any()
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "rule"),
    [((1, 1, 1), 0), ((1, 1, 1), 3), ((2, 1, 7), 0), ((2, 5, 7), 1), ((1, 8, 8), 1), ((1, 12, 1), 2), ((2, 3, 5), 3)],
)
@pytest.mark.parametrize("mode", MODES)
def test_equal_to_the_definition(mode, rule, shape, poisoned):
    assert_equal_to_definition(random(*shape), mode, RULES[rule])


@pytest.mark.parametrize("mode", MODES)
def test_views_and_an_image_of_more_than_a_block(mode, poisoned):
    assert_equal_to_definition(random(50, 1, 86)[..., ::2].permute(1, 0, 2), mode, RULES[1])


def test_the_mean_of_one_is_the_largest_to_the_bit():
    maps = random(3, 6, 7) * 1e-3
    assert torch.equal(on_triton(image_score, maps, "top_k"), maps.amax((1, 2)))


@pytest.mark.parametrize("rank", range(9))
def test_a_whole_rank_is_an_order_statistic_to_the_bit(rank):
    values = torch.tensor([-3e38, -1.0, -1e-20, -1e-44, 0.0, 1e-44, 1e-42, 2.0, 3e38])
    maps = values[torch.randperm(9, generator=torch.Generator().manual_seed(rank))].view(1, 3, 3).to(DEVICE)
    expected, fraction = values[rank : rank + 1].to(DEVICE), rank / 8
    assert torch.equal(on_triton(image_score, maps, "percentile", fraction=fraction), expected)


@pytest.mark.parametrize("fraction", [0.3, 0.7])
@pytest.mark.parametrize("pair", [(-torch.inf, 1.0), (1.0, torch.inf), (-torch.inf, torch.inf)])
def test_between_a_number_and_infinity(pair, fraction):
    assert_equal_to_definition(torch.tensor([[pair]], device=DEVICE), "percentile", {"fraction": fraction})


def test_neighbours_end_at_the_edges_of_an_image():
    maps = random(3, 4, 5)
    maps[:, [0, -1]] += 10
    maps[:, :, [0, -1]] += 10
    assert_equal_to_definition(maps, "spatial_cluster", {"fraction": 0.4, "top_k": 20, "weight": 1.0})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [-2.5, 0.0, torch.inf, -torch.inf, torch.nan])
def test_equal_patches(value, mode):
    assert_equal_to_definition(torch.full((1, 3, 4), value, device=DEVICE), mode, RULES[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", RULES[:3])
def test_ties_and_broken_patches(rule, mode):
    values = torch.tensor([0.0, -1.0, 2.5, torch.inf, -torch.inf, torch.nan, -torch.nan])
    several = torch.randint(0, 7, (4, 3, 4), generator=torch.Generator().manual_seed(1))
    several[0] %= 3
    several[1] %= 4
    maps = values[several].to(DEVICE)
    assert_equal_to_definition(maps, mode, rule)


@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("mode", MODES)
def test_a_broken_image_ranks_first(mode, bad, weight):
    maps = random(2, 3, 3)
    maps[1] = bad
    scores = on_triton(image_score, maps, mode, weight=weight)
    assert scores[0].isfinite() and scores[1] == torch.inf


def test_a_cluster_outranks_scattered_patches():
    maps = torch.zeros(2, 6, 6, device=DEVICE)
    maps[0, ::3, ::3], maps[1, 2:4, 2:4] = 1.0, 1.0
    scores = on_triton(image_score, maps, "spatial_cluster", fraction=0.5, top_k=4, weight=1.0)
    assert scores.tolist() == [1.0, 1 + 3 / 8]


def test_the_mean_of_a_large_offset_is_exact():
    maps = 1e6 + random(1, 40, 60)
    assert torch.equal(on_triton(image_score, maps, "mean"), maps.double().mean((1, 2)).float())


@pytest.mark.parametrize("mode", MODES)
def test_same_bits_twice(mode):
    maps = random(2, 3, 5)
    first, second = (on_triton(image_score, maps, mode, **RULES[1]) for _ in range(2))
    assert torch.equal(first, second)


def test_no_images():
    for mode in MODES:
        assert on_triton(image_score, torch.zeros(0, 2, 3, device=DEVICE), mode).shape == (0,)


def test_the_plain_path_takes_what_triton_does_not():
    maps = random(2, 3, 4).requires_grad_(True)
    on_triton(image_score, maps, "mean").sum().backward()
    torch.testing.assert_close(maps.grad, torch.full_like(maps, 1 / 12))
    assert on_triton(image_score, maps.detach().double(), "top_k").dtype == torch.float64


def test_operator_contract():
    checks = ("test_schema", "test_faketensor")
    for mode in range(len(MODES)):
        arguments = (random(1, 3, 4), mode, 0.9, 3, 0.5)
        on_triton(torch.library.opcheck, torch.ops.moleflow.image_score, arguments, test_utils=checks)
