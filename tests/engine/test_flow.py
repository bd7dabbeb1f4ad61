"""The compiled engine against the plain modules, in every configuration it runs."""

import threading
from dataclasses import replace

import pytest
import torch
from flow_models import CONFIGS, FULL, PLAIN, features, make_model

from moleflow_fast.backend import BackendError, use_backend
from moleflow_fast.engine.plan import images_at_once, parse
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.packing.packer import pack, trained
from moleflow_fast.packing.target import Target


def run(model: MoLESpatialAwareNF, x: torch.Tensor, backend: str) -> tuple[torch.Tensor, torch.Tensor, dict]:
    x = x.clone().requires_grad_(True)
    model.zero_grad(set_to_none=True)
    with use_backend(backend):
        z, logdet = model(x)
        (z.sin().sum() + logdet.square().sum()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    return z.detach(), logdet.detach(), {**gradients, "x": x.grad}


def assert_same(actual: tuple, expected: tuple, bound: float) -> None:
    names = ("z", "logdet")
    pairs = [*zip(names, actual[:2], expected[:2], strict=True)]
    assert set(actual[2]) == set(expected[2])
    pairs += [(name, actual[2][name], expected[2][name]) for name in expected[2]]
    for name, a, e in pairs:
        error = float((a - e).abs().max() / e.abs().max().clamp_min(1e-12))
        assert error < bound, (name, error)


def why_plain(model: MoLESpatialAwareNF, x: torch.Tensor, task: int) -> str | None:
    return model.runner.why_not_compiled(model.expert(task).flow, x)


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("name", CONFIGS)
def test_equal_to_the_plain_modules(name: str, task: int) -> None:
    model = make_model(CONFIGS[name])
    model.set_active_task(task)
    model.requires_grad_(True)
    assert_same(run(model, features(), "cpp"), run(model, features(), "eager"), 1e-10)


@pytest.mark.parametrize("name", ["default", "no_scale_context", "task_separated"])
def test_a_later_task_gets_its_own_gradients_alone(name: str) -> None:
    model = make_model(CONFIGS[name])
    model.freeze_all_base()
    for parameter in model.get_fast_params(0):
        parameter.requires_grad_(False)
    compiled, plain = run(model, features(), "cpp"), run(model, features(), "eager")
    assert_same(compiled, plain, 1e-10)
    own = {n for n, p in model.named_parameters() if any(p is q for q in model.get_trainable_params(1))}
    assert set(compiled[2]) - {"x"} <= own


@pytest.mark.parametrize(
    ("dim", "blocks", "shape"),
    [(2, 2, (1, 1, 1)), (5, 2, (1, 1, 1)), (7, 1, (2, 1, 3)), (18, 0, (2, 3, 1)), (33, 2, (1, 5, 2))],
)
def test_odd_sizes(dim: int, blocks: int, shape: tuple[int, int, int]) -> None:
    model = make_model(FULL, dim, blocks, rank=1)
    x = features(*shape, dim)
    assert_same(run(model, x, "cpp"), run(model, x, "eager"), 1e-10)


def test_a_large_rank_takes_the_dense_gradient() -> None:
    model = make_model(rank=12)
    model.freeze_all_base()
    assert_same(run(model, features(), "cpp"), run(model, features(), "eager"), 1e-10)


def test_several_chunks_and_non_contiguous_features(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    x = features(5).transpose(1, 2)
    whole = run(model, x, "cpp")
    monkeypatch.setattr("moleflow_fast.engine.plan.CHUNK_VALUES", 1)
    assert_same(run(model, x, "cpp"), whole, 1e-12)
    assert_same(run(model, x, "eager"), whole, 1e-10)


def test_an_image_does_not_feel_the_others() -> None:
    model = make_model().float().requires_grad_(False)
    x = features(6, dim=20).float()
    with use_backend("cpp"), torch.no_grad():
        together, _ = model(x)
        for i in range(6):
            torch.testing.assert_close(model(x[i : i + 1])[0][0], together[i], rtol=1e-5, atol=1e-6)


def test_only_the_losses_that_are_used_count() -> None:
    model = make_model()
    for part in (0, 1):
        gradients = []
        for backend in ("cpp", "eager"):
            x = features().requires_grad_(True)
            with use_backend(backend):
                (model(x)[part].sin().sum()).backward()
            gradients.append(x.grad)
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_operator_checks() -> None:
    model = make_model(dim=6, blocks=1, rank=1)
    flow = model.expert(1).flow
    packed, params = trained(flow, pack(flow, Target()))
    params = [p.detach().clone().requires_grad_(True) for p in params]
    x = features(2, 2, 2, 6).requires_grad_(True)
    arguments = (x, list(packed.tensors), params, packed.plan.text, True)
    torch.library.opcheck(
        torch.ops.moleflow.flow, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
    )
    assert parse(packed.plan.text) == packed.plan


def test_gradcheck() -> None:
    model = make_model(dim=6, blocks=1, rank=1)
    x = features(1, 2, 2, 6).requires_grad_(True)
    with use_backend("cpp"):
        assert torch.autograd.gradcheck(model, (x,))


def test_weights_that_train_are_packed_once_while_they_hold_still() -> None:
    model = make_model()
    flow = model.expert(1).flow
    with model.runner.weights_fixed():
        assert model.runner.packed(flow) is model.runner.packed(flow)
    with torch.no_grad():
        model.flow.module_list[0].subnet.s_layer1.lora_B["1"].add_(0.5)
    assert_same(run(model, features(), "cpp"), run(model, features(), "eager"), 1e-10)


def test_thread_counts_agree() -> None:
    model = make_model().float()
    x = features(4).float()
    results = []
    before = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(run(model, x, "cpp"))
    torch.set_num_threads(before)
    assert_same(results[0], results[1], 1e-5)
    for a, b in zip(results[0][:2], results[1][:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_two_threads_score_different_tasks_at_once(backend: str) -> None:
    model = make_model().float().requires_grad_(False)
    model.set_active_task(None)
    x = features(8).float()
    with use_backend(backend), torch.no_grad():
        alone = [model.forward_as(task, x)[0] for task in (0, 1)]
    wrong: list[int] = []

    def score(task: int) -> None:
        with use_backend(backend), torch.no_grad():
            for _ in range(30):
                if not torch.equal(model.forward_as(task, x)[0], alone[task]):
                    wrong.append(task)

    workers = [threading.Thread(target=score, args=(task,)) for task in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert model.current_task_id is None


def test_what_the_engine_does_not_run_takes_the_plain_path() -> None:
    spectral = make_model(replace(PLAIN, use_spectral_norm=True))
    assert "spectral" in (why_plain(spectral, features(), 1) or "")
    with use_backend("cpp"), pytest.raises(BackendError, match="spectral normalisation"):
        spectral(features())
    spectral(features())  # auto
    with use_backend("cpp"), pytest.raises(BackendError, match="float16"):
        make_model().half()(features().half())
    assert "not torch.float64" not in (why_plain(make_model(), features(), 0) or "")
    assert "float32" in (why_plain(make_model(), features().float(), 0) or "")


def test_chunks_are_whole_images() -> None:
    assert images_at_once(28 * 28 * 768, training=False) == 1
    assert images_at_once(56 * 56 * 768, training=True) == 1
