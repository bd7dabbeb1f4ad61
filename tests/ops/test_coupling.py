import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import assert_backends_agree, assert_sound_operator, random, torch_threads

from moleflow_fast.backend import use_backend
from moleflow_fast.ops.coupling import affine_coupling, base_clamping, task_clamping

CLAMPINGS = [base_clamping(1.9), task_clamping(1.9)]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), width=st.integers(1, 40), clamping=st.sampled_from(CLAMPINGS))
def test_equal_to_the_definition(n: int, width: int, clamping) -> None:
    x2, s, t = random(n, 2, width), 8 * random(n, 2, width, seed=1), random(n, 2, width, seed=2)
    assert_backends_agree(lambda *a: affine_coupling(*a, clamping), [x2, s, t])


def test_small_and_large_outputs_of_the_scale_network() -> None:
    s = torch.tensor([0.0, 1e-30, -1e-6, 1e-3, 6.2, 6.3, 200.0, -1e4, 3e38], dtype=torch.float32)
    with use_backend("cpp"):
        y2, logdet = affine_coupling(torch.ones_like(s), s, torch.zeros_like(s), base_clamping(1.9))
    log_scale = 1.9 * torch.tanh(0.1 * s.double())
    torch.testing.assert_close(y2.double(), log_scale.exp(), rtol=5e-7, atol=0)
    torch.testing.assert_close(logdet.double(), log_scale.sum(), rtol=1e-6, atol=0)


def test_nan_stays_where_it_is() -> None:
    s = torch.zeros(3, 20)
    s[1, 4] = torch.nan
    with use_backend("cpp"):
        y2, logdet = affine_coupling(torch.ones(3, 20), s, torch.zeros(3, 20), base_clamping(1.9))
    assert y2.isnan().nonzero().tolist() == [[1, 4]]
    assert logdet.isnan().tolist() == [False, True, False]


def test_views_and_thread_counts() -> None:
    wide = random(33, 60, dtype=torch.float32)
    parts = wide[:, 1:21], wide[:, 20:40], wide[:, 40:]
    results = []
    for count in (1, 2):
        with torch_threads(count), use_backend("cpp"):
            results.append(affine_coupling(*parts, base_clamping(1.9)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_operator_and_gradient() -> None:
    arguments = [random(3, 7).requires_grad_(True) for _ in range(3)]
    assert_sound_operator(torch.ops.moleflow.affine_coupling, (*arguments, *base_clamping(1.9)))
    assert torch.autograd.gradcheck(lambda *a: affine_coupling(*a, task_clamping(1.9)), arguments)


def test_under_compile() -> None:
    compiled = torch.compile(lambda *a: affine_coupling(*a, base_clamping(1.9)), fullgraph=True, backend="aot_eager")
    arguments = [random(3, 7, seed=i) for i in range(3)]
    torch.testing.assert_close(compiled(*arguments), affine_coupling(*arguments, base_clamping(1.9)))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="one shape"):
        affine_coupling(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 3), base_clamping(1.9))
