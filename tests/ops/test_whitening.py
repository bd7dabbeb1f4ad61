import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import assert_backends_agree, assert_sound_operator, random, torch_threads

from moleflow_fast.backend import use_backend
from moleflow_fast.ops.whitening import whitening


@settings(max_examples=25, deadline=None)
@given(images=st.integers(1, 3), height=st.integers(1, 4), width=st.integers(1, 4), channels=st.integers(3, 70))
def test_equal_to_the_definition(images: int, height: int, width: int, channels: int) -> None:
    assert_backends_agree(
        whitening, [random(images, height, width, channels), random(channels), random(channels, seed=1)]
    )


def test_a_large_common_offset_keeps_its_small_differences() -> None:
    x = 1e4 + random(1, 2, 2, 96, dtype=torch.float32)
    with use_backend("cpp"):
        y = whitening(x, torch.ones(96), torch.zeros(96))
    expected = torch.nn.functional.layer_norm(x.double(), (96,), eps=1e-5)
    assert (y - expected).abs().max() < 2e-3  # fp32 spacing at 1e4 is 1e-3


def test_constant_patches_are_all_shift() -> None:
    with use_backend("cpp"):
        y = whitening(torch.full((1, 2, 3, 8), 5.0), torch.ones(8), torch.arange(8.0))
    torch.testing.assert_close(y, torch.arange(8.0).expand(1, 2, 3, 8))


def test_thread_counts_and_views() -> None:
    x = random(2, 10, 3, 4, dtype=torch.float32).permute(0, 2, 3, 1)
    results = []
    for count in (1, 2):
        with torch_threads(count), use_backend("cpp"):
            results.append(whitening(x, torch.ones(10), torch.zeros(10)))
    assert torch.equal(*results)


def test_operator_and_gradient() -> None:
    x, gamma, beta = (t.requires_grad_(True) for t in (random(2, 2, 3, 5), random(5), random(5, seed=1)))
    assert_sound_operator(torch.ops.moleflow.whitening, (x, gamma, beta))
    assert torch.autograd.gradcheck(whitening, (x, gamma, beta))


def test_under_compile() -> None:
    arguments = random(2, 2, 3, 5), random(5), random(5, seed=1)
    compiled = torch.compile(whitening, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), whitening(*arguments))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="gamma and beta"):
        whitening(torch.zeros(1, 2, 2, 5), torch.zeros(4), torch.zeros(5))
