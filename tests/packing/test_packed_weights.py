"""Packed weights are those of the modules: made once while nothing changes, and never stale."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from flow_models import CONFIGS, features, make_model

from moleflow_fast.backend import use_backend
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF
from moleflow_fast.packing.compiled_runner import CompiledFlowRunner
from moleflow_fast.packing.seen import Seen


def test_packed_weights_are_never_stale() -> None:
    model = make_model().requires_grad_(False)
    x = features()

    def agrees() -> None:
        with torch.no_grad():
            with use_backend("cpp"):
                compiled = model(x)
            with use_backend("eager"):
                plain = model(x)
        torch.testing.assert_close(compiled, plain, rtol=1e-10, atol=1e-10)

    agrees()
    block = model.flow.module_list[0]
    with torch.no_grad():
        block.subnet.s_layer1.lora_B["1"].add_(0.5)  # in place
    agrees()
    model.load_state_dict({n: v * 1.1 if v.is_floating_point() else v for n, v in model.state_dict().items()})
    agrees()
    layer = block.subnet.t_layer1.base_linear
    layer.weight = torch.nn.Parameter(torch.randn_like(layer.weight))
    model.requires_grad_(False)
    agrees()
    model.requires_grad_(True)
    model(x)  # a training step whose optimizer changes parameters behind their version counters
    for parameter in model.parameters():
        parameter.data.mul_(0.9)
    agrees()
    model.requires_grad_(False)
    agrees()
    agrees()


def test_flows_are_unchanged_until_something_behind_them_changes() -> None:
    model = make_model().requires_grad_(False)
    layer = model.flow.module_list[1].subnet.s_layer2
    seen = Seen([model.expert(0).flow])
    layer.lora_A["1"].data.add_(1)
    layer.lora_A["1"].requires_grad_(True)  # another task's
    model.add_task(2)
    assert seen.unchanged()

    def changes(change: Callable[[], object]) -> None:
        seen = Seen([model.expert(0).flow])
        assert seen.unchanged()
        change()
        assert not seen.unchanged()

    changes(lambda: layer.lora_A["0"].add_(1))
    changes(lambda: setattr(layer.lora_B["0"], "data", layer.lora_B["0"].data.clone()))
    changes(lambda: layer.lora_A.update({"0": torch.nn.Parameter(layer.lora_A["0"].data, requires_grad=False)}))
    changes(lambda: layer.task_biases.pop("0"))
    changes(lambda: model.flow.module_list[0].perm_index.copy_(torch.arange(20)))
    changes(lambda: setattr(model.dia_adapters["0"].coupling_blocks[0], "s_net", model.dia_adapters["1"]))
    changes(lambda: model.flow.module_list[1].subnet.t_layer1.base_linear.requires_grad_(True))


def test_hooks_are_noticed() -> None:
    model = make_model(CONFIGS["no_scale_context"]).requires_grad_(False)
    seen = Seen([model.expert(0).flow])
    torch.nn.utils.spectral_norm(model.flow.module_list[0].subnet.layer1.base_linear)
    assert not seen.unchanged() and model.runner.why_not_compiled(model.expert(0).flow, features()) is not None


def test_frozen_tasks_are_packed_once() -> None:
    model = make_model().requires_grad_(False)
    with torch.no_grad(), use_backend("cpp"):
        model(features())
        first = model.runner.packed(model.expert(1).flow)
        model(features())
        assert model.runner.packed(model.expert(1).flow) is first


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_models_can_be_copied(copied: Callable[[MoLESpatialAwareNF], MoLESpatialAwareNF]) -> None:
    model = make_model()
    twin = copied(model)
    assert type(twin.runner) is CompiledFlowRunner and twin.runner is not model.runner
    torch.testing.assert_close(twin(features()), model(features()))
