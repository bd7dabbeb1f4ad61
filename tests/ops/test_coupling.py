"""The compiled coupling on rows of tokens against its definition and autograd."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import coupled, coupled_gradients, random, torch_threads

from moleflow_fast.ops.coupling import Clamping, base_clamping, coupling_reference, task_clamping

CLAMPINGS = [base_clamping(1.9), task_clamping(1.9)]
BOUND = {torch.float64: 1e-12, torch.float32: 2e-6}  # of the largest value


def operands(n: int, width: int) -> list[torch.Tensor]:
    """s and t without their biases, the biases, x2, and the gradients of y2 and logdet."""
    sizes = ((n, width), (n, width), (width,), (width,), (n, width), (n, width), (n,))
    s, *others = (random(*size, seed=seed) for seed, size in enumerate(sizes))
    return [8 * s, *others]


def by_definition(s, t, s_bias, t_bias, x2, dy2, dlogdet, clamping: Clamping) -> list[torch.Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in (x2, s, t, s_bias, t_bias)]
    y2, logdet = coupling_reference(leaves[0], leaves[1] + leaves[3], leaves[2] + leaves[4], clamping)
    return [y2.detach(), logdet.detach(), *torch.autograd.grad((y2, logdet), leaves, (dy2, dlogdet))]


def compiled(s, t, s_bias, t_bias, x2, dy2, dlogdet, clamping: Clamping) -> list[torch.Tensor]:
    y2, logdet = coupled(s, t, (s_bias, t_bias), x2, clamping)
    return [y2, logdet, *coupled_gradients(s, s_bias, x2, dy2, dlogdet, clamping)]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 18), width=st.integers(1, 40), clamping=st.sampled_from(CLAMPINGS))
def test_equal_to_the_definition(n: int, width: int, clamping: Clamping) -> None:
    exact = operands(n, width)
    expected = by_definition(*exact, clamping)
    for dtype, bound in BOUND.items():
        rounded = [t.to(dtype) for t in exact]
        plain = by_definition(*rounded, clamping)
        for a, p, e in zip(compiled(*rounded, clamping), plain, expected, strict=True):
            assert a.dtype == dtype and a.shape == e.shape
            allowed = max(bound * max(1.0, float(e.abs().max())), 4 * float((p.double() - e).abs().max()))
            assert float((a.double() - e).abs().max()) <= allowed


def test_small_and_large_outputs_of_the_scale_network() -> None:
    s = torch.tensor([[0.0, 1e-30, -1e-6, 1e-3, 6.2, 6.3, 200.0, -1e4, 3e38]])
    y2, logdet = coupled(s, torch.zeros_like(s), (None, None), torch.ones_like(s), base_clamping(1.9))
    log_scale = 1.9 * torch.tanh(0.1 * s.double())
    torch.testing.assert_close(y2.double(), log_scale.exp(), rtol=5e-7, atol=0)
    torch.testing.assert_close(logdet.double(), log_scale.sum(1), rtol=1e-6, atol=0)


def test_nan_stays_where_it_is() -> None:
    s = torch.zeros(3, 20)
    s[1, 4] = torch.nan
    y2, logdet = coupled(s, torch.zeros(3, 20), (None, None), torch.ones(3, 20), base_clamping(1.9))
    assert y2.isnan().nonzero().tolist() == [[1, 4]]
    assert logdet.isnan().tolist() == [False, True, False]


def test_thread_counts_and_columns_of_wider_rows() -> None:
    wide = random(33, 60, dtype=torch.float32)
    results = []
    for count in (1, 2):
        with torch_threads(count):
            results.append(coupled(wide[:, 1:21], wide[:, 20:40], (None, None), wide[:, 40:], base_clamping(1.9)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    parts = [part.contiguous() for part in (wide[:, 1:21], wide[:, 20:40], wide[:, 40:])]
    assert torch.equal(results[0][0], coupled(parts[0], parts[1], (None, None), parts[2], base_clamping(1.9))[0])
