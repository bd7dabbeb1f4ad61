"""AdamP on the device against its definition: on a GPU where there is one, else in Triton's interpreter."""

import math

import pytest
import torch
from adamp_gradients import layer_orthogonal, rows_orthogonal

from moleflow_fast.kernels.adamp import _CHANNELS, _LAYER, _NONE, _PROJECTION, DeviceAdamP
from moleflow_fast.kernels.adamp_groups import AdamPSettings, AdamPTensor
from moleflow_fast.ops.adamp import adamp_step_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(5, 7), (1, 1), (1, 33), (140, 3), (3, 2, 3, 3), (6, 1, 3, 3), (17,), (), (300,), (2, 70), (9, 300), (0, 4)]
PLAIN = AdamPSettings(3e-3, 0.9, 0.999, 1e-8, 0.01, 0.1, 0.1, False)
OPTIONS = {
    "plain": PLAIN,
    "no decay": PLAIN._replace(weight_decay=0.0, lr=1e-2),
    "strong": PLAIN._replace(lr=5e-2, weight_decay=0.3, wd_ratio=0.5, delta=0.9, nesterov=True),
    "no eps": PLAIN._replace(eps=0.0, delta=0.9),
    "betas": PLAIN._replace(beta1=0.0, beta2=0.7, eps=1e-3, delta=1e-3),
}


