import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import assert_backends_agree, assert_sound_operator, random, torch_threads

from moleflow_fast.backend import use_backend
from moleflow_fast.ops import depthwise as module
from moleflow_fast.ops.depthwise import box_mean, box_mean_reference, depthwise, gated_residual


@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(1, 3), height=st.integers(1, 6), width=st.integers(1, 6), channels=st.integers(1, 70),
    kernel=st.sampled_from([1, 3, 5]),
)  # fmt: skip
def test_equal_to_the_definition(images: int, height: int, width: int, channels: int, kernel: int) -> None:
    inputs = [random(images, height, width, channels), random(kernel**2, channels), random(channels)]
    assert_backends_agree(depthwise, inputs)


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 6), width=st.integers(1, 6), channels=st.integers(1, 40), kernel=st.sampled_from([1, 5]))
def test_box_mean(height: int, width: int, channels: int, kernel: int) -> None:
    x = random(2, height, width, channels)
    assert_backends_agree(lambda x: box_mean(x, kernel), [x])
    taps, bias = torch.full((kernel**2, channels), 1 / kernel**2, dtype=x.dtype), torch.zeros(channels, dtype=x.dtype)
    torch.testing.assert_close(box_mean_reference(x, kernel), depthwise(x, taps, bias), rtol=1e-12, atol=1e-12)


def test_gated_residual_is_the_blend() -> None:
    x, taps, bias = random(2, 4, 5, 6), random(9, 6), random(6)
    gate = torch.tensor([0.3], dtype=torch.float64)
    blended = (1 - gate) * x + gate * depthwise(x, taps, bias)
    torch.testing.assert_close(depthwise(x, *gated_residual(taps, bias, gate)), blended, rtol=1e-12, atol=1e-12)


def test_transposed_input_and_thread_counts() -> None:
    x = random(2, 30, 5, 7, dtype=torch.float32).permute(0, 2, 3, 1)
    taps, bias = random(30, 9, dtype=torch.float32).t(), random(30, dtype=torch.float32)
    results = []
    for count in (1, 2):
        with torch_threads(count), use_backend("cpp"):
            results.append(depthwise(x, taps, bias))
    assert torch.equal(*results)
    with use_backend("eager"):
        torch.testing.assert_close(results[0], depthwise(x, taps, bias), rtol=1e-5, atol=1e-5)


def test_a_nan_reaches_its_neighbours_alone() -> None:
    x = torch.zeros(1, 5, 5, 3)
    x[0, 2, 2, 1] = torch.nan
    with use_backend("cpp"):
        y = depthwise(x, torch.ones(9, 3), torch.zeros(3))
    assert y.isnan().sum() == 9 and y[0, 1:4, 1:4, 1].isnan().all()


def test_operator_and_gradient() -> None:
    arguments = [t.requires_grad_(True) for t in (random(2, 3, 4, 5), random(9, 5), random(5))]
    assert_sound_operator(torch.ops.moleflow.depthwise, tuple(arguments))
    assert torch.autograd.gradcheck(depthwise, arguments)


def test_under_compile() -> None:
    arguments = random(2, 3, 4, 5), random(9, 5), random(5)
    compiled = torch.compile(depthwise, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), depthwise(*arguments))


@pytest.mark.parametrize("taps", [(4, 5), (8, 5), (9, 6)])
def test_shapes_are_checked(taps: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="taps"):
        depthwise(torch.zeros(1, 2, 2, 5), torch.zeros(taps), torch.zeros(5))


def test_frozen_taps_get_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    x, taps, bias = random(2, 3, 4, 5).requires_grad_(True), random(9, 5), random(5)
    with use_backend("eager"):
        (expected,) = torch.autograd.grad(depthwise(x, taps, bias).square().sum(), x)
    monkeypatch.setattr(module, "tap_gradients", lambda *_: pytest.fail("its work is for nothing"))
    with use_backend("cpp"):
        (gradient,) = torch.autograd.grad(depthwise(x, taps, bias).square().sum(), x)
    torch.testing.assert_close(gradient, expected)
