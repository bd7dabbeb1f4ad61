"""Image scores: the compiled version against the definition, and what broken patches do to both."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_fast.backend import BackendError, use_backend
from moleflow_fast.ops.image_score import MODES, image_score, image_score_reference

DTYPES = {torch.float32: 1e-6, torch.float64: 1e-13}
fractions = st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99, 1.0]) | st.floats(0, 1)


def compiled(maps, mode, **rule):
    with use_backend("cpp"):
        return image_score(maps, mode, **rule)


def plain(maps, mode, **rule):
    with use_backend("eager"):
        return image_score(maps, mode, **rule)


def random_maps(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@settings(max_examples=200, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 15), st.integers(1, 15)),
    mode=st.sampled_from(MODES),
    fraction=fractions,
    top_k=st.integers(-1, 300),
    weight=st.floats(0, 1),
    dtype=st.sampled_from(list(DTYPES)),
    seed=st.integers(0, 99),
)
def test_equal_to_the_definition(shape, mode, fraction, top_k, weight, dtype, seed):
    maps = random_maps(shape, seed, dtype).abs() * 100
    rule = {"fraction": fraction, "top_k": top_k, "weight": weight}
    scores, expected = compiled(maps, mode, **rule), image_score_reference(maps, mode, **rule)
    assert scores.dtype == dtype
    torch.testing.assert_close(scores, expected, rtol=DTYPES[dtype], atol=0)
    if mode == "top_k" and top_k <= 1:
        assert torch.equal(scores, maps.amax((1, 2)))


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, -1.0, 2.5, torch.inf, -torch.inf, torch.nan]), min_size=12, max_size=12),
    mode=st.sampled_from(MODES),
    fraction=fractions,
    top_k=st.integers(1, 12),
    weight=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_broken_patches_do_what_the_definition_says(values, mode, fraction, top_k, weight):
    maps = torch.tensor(values, dtype=torch.float64).reshape(1, 3, 4)
    rule = {"fraction": fraction, "top_k": top_k, "weight": weight}
    scores = compiled(maps, mode, **rule)
    assert not scores.isnan().any()
    torch.testing.assert_close(scores, image_score_reference(maps, mode, **rule), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("score", [compiled, plain])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("mode", MODES)
def test_a_broken_image_ranks_first(mode, bad, weight, score):
    maps = random_maps((2, 6, 5), 0)
    maps[1] = bad
    scores = score(maps, mode, weight=weight)
    assert scores[0].isfinite() and scores[1] == torch.inf


@pytest.mark.parametrize("mode", MODES)
def test_views_and_threads(mode):
    maps = random_maps((14, 9, 8), 1, torch.float32).transpose(1, 2)[::2]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(compiled(maps, mode, top_k=5))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], image_score_reference(maps, mode, top_k=5), rtol=1e-6, atol=1e-6)


def test_a_cluster_outranks_scattered_patches():
    scattered, cluster = torch.zeros(6, 6), torch.zeros(6, 6)
    scattered[::3, ::3], cluster[2:4, 2:4] = 1.0, 1.0
    scores = compiled(torch.stack([scattered, cluster]), "spatial_cluster", fraction=0.5, top_k=4, weight=1.0)
    torch.testing.assert_close(scores, torch.tensor([1.0, 1 + 3 / 8]))


@pytest.mark.parametrize("score", [compiled, plain])
def test_patches_outside_of_clusters_weigh_one(score):
    """More patches taken than are high, and scores below zero: by hand, as the published code has it."""
    maps = torch.tensor([[[-5.0, -4.0, -3.0], [-2.0, -1.0, -6.0], [-7.0, -8.0, -9.0]]])
    # Above the median -5: -4, -3, -2, -1, which have 3, 2, 2 and 3 high neighbours.
    weighted = [-4 * 11 / 8, -3 * 10 / 8, -2 * 10 / 8, -1 * 11 / 8, -5.0, -6.0, -7.0, -8.0, -9.0]
    expected = sum(sorted(weighted)[-6:]) / 6
    scores = score(maps, "spatial_cluster", fraction=0.5, top_k=6, weight=1.0)
    torch.testing.assert_close(scores, torch.tensor([expected]))


def test_the_mean_of_a_large_offset_is_exact_in_fp32():
    maps = 1e6 + random_maps((1, 300, 300), 2, torch.float32)
    expected = maps.double().mean().float()
    assert torch.equal(compiled(maps, "mean"), expected[None])


def test_half_precision_and_gradients_take_the_plain_path():
    assert image_score(random_maps((2, 4, 4), 3, torch.bfloat16), "mean").dtype == torch.bfloat16
    maps = random_maps((2, 4, 4), 3).requires_grad_()
    image_score(maps, "mean").sum().backward()
    torch.testing.assert_close(maps.grad, torch.full_like(maps, 1 / 16))
    with pytest.raises(BackendError, match="gradient"):
        compiled(maps, "mean")


def test_operator_contract():
    for mode in range(len(MODES)):
        torch.library.opcheck(torch.ops.moleflow.image_score, (random_maps((3, 5, 4), 4), mode, 0.9, 3, 0.5))


def test_compiles_as_one_graph():
    maps = random_maps((3, 5, 4), 5)
    graph = torch.compile(lambda m: image_score(m, "percentile") + 1, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(graph(maps), image_score(maps, "percentile") + 1)


@pytest.mark.parametrize(
    ("shape", "mode", "rule", "message"),
    [
        ((2, 3), "mean", {}, "must be"),
        ((2, 0, 3), "mean", {}, "at least one patch"),
        ((2, 3, 3), "median", {}, "mode must be one of"),
        ((2, 3, 3), "percentile", {"fraction": 99.0}, "fraction"),
        ((2, 3, 3), "spatial_cluster", {"weight": -0.1}, "weight"),
        ((2, 3, 3), "percentile", {"fraction": torch.nan}, "fraction"),
    ],
)
def test_bad_input_is_an_error(shape, mode, rule, message):
    with pytest.raises(ValueError, match=message):
        image_score(torch.zeros(shape), mode, **rule)