def tensors(shapes=SHAPES, seed=0, step=1):
    """Parameters, gradients and moments with something in them."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for shape in shapes:
        p, g, m, v = (torch.randn(shape, generator=generator).to(DEVICE) for _ in range(4))
        made.append(AdamPTensor(p, g, m.mul_(0.1), v.square_(), step))
    return made


def copies(own):
    return [AdamPTensor(*(operand.clone() for operand in t[:4]), t.step) for t in own]


def reference_step(groups, step, max_norm):
    return adamp_step_reference([(s, [t._replace(step=step) for t in own]) for s, own in groups], max_norm)


def new_gradients(ours, theirs, seed):
    generator = torch.Generator().manual_seed(seed)
    for t, u in zip(ours, theirs, strict=True):
        u.gradient.copy_(torch.randn(u.gradient.shape, generator=generator))
        t.gradient.copy_(u.gradient)


def assert_close(ours, theirs, tolerance=2e-6):
    for t, u in zip(ours, theirs, strict=True):
        for name in ("parameter", "exp_avg", "exp_avg_sq"):
            mine, its = getattr(t, name).double(), getattr(u, name).double()
            assert (mine - its).norm() <= tolerance * its.norm(), (name, tuple(its.shape))


def written(own):
    return [operand for t in own for operand in (t.parameter, t.exp_avg, t.exp_avg_sq)]


@pytest.mark.parametrize("max_norm", [0.5, 1e6, math.inf])
@pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)
def test_steps_equal_the_definition(settings, max_norm):
    ours = tensors()
    theirs = copies(ours)
    groups = [(settings, ours[:4]), (settings._replace(lr=settings.lr / 3), ours[4:])]
    reference = [(groups[0][0], theirs[:4]), (groups[1][0], theirs[4:])]
    plan = DeviceAdamP(groups, max_norm)
    for step in range(1, 5):
        norm = plan.step()
        assert norm.item() == pytest.approx(reference_step(reference, step, max_norm), rel=1e-6)
        new_gradients(ours, theirs, step)
    assert_close(ours, theirs)
    assert plan.steps.tolist() == [4] * len(SHAPES)


def along_rows(p):
    return p + 0.1


def channels_gradient(p):
    return rows_orthogonal(p, torch.flip(p, [0]) + 1)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", [(5, 7), (3, 2, 3, 3), (4, 600), (40, 70), (1100, 2)])
def test_each_tensor_has_a_projection_of_its_own(shape, nesterov):
    ours = tensors([shape] * 5)
    makers = [channels_gradient, layer_orthogonal, along_rows, torch.zeros_like, lambda p: torch.full_like(p, 1e-12)]
    for t, make in zip(ours, makers, strict=True):
        t.gradient.copy_(make(t.parameter))
    theirs = copies(ours)
    settings = PLAIN._replace(lr=1e-2, weight_decay=0.1, nesterov=nesterov)
    plan = DeviceAdamP([(settings, ours)], 1e6)
    plan.step()
    reference_step([(settings, theirs)], 1, 1e6)
    chosen = plan.scratch[2][:, _PROJECTION.value].tolist()
    expected = [_CHANNELS, _LAYER, _NONE, _CHANNELS]
    assert chosen[:4] == [e.value for e in expected]
    assert_close(ours, theirs)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-7])
def test_small_parameters_with_small_gradients(size):
    ours = tensors([(4, 6), (3, 70), (2, 300)] * 2)
    for t in ours[:3]:
        t.parameter.mul_(size)
    for t in ours:
        t.gradient.mul_(1e-7)
        t.exp_avg.zero_()
        t.exp_avg_sq.zero_()
    theirs = copies(ours)
    plan = DeviceAdamP([(PLAIN, ours)], 1e-6)
    for step in (1, 2):
        assert plan.step().item() == pytest.approx(reference_step([(PLAIN, theirs)], step, 1e-6), rel=1e-6)
        assert_close(ours, theirs)
        if step == 1 and size < PLAIN.eps:
            assert bool((plan.scratch[2][:3, _PROJECTION.value] == _CHANNELS.value).all())


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, None])
def test_a_skipped_step_changes_nothing(broken):
    ours = tensors(step=8)
    theirs = copies(ours)
    plan = DeviceAdamP([(PLAIN, ours)], 0.5)
    if broken is not None:
        ours[5].gradient.view(-1)[-1] = broken
    before, lr = copies(ours), plan.lr.clone()
    norm = plan.step(torch.tensor([broken is None], device=DEVICE))
    assert math.isfinite(norm.item()) == (broken is None)
    assert all(map(torch.equal, written(ours), written(before)))
    assert plan.steps.tolist() == [7] * len(SHAPES) and torch.equal(plan.lr, lr)
    new_gradients(ours, theirs, 3)
    plan.step(torch.tensor(False, device=DEVICE))
    reference_step([(PLAIN, theirs)], 8, 0.5)
    assert_close(ours, theirs)


def test_the_same_bits_twice_whatever_the_scratch_holds():
    results = []
    for poison in (math.nan, 0.0):
        ours = tensors()
        plan = DeviceAdamP([(OPTIONS["strong"], ours)], 0.5)
        for seed in range(2):
            for scratch in plan.scratch:
                scratch.fill_(poison)
            plan.step()
            new_gradients(ours, ours, seed)
        results.append((ours, plan.control))
    assert all(map(torch.equal, written(results[0][0]), written(results[1][0])))
    assert torch.equal(results[0][1], results[1][1])


def test_learning_rates_are_read_from_the_device():
    ours = tensors()
    theirs = copies(ours)
    plan = DeviceAdamP([(PLAIN, ours[:3]), (PLAIN, ours[3:])], 0.5)
    plan.lr.copy_(torch.tensor([0.1, 0.02]))
    plan.step()
    reference_step([(PLAIN._replace(lr=0.1), theirs[:3]), (PLAIN._replace(lr=0.02), theirs[3:])], 1, 0.5)
    assert_close(ours, theirs)


def test_gradients_stay_and_versions_move():
    ours = tensors()
    before, versions = copies(ours), [t.parameter._version for t in ours]
    DeviceAdamP([(PLAIN, ours)], 0.5).step()
    assert all(torch.equal(t.gradient, u.gradient) for t, u in zip(ours, before, strict=True))
    assert all(t.parameter._version > v for t, v in zip(ours, versions, strict=True))


def test_only_empty_tensors():
    plan = DeviceAdamP([(PLAIN, tensors([(0, 3), (0,)]))], 0.5)
    assert plan.step().item() == 0.0
    assert plan.steps.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t._replace(gradient=t.gradient.double()), "float32"),
        (lambda t: t._replace(gradient=t.gradient.T.contiguous().T), "contiguous"),
        (lambda t: t._replace(exp_avg=t.exp_avg[:1]), "differ in shape"),
    ],
)
def test_other_tensors_are_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        DeviceAdamP([(PLAIN, [change(t) for t in tensors([(5, 7)])])])
    with pytest.raises(ValueError, match="at least one"):
        DeviceAdamP([(PLAIN, [])])


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_a_graph_replays_steps():
    ours = tensors()
    theirs = copies(ours)
    plan = DeviceAdamP([(PLAIN, ours)], 0.5)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        plan.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan.step()
    reference_step([(PLAIN, theirs)], 1, 0.5)
    for step in (2, 3):
        new_gradients(ours, theirs, step)
        graph.replay()
        reference_step([(PLAIN, theirs)], step, 0.5)
    assert_close(ours, theirs)
    assert plan.steps.tolist() == [3] * len(SHAPES)
