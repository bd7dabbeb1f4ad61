"""The definition of how a model's flow runs, alone and beside the compiled runner."""

import pytest
import torch
from flow_models import CONFIGS, FULL, features, make_model

from moleflow_fast.backend import use_backend
from moleflow_fast.models.flow_runner import PlainFlowRunner
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF


def plain_model() -> MoLESpatialAwareNF:
    model = make_model()
    model.runner = PlainFlowRunner()
    return model


def test_a_model_runs_by_its_definition_alone() -> None:
    model, x = plain_model(), features()
    with use_backend("cpp"):  # of the flow; operations beside it are compiled
        z, logdet = model(x)
    with use_backend("eager"):
        expected = make_model()(x)
    torch.testing.assert_close((z, logdet), expected, rtol=1e-12, atol=1e-12)
    assert MoLESpatialAwareNF(8, 1, runner=model.runner).runner is model.runner


def test_the_task_that_was_active_is_active_again() -> None:
    model, x = plain_model(), features()
    model.set_active_task(0)
    z, _ = model.flow(x)
    other, _ = model.forward_as(1, x)
    assert not torch.equal(other, model.forward_as(0, x)[0])
    assert torch.equal(model.flow(x)[0], z) and model.current_task_id == 0


@pytest.mark.parametrize("name", ["default", "task_separated"])
def test_batched_experts_are_each_image_under_its_own(name: str) -> None:
    model, x, positions = make_model(CONFIGS[name]), features(3), features(1)[0]
    model.runner = PlainFlowRunner()
    found = model.runner.batched_nll(model.experts((1, 0)), torch.tensor([0, 1, 0], dtype=torch.int32), x, positions)
    for image, task in enumerate((1, 0, 1)):
        torch.testing.assert_close(found[image], model.nll_as(task, x[image : image + 1] + positions)[0])
    assert not found.requires_grad


def test_the_loss_is_that_of_the_map() -> None:
    x = features(3)
    options = {"tail_weight": 0.5, "tail_top_k_ratio": 0.2, "lambda_logdet": 1e-3}
    with use_backend("cpp"):
        losses = [model.density_loss(x, **options) for model in (make_model(FULL), plain_model())]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
