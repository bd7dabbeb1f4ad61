"""The flow on Triton kernels against the plain modules: on a GPU where there is one, else in Triton's interpreter."""

from dataclasses import replace

import pytest
import torch
from flow_models import CONFIGS, FULL, features, make_model

from moleflow_fast.backend import BackendError, use_backend, use_precision
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.packing.packer import pack, trained
from moleflow_fast.packing.target import Target

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOUND = 2e-5  # fp32 against fp64, of a tensor's largest value
Result = tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]


def run(model: MoLESpatialAwareNF, x: torch.Tensor, backend: str) -> Result:
    x = x.clone().requires_grad_(True)
    model.zero_grad(set_to_none=True)
    with use_backend(backend):
        z, logdet = model(x)
        (z.sin().sum() + logdet.square().sum()).backward()
    gradients = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert x.grad is not None
    return z.detach().double(), logdet.detach().double(), {**gradients, "x": x.grad.double()}


def compare(model: MoLESpatialAwareNF, x: torch.Tensor) -> None:
    """`model` and x in fp64; the kernels get both in fp32, and may be as far off as the plain modules in fp32."""
    model, x = model.to(DEVICE), x.to(DEVICE)
    exact = run(model, x, "eager")
    plain = errors(run(model.float(), x.float(), "eager"), exact)
    kernels = errors(run(model, x.float(), "triton"), exact)
    assert {n: e for n, e in kernels.items() if not e < max(BOUND, 4 * plain[n])} == {}


