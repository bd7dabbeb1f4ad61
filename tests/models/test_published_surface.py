"""What scripts for the published package ask of a model, its statistics and its router."""

import pytest
import torch

from moleflow_fast.config import AblationConfig
from moleflow_fast.models import MoLESpatialAwareNF, PrototypeRouter, TaskPrototype
from moleflow_fast.models.subnets import MoLEContextSubnet, MoLESubnet


def model(**switches: object) -> MoLESpatialAwareNF:
    flow = MoLESpatialAwareNF(8, 3, lora_rank=2, ablation_config=AblationConfig(**switches))
    flow.add_task(0)
    flow.add_task(1)
    return flow


def trains(flow: MoLESpatialAwareNF) -> set[str]:
    return {name for name, parameter in flow.named_parameters() if parameter.requires_grad}


def test_parts_by_their_published_names() -> None:
    flow = model()
    assert len(flow.subnets) == 3 and all(isinstance(net, MoLEContextSubnet) for net in flow.subnets)
    assert flow.subnets[1] is flow.flow.module_list[1].subnet
    assert flow.ablation_config is flow.config
    assert all(isinstance(net, MoLESubnet) for net in model(use_scale_context=False).subnets)


def test_the_last_blocks_train_alone() -> None:
    flow = model()
    flow.unfreeze_last_k_blocks(2)
    base = {name for name in trains(flow) if ".base_linear." in name}
    assert base == {
        f"flow.module_list.{k}.subnet.{layer}.base_linear.{kind}"
        for k in (1, 2)
        for layer in ("s_layer1", "s_layer2", "t_layer1", "t_layer2")
        for kind in ("weight", "bias")
    }
    assert {id(p) for p in flow.get_base_params_for_slow_update(2)} == {
        id(p) for name, p in flow.named_parameters() if name in base
    }


def test_an_expert_is_frozen_and_trains_again() -> None:
    flow = model()
    before = trains(flow)
    flow.freeze_fast_params(1)
    suffixes = (".lora_A.1", ".lora_B.1", ".task_biases.1")
    own = {name for name in before if name.endswith(suffixes) or "adapters.1." in name}
    assert before - trains(flow) == own
    flow.unfreeze_fast_params(1)
    assert trains(flow) == before


def test_a_class_is_its_task() -> None:
    flow = model()
    flow.add_class(7, "bolt", 2)
    assert flow.current_task_id == 2 and flow.get_active_adapter_key() == "2"
    flow.set_active_class(None)
    assert flow.current_task_id is None and flow.get_active_adapter_key() == "0"
    flow.set_active_class(7)
    assert flow.current_task_id == 2
    own = {id(p) for p in flow.get_trainable_params(2)}
    assert {id(p) for p in flow.get_trainable_params_for_class(7)} == own
    with pytest.raises(KeyError):
        flow.set_active_class(8)


def test_context_strength() -> None:
    flow = model()
    with torch.no_grad():
        flow.subnets[0].context_scale_param.fill_(0.0)
    info = flow.get_context_info()
    assert info == pytest.approx({"alpha_mean": 0.1, "alpha_min": 0.1, "alpha_max": 0.1})
    with torch.no_grad():
        flow.subnets[0].context_scale_param.fill_(30.0)
    assert flow.get_context_info() == pytest.approx({"alpha_mean": 0.4 / 3, "alpha_min": 0.1, "alpha_max": 0.2})
    assert model(use_scale_context=False).get_context_info() == {}


def test_statistics() -> None:
    statistics = model().reference_stats
    assert not statistics.is_initialized and statistics.mean is None
    with pytest.raises(ValueError, match="not finalized"):
        statistics.get_reference_params()
    features = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(1))
    statistics.update(features)
    statistics.finalize()
    mean, std = statistics.get_reference_params()
    assert statistics.is_initialized and statistics.n_samples == 24
    torch.testing.assert_close(mean, features.mean((0, 1, 2)))
    torch.testing.assert_close(std, (features.flatten(0, 2).var(0) + 1e-6).sqrt())


def test_prototypes_with_and_without_a_task_id() -> None:
    router, prototype = PrototypeRouter("cpu"), TaskPrototype(3, ["bolt"], device="cpu")
    prototype.update(torch.randn(20, 4, generator=torch.Generator().manual_seed(2)))
    router.add_prototype(3, prototype)
    assert router.prototypes == {3: prototype}
    router.add_prototype(prototype)
    assert torch.equal(router.route(torch.zeros(2, 4)), torch.tensor([3, 3]))
    with pytest.raises(ValueError, match="of task 3, not of task 4"):
        router.add_prototype(4, prototype)
