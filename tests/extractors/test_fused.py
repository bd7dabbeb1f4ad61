"""A backbone as a graph of fused operators: the features of its modules, one operator a convolution."""

import logging
from collections.abc import Callable

import pytest
import torch
from launches import Launches
from torch import Tensor, nn

from moleflow_fast.backend import use_backend
from moleflow_fast.data.normalization import normalized
from moleflow_fast.extractors import CNNPatchCoreExtractor, create_feature_extractor
from moleflow_fast.extractors.capture import LayerCapture
from moleflow_fast.extractors.fused import FusedGraph, FusedLayers, fuse
from moleflow_fast.ops.stem import blocks_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Convolutions up to the last named layer; a ReLU or a sum after one is fused wherever nothing else reads between.
CONVOLUTIONS = {"resnet18": 15, "wide_resnet50_2": 43}


def make(name: str, dtype: torch.dtype = torch.float32) -> CNNPatchCoreExtractor:
    extractor = create_feature_extractor(name, (3, 64, 64), 96, device=DEVICE, pretrained=False)
    assert isinstance(extractor, CNNPatchCoreExtractor)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for conv in extractor.backbone.modules():  # random networks have no bias that counts
            if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                conv.bias.copy_(torch.randn(conv.bias.shape, generator=generator) / 4)
    return extractor.to(dtype)


def random_images(dtype: torch.dtype = torch.float32, batch: int = 3) -> Tensor:
    images = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return images.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def fused(extractor: CNNPatchCoreExtractor) -> FusedGraph:
    with use_backend("triton"):
        found = extractor.fused()
    assert found is not None
    return found


def largest(difference: Tensor, of: Tensor) -> float:
    return float(difference.double().abs().max() / of.double().abs().max())


@pytest.mark.parametrize(
    "name", ["resnet26", "resnext26ts", "resnet26d", "regnety_002", "densenet121", "mobilenetv2_050"]
)
@torch.no_grad()
def test_layers_stay_the_same(name: str) -> None:
    layers = {"layers": ["features.denseblock2"]} if name == "densenet121" else {}
    extractor = create_feature_extractor(name, (3, 64, 64), 96, device=DEVICE, pretrained=False, **layers).double()
    images = random_images(torch.float64)
    with use_backend("triton"):
        outputs = fused(extractor)(images)
    for actual, expected in zip(outputs, extractor._capture(images), strict=True):
        assert largest(actual - expected, of=expected) < 1e-12


@pytest.mark.parametrize("name", CONVOLUTIONS)
@torch.no_grad()
def test_one_operator_a_convolution(name: str) -> None:
    extractor, images = make(name), random_images()
    graph = fused(extractor)
    filled = torch.cat([images, images[:, :1] * 0], 1).contiguous(memory_format=torch.channels_last)
    with use_backend("triton"), Launches() as launches:
        graph.graph(filled)
    assert launches.counts == {"moleflow::convolution": CONVOLUTIONS[name], "_max_pool": 1}
    outputs = zip(graph(images), extractor._capture(images), strict=True)
    assert all(largest(actual - expected, of=expected) < 1e-4 for actual, expected in outputs)


@torch.no_grad()
def test_half_precision_takes_images_in_blocks() -> None:
    images = random_images(torch.float16)
    graph, blocks = fused(make("resnet18", torch.float16)), blocks_of(images)
    with use_backend("triton"), Launches() as launches:
        graph.graph(blocks)
    assert launches.counts == {"_stem": 1, "moleflow::convolution": 14, "_max_pool": 1}


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
@torch.no_grad()
def test_half_precision(dtype: torch.dtype, bound: float) -> None:
    exact, narrow = make("resnet18"), make("resnet18", dtype)
    images = random_images()
    for backend in ("eager", "triton"):
        with use_backend(backend):
            assert (narrow.fused() is not None) == (backend == "triton")
            features = narrow(images)
        assert features.dtype == torch.float32
        distances = (features - exact(images)).norm(dim=-1) / exact(images).norm(dim=-1)
        assert 0 < float(distances.max()) < bound


@pytest.mark.parametrize(
    ("name", "dtype"), [("resnet18", torch.float32), ("resnet18", torch.float16), ("regnety_002", torch.float16)]
)
def test_bytes_are_what_they_are_normalised_to(name: str, dtype: torch.dtype) -> None:
    """Blocks of pixels for a first convolution of 7 x 7 in half precision, else pixels that are filled up."""
    extractor = make(name, dtype)
    assert (fused(extractor).channels is None) == (name == "resnet18" and dtype == torch.float16)
    pixels = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    for laid_out in (pixels, pixels.contiguous(memory_format=torch.channels_last)):
        with use_backend("triton"):
            assert torch.equal(extractor(laid_out), extractor(normalized(laid_out.to(DEVICE))))
        with use_backend("eager"):
            assert torch.equal(extractor(laid_out), extractor(normalized(laid_out)))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_image_that_is_not_finite_stays_so_and_alone(value: float) -> None:
    extractor, images = make("resnet18"), random_images()
    with use_backend("triton"):
        expected = extractor(images)
        images[1, 2, 3, 4] = value
        features = extractor(images)
    assert not features[1].isfinite().any()
    assert torch.equal(features[::2], expected[::2])


