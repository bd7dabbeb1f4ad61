"""Extractors on real timm models with random weights."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from torch import nn

from moleflow_fast.extractors import (
    CNNPatchCoreExtractor,
    PatchCoreExtractor,
    ViTPatchCoreExtractor,
    cnn_extractor,
    create_feature_extractor,
    default_embed_dim,
    default_layers,
    get_backbone_type,
    high_res_layers,
    is_cnn_backbone,
    is_vit,
    is_vit_backbone,
    vit_extractor,
)
from moleflow_fast.extractors.batch_norms import settle_batch_norms
from moleflow_fast.ops.patch_pool import patch_pool_reference

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def make(name="resnet18", size=64, **options):
    options.setdefault("target_embed_dimension", 32)
    return create_feature_extractor(name, (3, size, size), device="cpu", pretrained=False, **options)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (8, 8, 32)),
        ("mobilenetv2_100", (8, 8, 32)),
        ("convnext_atto", (8, 8, 32)),
        ("regnety_002", (8, 8, 32)),
        ("vit_tiny_patch16_224", (4, 4, 32)),
    ],
)
def test_shapes_and_both_levels(name, shape):
    extractor = make(name)
    features, grid = extractor(IMAGES, return_spatial_shape=True)
    assert features.shape == (3, *shape)
    assert grid == shape[:2]
    assert extractor.embed_dim == shape[2]
    patches, pooled = extractor.features_with_image_level(IMAGES)
    assert torch.equal(patches, features)
    assert torch.equal(extractor.get_image_level_features(IMAGES), pooled)
    torch.testing.assert_close(pooled, features.mean((1, 2)))
    assert torch.isfinite(features).all()


def test_one_backbone_pass_gives_both_levels():
    extractor = make()
    passes = []
    extractor.backbone.conv1.register_forward_hook(lambda *_: passes.append(1))
    extractor.features_with_image_level(IMAGES)
    assert len(passes) == 1


def test_cnn_features_are_those_of_the_whole_model():
    extractor = make("resnet18")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = timm.create_model("resnet18", num_classes=0)
        settle_batch_norms(whole, 3)
    whole.eval()
    with torch.no_grad():
        x = whole.layer1(whole.maxpool(whole.act1(whole.bn1(whole.conv1(IMAGES)))))
        layer2 = whole.layer2(x)
        expected = patch_pool_reference([layer2, whole.layer3(layer2)], 32, (8, 8))
    torch.testing.assert_close(extractor(IMAGES), expected, rtol=1e-4, atol=1e-5)
    assert not list(extractor.backbone.layer4.parameters())  # never needed, so not kept


def test_a_vit_is_projected_block_by_block():
    extractor = make("vit_tiny_patch16_224", blocks_to_extract=[2, 5])
    outputs = [output[:, 1:] for output in extractor._capture(IMAGES)]  # (B, T, 192), no class token
    layers = extractor.projections
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(192, 32)] * 2
    assert not torch.equal(layers[0].weight, layers[1].weight)
    for layer in layers:  # as nn.Linear draws them: even within 1 / sqrt(192)
        assert 0.98 * 192**-0.5 < layer.weight.abs().max() <= 192**-0.5
        assert layer.weight.mean().abs() < 2e-3 and not layer.weight.requires_grad
    expected = sum(output @ layer.weight.T + layer.bias for output, layer in zip(outputs, layers, strict=True)) / 2
    torch.testing.assert_close(extractor(IMAGES), expected.reshape(3, 4, 4, 32), rtol=1e-5, atol=1e-5)
    again = make("vit_tiny_patch16_224", blocks_to_extract=[2, 5])
    assert torch.equal(again.projections[1].weight, layers[1].weight)
    own = make("vit_tiny_patch16_224", blocks_to_extract=[2, 5], target_embed_dimension=192)
    assert len(own.projections) == 0 and own(IMAGES).shape == (3, 4, 4, 192)


def test_the_published_constructors(monkeypatch):
    for module in (cnn_extractor, vit_extractor):
        create = module.create_backbone
        monkeypatch.setattr(
            module, "create_backbone", lambda name, create=create, **shape: create(name, pretrained=False, **shape)
        )
    cnn = CNNPatchCoreExtractor("resnet18", input_shape=(3, 64, 64), target_embed_dimension=24, device="cpu")
    assert cnn.layers == ("layer2", "layer3") and cnn(IMAGES).shape == (3, 8, 8, 24)
    vit = ViTPatchCoreExtractor("vit_tiny_patch16_224", [1, 3], (3, 64, 64), 24, "cpu")
    assert vit.blocks == (1, 3) and vit(IMAGES).shape == (3, 4, 4, 24) and vit.target_embed_dimension == 24
    for extractor in (cnn, vit):
        assert torch.equal(extractor.get_flatten_embeddings(IMAGES), extractor(IMAGES).reshape(-1, 24))
    assert PatchCoreExtractor is CNNPatchCoreExtractor
    assert (get_backbone_type("resnet18"), get_backbone_type("vit_tiny_patch16_224")) == ("cnn", "vit")
    assert is_cnn_backbone("convnext_atto") and is_vit_backbone("deit_tiny_patch16_224")


def test_vit_features_are_the_mean_of_block_outputs():
    extractor = make("deit_tiny_distilled_patch16_224", blocks_to_extract=[0, 2], target_embed_dimension=None)
    outputs = []
    for block in (0, 2):
        extractor.backbone.blocks[block].register_forward_hook(lambda _, __, y: outputs.append(y))
    features = extractor(IMAGES)
    expected = ((outputs[0] + outputs[1]) / 2)[:, 2:]  # class and distillation token
    torch.testing.assert_close(features, expected.reshape(3, 4, 4, 192))


def test_vit_with_registers_and_without_square_images():
    extractor = create_feature_extractor(
        "vit_small_patch14_reg4_dinov2", (3, 56, 84), None, device="cpu", pretrained=False, blocks_to_extract=[1]
    )
    assert extractor(torch.zeros(1, 3, 56, 84)).shape == (1, 4, 6, 384)
    assert extractor.num_prefix_tokens == 5


def test_channels_last_outputs():
    extractor = make("swin_tiny_patch4_window7_224", size=224, layers=["layers.1", "layers.2"])
    captured = []
    extractor.backbone.layers[1].register_forward_hook(lambda _, __, y: captured.append(y))
    assert extractor(torch.zeros(1, 3, 224, 224)).shape == (1, 28, 28, 32)
    assert captured[0].shape == (1, 28, 28, 192)


def test_named_layers_and_high_resolution():
    extractor = make("resnet18", layers=high_res_layers("resnet18"))
    assert extractor.layers == ("layer1", "layer2", "layer3")
    assert extractor(IMAGES).shape == (3, 16, 16, 32)


def test_layer_errors_list_candidates():
    with pytest.raises(ValueError, match=r"no such layers: 'layer9'.*layer1.*layer2"):
        make(layers=["layer9"])
    with pytest.raises(ValueError, match=r"layers=\[\.\.\.\].*candidates.*patch_embed"):
        make("cait_xxs24_224", size=224)
    with pytest.raises(ValueError, match="not a feature map"):
        make("cait_xxs24_224", size=224, layers=["blocks.0"])(torch.zeros(1, 3, 224, 224))
    with pytest.raises(ValueError, match="does not run"):
        make(layers=["fc"])


def test_vit_errors():
    with pytest.raises(ValueError, match="blocks 0 to 11"):
        make("vit_tiny_patch16_224", blocks_to_extract=[12])
    with pytest.raises(ValueError, match="no place"):
        make("vit_tiny_patch16_224", remove_cls_token=False)
    with pytest.raises(ValueError, match="is a ViT"):
        make("vit_tiny_patch16_224", layers=["blocks.1"])


def test_unknown_backbone_names_near_ones():
    with pytest.raises(ValueError, match="no model 'resnet19'.*resnet18"):
        make("resnet19")


def test_family_defaults():
    assert default_layers("wide_resnet50_2") == ("layer2", "layer3")
    assert default_layers("efficientnet_b5") == ("blocks.2", "blocks.4")
    assert default_layers("mobilenetv2_100") == ("blocks.2", "blocks.4")
    assert default_layers("convnext_base") == ("stages.1", "stages.2")
    assert default_layers("regnety_032") == ("s2", "s3")
    assert high_res_layers("wide_resnet50_2.tv_in1k") == ("layer1", "layer2", "layer3")
    assert default_embed_dim("wide_resnet50_2") == default_embed_dim("resnet18") == 768
    wide = ["wide_resnet101_2", "tf_efficientnet_b6", "efficientnet_b7", "convnext_base", "convnext_large"]
    assert {default_embed_dim(name) for name in wide} == {1024}
    assert default_embed_dim("vit_tiny_patch16_224") == 192
    assert is_vit("vit_base_patch16_224.augreg_in21k")
    assert not is_vit("wide_resnet50_2")


def test_frozen_and_in_eval_mode():
    extractor = make()
    extractor.train()
    assert not any(m.training for m in extractor.modules())
    assert not any(p.requires_grad for p in extractor.parameters())
    features = extractor(IMAGES)
    assert not features.requires_grad
    head = nn.Linear(32, 1)
    head(features).sum().backward()  # ordinary tensors: they may enter a graph
    assert head.weight.grad is not None


def test_random_backbone_is_the_same_and_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    first, second = make(), make()
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.fingerprint() == second.fingerprint()
    assert first.weights_origin == "random (seed 0)"


def test_fingerprint_follows_recipe_and_weights():
    extractor = make()
    prints = {extractor.fingerprint()}
    prints |= {make(layers=["layer2"]).fingerprint(), make(patch_size=5).fingerprint()}
    prints |= {make(target_embed_dimension=16).fingerprint(), make("resnet34").fingerprint()}
    prints |= {extractor.double().fingerprint()}
    extractor.float()
    assert extractor.fingerprint() in prints
    with torch.no_grad():
        extractor.backbone.layer1[0].conv1.bias[3] += 1e-6
    prints |= {extractor.fingerprint()}
    assert len(prints) == 7


def test_two_threads_extract_as_one_after_the_other() -> None:
    extractor = make()
    images = [IMAGES, IMAGES.flip(0) + 1]
    alone = [extractor(batch) for batch in images]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda i: extractor(images[i % 2]), range(20)))
    assert all(torch.equal(result, alone[i % 2]) for i, result in enumerate(results))


def test_tail_is_kept_where_a_model_needs_it():
    class Peculiar(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)
            self.last = nn.Conv2d(4, 5, 1)

        def forward(self, x):
            y = self.last(self.first(x))
            return y * self.last.weight.mean()

    model = Peculiar().eval()
    last = model.last
    CNNPatchCoreExtractor("peculiar", ["first"], (3, 16, 16), target_embed_dimension=8, device="cpu", backbone=model)
    assert model.last is last


def test_types():
    assert isinstance(make(), CNNPatchCoreExtractor)
    assert isinstance(make("vit_tiny_patch16_224"), ViTPatchCoreExtractor)
