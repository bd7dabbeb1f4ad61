"""AdamP against the package `adamp`, and its one-call clipping against torch's."""

import copy
import io
import math

import adamp
import pytest
import torch
from adamp_gradients import layer_orthogonal, rows_orthogonal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from moleflow_fast.backend import BackendError, use_backend
from moleflow_fast.trainer.optimizer import AdamP

SHAPES = [(5, 7), (1, 33), (33, 1), (3, 2, 3, 3), (6, 1, 3, 3), (17,), (1,), (), (2, 70), (40, 500)]
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}
OPTIONS = {
    "defaults": {"lr": 1e-2},
    "ours": {"lr": 3e-3, "weight_decay": 0.01},
    "strong": {"lr": 5e-2, "weight_decay": 0.3, "wd_ratio": 0.5, "delta": 0.9, "nesterov": True},
    "betas": {"lr": 1e-2, "betas": (0.5, 0.7), "eps": 1e-3, "delta": 1e-3},
}


def parameters(dtype, shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes]


def twins(dtype, shapes=SHAPES, seed=0, **options):
    ours, theirs = parameters(dtype, shapes, seed), parameters(dtype, shapes, seed)
    return ours, AdamP(ours, **options), theirs, adamp.AdamP(theirs, **options)


def set_gradients(ours, theirs, make):
    for p, q in zip(ours, theirs, strict=True):
        p.grad = make(q.detach())
        q.grad = None if p.grad is None else p.grad.clone()


def random_gradient(generator):
    return lambda p: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def assert_close(ours, theirs):
    for p, q in zip(ours, theirs, strict=True):
        scale = q.detach().double().norm().clamp_min(1e-30)
        assert ((p.detach().double() - q.detach().double()).norm() / scale).item() < TOLERANCE[q.dtype], q.shape


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp64"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_many_steps_equal_the_package(backend, options, dtype):
    ours, optimizer, theirs, package = twins(dtype, **options)
    generator = torch.Generator().manual_seed(1)
    with use_backend(backend):
        for _ in range(12):
            set_gradients(ours, theirs, random_gradient(generator))
            assert optimizer.step() is None
            package.step()
    assert_close(ours, theirs)
    for p, q in zip(ours, theirs, strict=True):
        mine, its = optimizer.state[p], package.state[q]
        assert mine["step"] == its["step"] == 12
        for name in ("exp_avg", "exp_avg_sq"):
            assert_close([mine[name]], [its[name]])


def channels_gradient(p):
    return rows_orthogonal(p, torch.randn_like(p))


GRADIENTS = {
    "channels": channels_gradient,
    "layer": layer_orthogonal,
    "none": lambda p: p + 0.1,
    "zero": torch.zeros_like,
    "tiny": lambda p: torch.full_like(p, 1e-12),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp64"])
@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_projections_equal_the_package(backend, kind, dtype):
    shapes = [(5, 7), (3, 2, 3, 3), (4, 300), (2, 9000)]
    ours, optimizer, theirs, package = twins(dtype, shapes, lr=1e-2, weight_decay=0.1)
    torch.manual_seed(0)
    with use_backend(backend):
        for step in range(10):
            # Momentum first: a projection of a zero perturbation would show nothing.
            set_gradients(ours, theirs, torch.randn_like if step == 0 else GRADIENTS[kind])
            optimizer.step()
            package.step()
    assert_close(ours, theirs)


@pytest.mark.parametrize(("kind", "rows_fixed", "layer_fixed"), [("channels", 1, 1), ("layer", 0, 1), ("none", 0, 0)])
def test_the_gradients_above_do_what_they_say(kind, rows_fixed, layer_fixed):
    parameter = parameters(torch.float64, [(5, 7)])[0]
    optimizer, generator = AdamP([parameter], lr=1e-2), torch.Generator().manual_seed(2)
    parameter.grad = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    optimizer.step()
    before = parameter.detach().clone()
    parameter.grad = GRADIENTS[kind](before)
    optimizer.step()
    # The unit vector carries eps = 1e-8 in its norm, so a component of that size stays.
    along = ((parameter.detach() - before) * before).sum(1)
    assert bool((along.abs() < 1e-9).all()) == bool(rows_fixed)
    assert bool(along.sum().abs() < 1e-9) == bool(layer_fixed)


@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4).filter(lambda s: math.prod(s) < 30_000),
    steps=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_any_shape_equals_the_package(shape, steps, seed):
    ours, optimizer, theirs, package = twins(torch.float64, [shape], seed, lr=1e-2, weight_decay=0.1, delta=0.5)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        set_gradients(ours, theirs, random_gradient(generator))
        optimizer.step()
        package.step()
    assert_close(ours, theirs)


