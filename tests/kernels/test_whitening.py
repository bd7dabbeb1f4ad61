import pytest
import torch
from kernel_checks import DEVICE, assert_near_definition, assert_same_bits_twice, on_triton, random

from moleflow_fast.kernels import whitening as kernels
from moleflow_fast.ops.whitening import whitening

SHAPES = [(1, 1, 1, 1), (1, 1, 1, 37), (2, 1, 5, 3), (3, 5, 7, 37), (2, 4, 4, 16), (5, 8, 9, 5)]


def inputs(shape: tuple[int, ...]) -> list[torch.Tensor]:
    return [random(*shape), random(shape[-1]), random(shape[-1], seed=1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_the_definition(shape, poisoned):
    assert_near_definition(whitening, inputs(shape))


def test_programs_of_the_backward_pass_take_several_blocks(monkeypatch, poisoned):
    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    assert_near_definition(whitening, inputs((5, 8, 21, 5)))


def test_views(poisoned):
    x = random(2, 10, 3, 4).permute(0, 2, 3, 1)
    gamma, beta = random(20)[::2], random(10, 2)[:, 1]
    assert_near_definition(whitening, [x, gamma, beta])


def test_constant_patches_are_all_shift():
    beta = torch.arange(8.0, device=DEVICE)
    y = on_triton(whitening, torch.full((1, 2, 3, 8), 5.0, device=DEVICE), torch.ones(8, device=DEVICE), beta)
    torch.testing.assert_close(y, beta.expand(1, 2, 3, 8))


def test_a_large_common_offset_keeps_its_small_differences():
    x = 1e4 + random(1, 2, 2, 36)
    y = on_triton(whitening, x, torch.ones(36, device=DEVICE), torch.zeros(36, device=DEVICE))
    expected = torch.nn.functional.layer_norm(x.double(), (36,), eps=1e-5)
    assert (y - expected).abs().max() < 2e-3  # fp32 spacing at 1e4 is 1e-3


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_patch_breaks_itself_alone(value):
    x, gamma, beta = inputs((2, 2, 3, 5))
    x[1, 0, 2, 4] = value
    y = on_triton(whitening, x, gamma, beta)
    broken = y.isnan().any(-1)
    assert broken[1, 0, 2] and broken.sum() == 1


def test_same_bits_twice():
    assert_same_bits_twice(whitening, inputs((3, 5, 7, 37)))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 1, 17, 37), (4, 3, 7, 5)])
def test_each_image_takes_its_own_task(shape, poisoned):
    x, positions = random(*shape), random(*shape[1:], seed=3)
    gamma, beta = (random(3, shape[-1], seed=seed) for seed in (1, 2))
    tasks = torch.tensor([2, 0, 2, 1], dtype=torch.int32, device=DEVICE)[: shape[0]]
    y, *_ = kernels.whitening(x, gamma, beta, 1e-5, tasks, positions)
    for image, task in enumerate(tasks.tolist()):
        alone = kernels.whitening(x[image : image + 1] + positions, gamma[task], beta[task], 1e-5)
        assert torch.equal(y[image], alone[0][0])


def test_only_the_gradients_asked_for(poisoned):
    x, gamma, beta = inputs((2, 2, 3, 5))
    gamma.requires_grad_(True)
    on_triton(lambda: whitening(x, gamma, beta).sum().backward())
    assert x.grad is None and gamma.grad.isfinite().all()


def test_no_tokens():
    x, gamma, beta = inputs((2, 2, 3, 5))
    x, gamma = x[:0].requires_grad_(True), gamma.requires_grad_(True)
    on_triton(lambda: whitening(x, gamma, beta).sum().backward())
    assert x.grad.shape == (0, 2, 3, 5) and torch.equal(gamma.grad, torch.zeros_like(gamma))


def test_the_plain_path_takes_what_triton_does_not():
    assert on_triton(whitening, *(t.double() for t in inputs((2, 2, 3, 5)))).dtype == torch.float64


def test_operator_contract():
    x, gamma, beta = (t.requires_grad_(True) for t in inputs((2, 2, 3, 5)))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    on_triton(torch.library.opcheck, torch.ops.moleflow.whitening, (x, gamma, beta), test_utils=checks)