def test_modules_hash_and_state_stay_as_they_are() -> None:
    extractor = make("resnet18")
    before, names = extractor.fingerprint(), [*extractor.state_dict()]
    fused(extractor)
    assert extractor.fingerprint() == before and [*extractor.state_dict()] == names


def test_only_beside_triton_kernels() -> None:
    for backend in ("eager", "auto"):
        with use_backend(backend):
            assert make("resnet18").fused() is None


def test_made_once_and_anew_for_other_weights() -> None:
    extractor, images = make("resnet18"), random_images()
    first = fused(extractor)
    assert fused(extractor) is first
    with torch.no_grad():
        extractor.backbone.conv1.weight.mul_(2)
    second = fused(extractor)
    assert second is not first
    with use_backend("triton"):
        features = extractor(images)
    with use_backend("eager"):
        assert largest(features - extractor(images), of=features) < 1e-4
    assert fused(extractor.half()) is not second


def capture_of(forward: Callable[[nn.Module, Tensor], Tensor], names: list[str], **parts: nn.Module) -> LayerCapture:
    kind = type("Model", (nn.Module,), {"forward": forward})
    model = kind()
    for name, part in parts.items():
        model.add_module(name, part)
    return LayerCapture(model.eval().requires_grad_(False), names)


def conv(inputs: int = 4, outputs: int = 4, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


PROBE = torch.randn(1, 4, 6, 7, generator=torch.Generator().manual_seed(4))
CASES = {
    "what is between is named": (
        lambda m, x: m.last(m.act(m.a(x))), ["a", "last"], {"a": conv(), "act": nn.ReLU(), "last": conv()}, 2,
    ),
    "what is between is read again": (
        lambda m, x: m.last(y.relu() * y) if (y := m.a(x)) is not None else x, ["last"], {"a": conv(), "last": conv()},
        2,
    ),
    "a sum of different shapes": (
        lambda m, x: m.last((m.a(x) + m.b(x.mean((2, 3), keepdim=True))).relu()), ["last"],
        {"a": conv(), "b": nn.Conv2d(4, 4, 1), "last": conv()}, 3,
    ),
    "a sum in place, the convolution second": (
        lambda m, x: m.last(m.act(x.clone().add_(0).__iadd__(m.a(x)))), ["last"],
        {"a": conv(), "act": nn.ReLU(inplace=True), "last": conv()}, 2,
    ),
    "a branch without bias": (
        lambda m, x: m.last(torch.relu(m.a(x) + m.b(x))), ["last"],
        {"a": conv(bias=False), "b": conv(bias=True), "last": conv()}, 3,
    ),
    "padding that is not zeros": (
        lambda m, x: m.last(m.a(x).relu()), ["last"],
        {"a": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "last": conv()}, 1,
    ),
    "one convolution twice": (
        lambda m, x: m.last(m.a(m.a(x).relu()).relu()), ["last"], {"a": conv(), "last": conv()}, 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("forward", "names", "parts", "count"), CASES.values(), ids=CASES)
@torch.no_grad()
def test_shapes_of_models(forward, names, parts, count) -> None:  # type: ignore[no-untyped-def]
    capture = capture_of(forward, names, **parts)
    graph = fuse(capture, PROBE)
    for actual, expected in zip(graph(PROBE), capture(PROBE), strict=True):
        torch.testing.assert_close(actual, expected)
    assert sum("convolution" in str(n.target) for n in graph.graph.graph.nodes) == count


@torch.no_grad()
def test_what_cannot_be_traced_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    capture = capture_of(lambda m, x: m.a(x) if x.sum() > 0 else x, ["a"], a=conv())
    layers = FusedLayers(capture, "a model that looks", PROBE)
    with caplog.at_level(logging.WARNING):
        assert [layers.current() for _ in range(3)] == [None] * 3
    (line,) = caplog.messages
    assert "a model that looks runs unfused" in line and "TraceError" in line


@torch.no_grad()
def test_features_that_would_be_others_are_not_taken(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = capture_of(lambda m, x: m.a(x), ["a"], a=conv())
    other = fuse(capture_of(lambda m, x: m.a(x), ["a"], a=conv()), PROBE)
    monkeypatch.setattr("moleflow_fast.extractors.fused.fuse", lambda *_: other)
    assert FusedLayers(capture, "a model", PROBE).current() is None
    (line,) = caplog.messages
    assert "a model runs unfused" in line and "others" in line