@pytest.mark.parametrize("backend", ["cpp", "eager"])
@pytest.mark.parametrize("max_norm", [0.5, 1e6, math.inf])
def test_clipping_is_that_of_torch_over_all_groups(max_norm, backend):
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    optimizer, package = (
        kind([{"params": p[:4]}, {"params": p[4:], "lr": 1e-3, "weight_decay": 0.2}], lr=1e-2)
        for kind, p in ((AdamP, ours), (adamp.AdamP, theirs))
    )
    generator = torch.Generator().manual_seed(3)
    with use_backend(backend):
        for _ in range(8):
            set_gradients(ours, theirs, random_gradient(generator))
            given_gradients = [p.grad.clone() for p in ours]
            norm = optimizer.step(max_norm=max_norm)
            expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
            package.step()
            assert math.isclose(norm, expected.item(), rel_tol=1e-12)
            assert all(map(torch.equal, given_gradients, [p.grad for p in ours]))
    assert_close(ours, theirs)


@pytest.mark.parametrize("backend", ["cpp", "eager"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("broken", "max_norm"), [(3, 0.5), (5, math.inf)])
def test_a_norm_that_is_not_finite_changes_nothing(broken, max_norm, value, backend):
    ours = parameters(torch.float32)
    optimizer = AdamP(ours, weight_decay=0.1)
    generator = torch.Generator().manual_seed(4)
    set_gradients(ours, ours, random_gradient(generator))
    optimizer.step(max_norm=0.5)
    before = copy.deepcopy(optimizer.state_dict()["state"]), [p.detach().clone() for p in ours]
    ours[broken].grad.view(-1)[-1] = value
    versions = [p._version for p in ours]
    with use_backend(backend):
        assert not math.isfinite(optimizer.step(max_norm=max_norm))
    assert [p._version for p in ours] == versions
    assert all(map(torch.equal, before[1], ours))
    for old, new in zip(before[0].values(), optimizer.state_dict()["state"].values(), strict=True):
        assert old["step"] == new["step"] == 1
        assert torch.equal(old["exp_avg"], new["exp_avg"]) and torch.equal(old["exp_avg_sq"], new["exp_avg_sq"])


def test_without_clipping_a_nan_gradient_spreads_as_in_the_package():
    ours, optimizer, theirs, package = twins(torch.float64, [(3, 4), (5,)], weight_decay=0.1)
    generator = torch.Generator().manual_seed(5)
    set_gradients(ours, theirs, random_gradient(generator))
    ours[0].grad[1, 2] = theirs[0].grad[1, 2] = math.nan
    optimizer.step()
    package.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, equal_nan=True, rtol=1e-12, atol=0)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_thread_counts_agree_to_the_bit(options):
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            ours = parameters(torch.float32, [*SHAPES, (2, 40_000)])
            optimizer = AdamP(ours, **options)
            generator = torch.Generator().manual_seed(6)
            norms = []
            for step in range(4):
                make = random_gradient(generator) if step % 2 else lambda p: layer_orthogonal(p) if p.dim() > 1 else p
                set_gradients(ours, ours, make)
                norms.append(optimizer.step(max_norm=0.5))
            results.append((norms, ours))
    finally:
        torch.set_num_threads(before)
    for norms, others in results[1:]:
        assert norms == results[0][0]
        assert all(map(torch.equal, results[0][1], others))


def test_versions_are_bumped():
    ours = parameters(torch.float32)
    optimizer = AdamP(ours)
    set_gradients(ours, ours, torch.ones_like)
    for max_norm in (None, 0.5):
        versions = [p._version for p in ours]
        optimizer.step(max_norm=max_norm)
        assert all(p._version > v for p, v in zip(ours, versions, strict=True))