def errors(actual: Result, expected: Result) -> dict[str, float]:
    assert set(actual[2]) == set(expected[2])
    pairs = {"z": (actual[0], expected[0]), "logdet": (actual[1], expected[1])}
    pairs |= {name: (actual[2][name], value) for name, value in expected[2].items()}
    return {n: float((a - e).abs().max() / e.abs().max().clamp_min(1e-12)) for n, (a, e) in pairs.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_equal_to_the_plain_modules(name: str) -> None:
    model = make_model(CONFIGS[name], blocks=2)
    model.requires_grad_(True)
    compare(model, features())


@pytest.mark.parametrize("name", ["default", "no_scale_context"])
def test_a_later_task_gets_its_own_gradients_alone(name: str) -> None:
    model = make_model(CONFIGS[name])
    model.freeze_all_base()
    for parameter in model.get_fast_params(0):
        parameter.requires_grad_(False)
    compare(model, features())


@pytest.mark.parametrize(
    ("dim", "blocks", "shape"),
    [
        (3, 2, (1, 1, 1)),  # two channels cancel in a LayerNorm: rounding would be all there is
        (5, 2, (1, 1, 1)),
        (7, 1, (2, 1, 3)),
        (18, 0, (2, 3, 1)),
        (33, 2, (1, 5, 2)),
        (140, 1, (2, 9, 9)),
    ],
)
def test_odd_sizes(dim: int, blocks: int, shape: tuple[int, int, int]) -> None:
    model = make_model(FULL, dim, blocks, rank=1)
    compare(model, features(*shape, dim))


def test_gradients_of_plain_sums() -> None:
    """They are expanded numbers, which no kernel may take for a dense tensor."""
    model, x = make_model().float().to(DEVICE), features().float().to(DEVICE)
    for part in (0, 1):
        gradients = []
        for backend in ("triton", "eager"):
            leaf = x.clone().requires_grad_(True)
            with use_backend(backend):
                model(leaf)[part].sum().backward()
            gradients.append(leaf.grad)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images", [1, 2])
def test_features_in_another_layout(images: int) -> None:
    model = make_model(replace(FULL, use_task_adapter=False, use_spatial_context=False)).float().to(DEVICE)
    planes = features(images).float().to(DEVICE).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad(), use_backend("triton"):
        strided = model(planes.permute(0, 2, 3, 1))
        dense = model(planes.permute(0, 2, 3, 1).contiguous())
    assert torch.equal(strided[0], dense[0]) and torch.equal(strided[1], dense[1])


def test_inference_keeps_nothing_and_gives_the_same() -> None:
    model, x = make_model().float().to(DEVICE), features().float().to(DEVICE)
    with use_backend("triton"):
        z, logdet = model(x)
        with torch.no_grad():
            alone = model.forward_as(1, x)
    assert torch.equal(z, alone[0]) and torch.equal(logdet, alone[1])


def test_the_same_bits_twice() -> None:
    model, x = make_model().float().to(DEVICE), features(4, 6, 7).float().to(DEVICE)
    first, second = (run(model, x, "triton") for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert all(torch.equal(value, second[2][name]) for name, value in first[2].items())


def test_poisoned_memory_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows have room for 16 tokens where 15 stand; what fills it, and every fresh tensor, is NaN."""
    plain = torch.Tensor.new_empty

    def poisoned(self: torch.Tensor, *size: object, **options: object) -> torch.Tensor:
        fresh = plain(self, *size, **options)  # type: ignore[arg-type]
        return fresh.fill_(torch.nan) if fresh.is_floating_point() else fresh

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    compare(make_model(), features(1, 3, 5))


def test_not_a_number_comes_through() -> None:
    model, x = make_model().float().to(DEVICE), features().float().to(DEVICE)
    x[1, 2, 3, 0] = torch.nan
    with use_backend("triton"), torch.no_grad():
        z, logdet = model(x)
    assert logdet[1].isnan().any() and z[1].isnan().any()
    assert not logdet[[0, 2]].isnan().any() and not z[[0, 2]].isnan().any()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("default", (5, 4, 5)), ("no_adapter", (3, 4, 4)), ("no_scale_context", (2, 3, 3)),
        ("adapter_gaussian", (3, 4, 5)),
    ],
)  # fmt: skip
def test_images_of_different_tasks_at_once(name: str, shape: tuple[int, int, int]) -> None:
    model = make_model(CONFIGS[name], blocks=2).float().to(DEVICE).requires_grad_(False)
    x = features(*shape).float().to(DEVICE)
    chosen = torch.tensor([1, 0, 1, 1, 0], dtype=torch.int32, device=DEVICE)[: shape[0]]
    with use_backend("triton"), torch.no_grad():
        assert model.runner.why_not_batched(model.experts((0, 1)), x) is None
        nll = model.runner.batched_nll(model.experts((0, 1)), chosen, x)
        for image, task in enumerate(chosen.tolist()):
            alone = model.nll_as(task, x[image : image + 1])
            torch.testing.assert_close(nll[image], alone[0], rtol=1e-5, atol=1e-5)
        model.dia_adapters["1"].coupling_blocks[0].s_net.layers[0].weight.mul_(2)
        again = model.runner.batched_nll(model.experts((0, 1)), chosen, x)
        assert not torch.equal(again, nll), "stacked weights are stale"
        model.requires_grad_(True)
        model(x)  # a training step whose optimizer changes parameters behind their version counters
        for parameter in model.flow.parameters():
            parameter.data.mul_(1.1)
        model.requires_grad_(False)
        moved = model.runner.batched_nll(model.experts((0, 1)), chosen, x)
        alone = model.nll_as(int(chosen[0]), x[:1])
        torch.testing.assert_close(moved[0], alone[0], rtol=1e-5, atol=1e-5)


def test_what_cannot_be_mixed_says_why() -> None:
    x = features().float().to(DEVICE)
    for name, reason in (("task_separated", "flows of their own"), ("adapter_soft_ln", "neither whitening")):
        model = make_model(CONFIGS[name]).float().to(DEVICE)
        with use_backend("triton"):
            assert reason in (model.runner.why_not_batched(model.experts((0, 1)), x) or "")
    with use_backend("cpp"):
        assert "Triton" in (model.runner.why_not_batched(model.experts((0, 1)), x) or "")


def test_fronts_of_one_grid_can_be_mixed_and_are_never_stale() -> None:
    model = make_model(CONFIGS["adapter_gaussian"]).float().to(DEVICE)
    model.freeze()
    x, chosen = features().float().to(DEVICE), torch.tensor([1, 0, 1], dtype=torch.int32, device=DEVICE)
    positions = features(1).float().to(DEVICE)[0]
    with use_backend("triton"):
        before, nll = (
            model.runner.batched_experts_read(model.experts((0, 1)), x),
            model.runner.batched_nll(model.experts((0, 1)), chosen, x, positions),
        )
        assert all(
            a is b for a, b in zip(before, model.runner.batched_experts_read(model.experts((0, 1)), x), strict=True)
        )
        model.input_adapters["1"].directions.neg_()  # the same map, but other bits in the buffer
        model.input_adapters["1"].mean.add_(0.5)
        assert not all(
            a is b for a, b in zip(before, model.runner.batched_experts_read(model.experts((0, 1)), x), strict=True)
        )
        after = model.runner.batched_nll(model.experts((0, 1)), chosen, x, positions)
        assert torch.equal(after[1], nll[1]) and not torch.equal(after[0], nll[0])
        torch.testing.assert_close(after[:1], model.nll_as(1, x[:1] + positions), rtol=1e-5, atol=1e-4)
        model.input_adapters["0"].allocate(3, 4)
        assert "one grid" in (model.runner.why_not_batched(model.experts((0, 1)), x) or "")


def test_double_precision_is_refused() -> None:
    with use_backend("triton"), pytest.raises(BackendError, match="float64"):
        make_model().to(DEVICE)(features().to(DEVICE))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter multiplies the raw bits of bf16")
@pytest.mark.parametrize("name", ["default", "no_scale_context", "no_dia"])
def test_bf16_operands_are_near(name: str) -> None:
    """As near as torch's own bf16, whose products round the same operands."""
    model, x = make_model(CONFIGS[name], dim=64).to(DEVICE), features(4, 8, 8, 64).to(DEVICE)
    exact = run(model, x, "eager")
    model, x = model.float(), x.float()
    with torch.autocast(DEVICE, torch.bfloat16):
        plain = errors(run(model, x, "eager"), exact)
    with use_precision("bf16"):
        kernels = errors(run(model, x, "triton"), exact)
    assert {n: (e, plain[n]) for n, e in kernels.items() if not e < max(5e-2, 4 * plain[n])} == {}


def test_operator_checks() -> None:
    model = make_model(dim=6, blocks=1, rank=1).float().to(DEVICE)
    flow = model.expert(1).flow
    packed, params = trained(flow, pack(flow, Target("channel_major")))
    params = [p.detach().clone().requires_grad_(True) for p in params]
    x = features(2, 2, 2, 6).float().to(DEVICE).requires_grad_(True)
    torch.library.opcheck(
        torch.ops.moleflow.flow,
        (x, list(packed.tensors), params, packed.plan.text, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
