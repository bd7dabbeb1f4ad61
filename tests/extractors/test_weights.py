"""Weights from files: strict, readable errors, never code."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from moleflow_fast.extractors import (
    WeightsError,
    WeightsUnavailable,
    create_backbone,
    create_feature_extractor,
    load_backbone_weights,
)
from moleflow_fast.extractors import weights as weights_module

REAL = Path(__file__).resolve().parents[3] / "shared" / "weights"


def resnet(**options):
    torch.manual_seed(5)
    return timm.create_model("resnet18", **options)


@pytest.fixture(scope="module")
def state():
    return resnet(num_classes=0).state_dict()


def same(model, state):
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_file_with_wrappers(tmp_path, state, wrap, prefix):
    torch.save(wrap({prefix + k: v for k, v in state.items()}), tmp_path / "w.pth")
    model, origin = create_backbone("resnet18", weights_file=tmp_path / "w.pth")
    assert origin == "file w.pth"
    assert same(model, state)


def test_safetensors_with_classifier(tmp_path, caplog):
    whole = resnet(num_classes=10)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    model = timm.create_model("resnet18", num_classes=0)
    with caplog.at_level("INFO"):
        dropped = load_backbone_weights(model, tmp_path / "w.safetensors")
    assert sorted(dropped) == ["fc.bias", "fc.weight"]
    assert "fc.weight" in caplog.text
    assert same(model, whole.state_dict())


def test_missing_counters_are_no_error(tmp_path, state):
    save_file({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "w.safetensors")
    create_backbone("resnet18", weights_file=tmp_path / "w.safetensors")


def test_misfit_lists_keys_by_kind(tmp_path, state):
    bad = dict(state)
    del bad["conv1.weight"]
    bad["bn1.weight"] = torch.zeros(7)
    bad["extra.weight"] = torch.zeros(1)
    save_file(bad, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as error:
        create_backbone("resnet18", weights_file=tmp_path / "w.safetensors")
    text = str(error.value)
    assert "missing (1): conv1.weight" in text
    assert "unexpected (1): extra.weight" in text
    assert "wrong shape (1): bn1.weight (7,) instead of (64,)" in text
    assert "no well-known timm model" in text


def test_misfit_names_the_model_that_fits(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="the keys fit the timm model 'resnet18'"):
        create_backbone("resnet50", weights_file=tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_truncated_file(tmp_path, state, name):
    path = tmp_path / name
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="fetch it again"):
        create_backbone("resnet18", weights_file=path)


class Payload:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_pickled_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="running code.*save_file"):
        create_backbone("resnet18", weights_file=tmp_path / "w.pth")
    assert not Path("ran").exists()


def test_file_without_tensors(tmp_path):
    torch.save({"lr": 0.1}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no tensors: lr"):
        create_backbone("resnet18", weights_file=tmp_path / "w.pth")
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no state dict but list"):
        create_backbone("resnet18", weights_file=tmp_path / "w.pth")


def test_absent_file():
    with pytest.raises(WeightsError, match="no such file; check --backbone_weights"):
        create_backbone("resnet18", weights_file="nowhere.safetensors")


def test_vit_weights_are_resized_after_loading(tmp_path):
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    model, _ = create_backbone("vit_tiny_patch16_224", weights_file=tmp_path / "w.safetensors", input_shape=(3, 64, 64))
    assert model.pos_embed.shape == (1, 17, 192)
    assert torch.equal(model.blocks[0].attn.qkv.weight, whole.blocks[0].attn.qkv.weight)


def test_unreachable_weights_name_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(weights_module, "_reachable", lambda url: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    before = weights_module.huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(WeightsUnavailable, match="--backbone_weights FILE"):
        create_feature_extractor("test_resnet", device="cpu")
    assert before == weights_module.huggingface_hub.constants.HF_HUB_OFFLINE


def test_pretrained_and_file_exclude_each_other():
    with pytest.raises(ValueError, match="exclude"):
        create_backbone("resnet18", pretrained=True, weights_file="x")


@pytest.mark.skipif(not REAL.is_dir(), reason="no real weights here")
def test_real_weights_load_strictly():
    file = next(REAL.glob("mobilenetv2_100*.safetensors"))
    extractor = create_feature_extractor(
        "mobilenetv2_100", (3, 64, 64), 256, "cpu", layers=["blocks.2", "blocks.4"], weights=file
    )
    assert extractor.weights_origin == f"file {file.name}"
    assert extractor(torch.zeros(1, 3, 64, 64)).shape == (1, 8, 8, 256)