def test_parameters_without_a_gradient_stay():
    ours, optimizer, theirs, package = twins(torch.float64, weight_decay=0.1)
    set_gradients(ours, theirs, lambda p: None if p.dim() == 4 else torch.ones_like(p))
    versions = [p._version for p in ours]
    optimizer.step(max_norm=1e9)
    package.step()
    assert_close(ours, theirs)
    unchanged = [p._version == v for p, v in zip(ours, versions, strict=True)]
    assert unchanged == [p.dim() == 4 for p in ours]
    assert not any(p in optimizer.state for p in ours if p.dim() == 4)
    optimizer.zero_grad()
    assert optimizer.step() is None and optimizer.step(max_norm=1.0) == 0.0


@pytest.mark.parametrize("from_package", [True, False])
def test_state_dict_round_trip(from_package):
    ours, optimizer, theirs, package = twins(torch.float64, lr=1e-2, weight_decay=0.1)
    generator = torch.Generator().manual_seed(7)
    for _ in range(3):
        set_gradients(ours, theirs, random_gradient(generator))
        optimizer.step()
        package.step()
    file = io.BytesIO()
    torch.save((package if from_package else optimizer).state_dict(), file)
    file.seek(0)
    copies = [nn.Parameter(p.detach().clone()) for p in ours]
    resumed = AdamP(copies)
    resumed.load_state_dict(torch.load(file))
    set_gradients(copies, theirs, random_gradient(generator))
    resumed.step()
    package.step()
    assert_close(copies, theirs)
    assert set(resumed.state[copies[0]]) == {"step", "exp_avg", "exp_avg_sq"}
    adamp.AdamP(theirs).load_state_dict(resumed.state_dict())


def scattered(dtype=torch.float64):
    """A transposed parameter beside a plain one."""
    torch.manual_seed(8)
    return [nn.Parameter(torch.randn(7, 5, dtype=dtype).T), nn.Parameter(torch.randn(4, dtype=dtype))]


def test_other_layouts_and_dtypes_take_the_plain_path():
    ours, theirs = scattered(), [nn.Parameter(p.detach().contiguous()) for p in scattered()]
    optimizer, package = AdamP(ours, lr=1e-2, weight_decay=0.1), adamp.AdamP(theirs, lr=1e-2, weight_decay=0.1)
    generator = torch.Generator().manual_seed(9)
    for _ in range(5):
        set_gradients(ours, theirs, random_gradient(generator))
        norm = optimizer.step(max_norm=0.5)
        assert math.isclose(norm, torch.nn.utils.clip_grad_norm_(theirs, 0.5).item(), rel_tol=1e-12)
        package.step()
    assert_close(ours, theirs)
    with use_backend("cpp"), pytest.raises(BackendError, match="not contiguous"):
        optimizer.step()
    mixed = [*parameters(torch.float32), *parameters(torch.bfloat16)]
    set_gradients(mixed, mixed, torch.ones_like)
    AdamP(mixed).step()
    assert all(bool(p.isfinite().all()) for p in mixed)


def test_a_gradient_that_is_a_view_is_read_right():
    ours, optimizer, theirs, package = twins(torch.float64, [(5, 7)], lr=1e-2)
    gradient = torch.randn(14, 5, dtype=torch.float64).T[:, ::2]
    ours[0].grad, theirs[0].grad = gradient, gradient.contiguous()
    with use_backend("cpp"):
        optimizer.step()
    package.step()
    assert_close(ours, theirs)


def test_a_closure_gives_the_loss():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = AdamP([parameter])

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"eps": -1e-8}, {"weight_decay": -0.1}])
def test_bad_arguments_are_an_error(options):
    with pytest.raises(ValueError, match="lr, eps and weight_decay"):
        AdamP(parameters(torch.float32), **options)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
def test_bad_norm_is_an_error(max_norm):
    with pytest.raises(ValueError, match="above 0"):
        AdamP(parameters(torch.float32)).step(max_norm=max_norm)
