import pytest
import torch
from op_checks import random

from moleflow_fast.ops.lora_gradients import (
    factored_gradients,
    factored_is_cheaper,
    gradients_from_dense,
    weight_gradient,
)


@pytest.mark.parametrize(("n", "inputs", "outputs", "rank"), [(1, 1, 1, 1), (5, 10, 9, 2), (7, 4, 12, 6)])
def test_both_ways_are_the_gradients_of_three_products(n: int, inputs: int, outputs: int, rank: int) -> None:
    x, dy = random(n, inputs), random(n, outputs)
    a, b = random(rank, inputs, seed=1).requires_grad_(), random(outputs, rank, seed=2).requires_grad_()
    expected = torch.autograd.grad(0.5 * (x @ a.t()) @ b.t(), (a, b), dy)
    a, b = a.detach(), b.detach()
    for way in (factored_gradients(a, b, 0.5, x, dy), gradients_from_dense(a, b, 0.5, weight_gradient(x, dy))):
        torch.testing.assert_close(way, expected)


def test_bf16_operands_are_summed_in_fp32() -> None:
    x, dy = random(5, 3).bfloat16(), random(5, 4).bfloat16()
    gradient = weight_gradient(x, dy)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, dy.float().t() @ x.float())


@pytest.mark.parametrize(("rank", "cheaper"), [(1, True), (4, True), (5, False)])
def test_a_large_rank_goes_through_the_dense_gradient(rank: int, cheaper: bool) -> None:
    assert factored_is_cheaper(torch.empty(rank, 20), torch.empty(20, rank)) is cheaper  # 80 rank against 400
