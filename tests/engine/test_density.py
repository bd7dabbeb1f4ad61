"""The loss straight from the flow's last state against the loss of z: on a GPU, else in Triton's interpreter."""

from dataclasses import replace

import pytest
import torch
from flow_models import CONFIGS, FULL, features, make_model

from moleflow_fast.backend import use_backend
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOSSES = {"plain": (None, 0.0), "tail": (0.7, 1e-2)}


def loss_and_gradients(model: MoLESpatialAwareNF, x: torch.Tensor, backend: str, loss: str) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_(True)
    model.zero_grad(set_to_none=True)
    weight, penalty = LOSSES[loss]
    with use_backend(backend):
        value = model.density_loss(x, tail_weight=weight, tail_top_k_ratio=0.3, lambda_logdet=penalty)
        assert ("flow_loss" in type(value.grad_fn).__name__) == (backend == "triton")
        (value * 1.5).backward()
    assert x.grad is not None
    found = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    return {**found, "x": x.grad.double(), "loss": value.detach().double()}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["default", "no_scale_context", "task_separated"])
def test_equal_to_the_loss_of_z(name: str, loss: str) -> None:
    model, x = make_model(CONFIGS[name]).to(DEVICE).requires_grad_(True), features().to(DEVICE)
    exact = loss_and_gradients(model, x, "eager", loss)
    plain = loss_and_gradients(model.float(), x.float(), "eager", loss)
    ours = loss_and_gradients(model, x.float(), "triton", loss)
    assert ours.keys() == exact.keys()
    for name, expected in exact.items():
        size = expected.abs().max()
        bound = max(2e-5, 4 * float((plain[name] - expected).abs().max() / size))
        assert float((ours[name] - expected).abs().max() / size) <= bound, name


def test_poisoned_memory_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows have room for 16 tokens where 15 stand; what fills it, and every fresh tensor, is NaN."""
    plain = torch.Tensor.new_empty

    def poisoned(self: torch.Tensor, *size: object, **options: object) -> torch.Tensor:
        fresh = plain(self, *size, **options)  # type: ignore[arg-type]
        return fresh.fill_(torch.nan) if fresh.is_floating_point() else fresh

    model, x = make_model(blocks=2).float().to(DEVICE), features(1, 3, 5).float().to(DEVICE)
    expected = loss_and_gradients(model, x, "eager", "tail")
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    for name, value in loss_and_gradients(model, x, "triton", "tail").items():
        torch.testing.assert_close(value, expected[name], rtol=2e-4, atol=2e-4, msg=name)


def test_one_patch_that_is_not_finite_shows_in_the_loss() -> None:
    model, x = make_model(replace(FULL, use_task_adapter=False)).float().to(DEVICE), features().float().to(DEVICE)
    x[1, 2, 3, 0] = torch.nan
    with use_backend("triton"):
        loss = model.density_loss(x, tail_weight=1.0, tail_top_k_ratio=0.1, lambda_logdet=0.0)
    assert not loss.isfinite()


def test_a_graph_is_gone_back_through_once() -> None:
    model, x = make_model(blocks=1).float().to(DEVICE), features(1, 2, 2).float().to(DEVICE).requires_grad_(True)
    with use_backend("triton"):
        loss = model.density_loss(x, tail_weight=None, tail_top_k_ratio=0.1, lambda_logdet=0.0)
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_ratio_out_of_range_is_an_error() -> None:
    model, x = make_model(blocks=1).float().to(DEVICE), features(1, 2, 2).float().to(DEVICE)
    with use_backend("triton"), pytest.raises(ValueError, match="tail_top_k_ratio"):
        model.density_loss(x, tail_weight=0.5, tail_top_k_ratio=1.5, lambda_logdet=0.0)
