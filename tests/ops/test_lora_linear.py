import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import assert_backends_agree, assert_sound_operator, random

from moleflow_fast.ops.lora_linear import lora_linear


def operands(n: int, inputs: int, outputs: int, rank: int) -> list[torch.Tensor]:
    return [
        random(n, inputs), random(outputs, inputs), random(outputs), random(rank, inputs, seed=1),
        random(outputs, rank, seed=2),
    ]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), inputs=st.integers(1, 20), outputs=st.integers(1, 20), rank=st.integers(1, 6))
def test_equal_to_three_products(n: int, inputs: int, outputs: int, rank: int) -> None:
    assert_backends_agree(lambda *a: lora_linear(*a, 0.5), operands(n, inputs, outputs, rank))


@pytest.mark.parametrize("rank", [1, 12])  # factored gradients; through the dense one
def test_a_frozen_base_gets_no_gradient(rank: int) -> None:
    x, weight, bias, a, b = operands(5, 10, 9, rank)
    a.requires_grad_(True), b.requires_grad_(True)
    lora_linear(x, weight, bias, a, b, 0.5).square().sum().backward()
    dy = 2 * lora_linear(x, weight, bias, a, b, 0.5).detach()
    torch.testing.assert_close(a.grad, 0.5 * b.detach().t() @ dy.t() @ x)
    torch.testing.assert_close(b.grad, 0.5 * dy.t() @ x @ a.detach().t())
    assert weight.grad is None


def test_operator_and_gradient() -> None:
    arguments = [t.requires_grad_(True) for t in operands(3, 5, 4, 2)]
    merged = arguments[1].detach() + 0.5 * arguments[4].detach() @ arguments[3].detach()
    assert_sound_operator(torch.ops.moleflow.lora_linear, (*arguments, 0.5, merged))
    assert torch.autograd.gradcheck(lambda *a: lora_linear(*a, 0.5).sin(), arguments)


def test_shapes_are_checked() -> None:
    x, weight, bias, a, b = operands(3, 5, 4, 2)
    with pytest.raises(ValueError, match="expected B"):
        lora_linear(x, weight, bias, a, b.t(), 0.5)
    with pytest.raises(ValueError, match="expected x"):
        lora_linear(x[:, 1:], weight, bias, a, b, 0.5)
