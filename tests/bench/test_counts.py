"""The counts behind "% of floor", against what torch counts while the published arrangement runs."""

from __future__ import annotations

import pytest
import torch
from counts import FeatureMap, Flow, gaussian_front, mahalanobis, patch_pooling, pixel_maps, pooling_taps, smoothing
from published import PublishedFlow, published_model
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from moleflow_fast.config.ablation import AblationConfig
from moleflow_fast.models.mole_nf import MoLESpatialAwareNF

BASELINE = Flow(768, blocks=8, dia_blocks=4, rank=64)
DIA_ONLY = Flow(16, blocks=0, dia_blocks=4, rank=3)
FLOWS = [Flow(16, blocks=2, dia_blocks=3, rank=3), Flow(20, blocks=3, dia_blocks=1, rank=2, kernel=5), DIA_ONLY]
IMAGES, SIDE = 2, 3
TOKENS = IMAGES * SIDE**2


def model_of(flow: Flow, task_id: int) -> PublishedFlow:
    config = AblationConfig(
        dia_n_blocks=flow.dia_blocks, scale_context_kernel=flow.kernel, spatial_context_kernel=flow.kernel
    )
    model = MoLESpatialAwareNF(flow.dim, flow.blocks, lora_rank=flow.rank, ablation_config=config)
    for task in range(task_id + 1):
        model.add_task(task)
    if task_id > 0:
        model.requires_grad_(False)
        for parameter in model.get_fast_params(task_id):
            parameter.requires_grad_(True)
    return published_model(model)


def macs(counter: FlopCounterMode, convolutions: bool) -> float:
    counts = counter.get_flop_counts()["Global"]
    return sum(n for op, n in counts.items() if ("convolution" in str(op)) == convolutions) / 2


@pytest.mark.parametrize("flow", FLOWS)
def test_published_inference(flow: Flow) -> None:
    model = model_of(flow, 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(IMAGES, SIDE, SIDE, flow.dim))
    assert macs(counter, convolutions=True) == flow.depthwise_macs() * TOKENS
    assert macs(counter, False) + macs(counter, True) == flow.published_inference_macs(TOKENS)


@pytest.mark.parametrize("task_id", [0, 1])
@pytest.mark.parametrize("flow", FLOWS)
def test_published_training(flow: Flow, task_id: int) -> None:
    model = model_of(flow, task_id)
    with FlopCounterMode(display=False) as counter:
        z, logdet = model(torch.randn(IMAGES, SIDE, SIDE, flow.dim))
        (z.sum() + logdet.sum()).backward()
    depthwise = flow.depthwise_macs() * TOKENS * (3 if task_id == 0 else 2)
    assert macs(counter, False) == flow.published_training_macs(TOKENS, task_id == 0) - depthwise


def test_baseline_multiply_adds_of_a_token() -> None:
    assert BASELINE.base_macs() / 8 == 1_474_560
    assert BASELINE.permutation_macs() / 8 == 589_824
    assert BASELINE.lora_macs() / 8 == 319_488
    assert BASELINE.dia_macs() / 4 == 884_736
    products = BASELINE.base_macs() + BASELINE.dia_macs()
    assert 2 * products == pytest.approx(30.6e6, rel=0.005)
    tokens = 16 * 784
    forward = BASELINE.inference(tokens).macs
    assert BASELINE.training_step(tokens, base_trains=True).macs == pytest.approx(3 * forward, rel=0.01)
    assert 2.4 < BASELINE.training_step(tokens, base_trains=False).macs / forward < 2.8


@pytest.mark.parametrize("base_trains", [True, False])
def test_needed_is_less_than_published(base_trains: bool) -> None:
    tokens = 16 * 784
    needed = BASELINE.training_step(tokens, base_trains).macs
    assert needed < BASELINE.published_training_macs(tokens, base_trains)
    assert BASELINE.inference(tokens).macs < BASELINE.published_inference_macs(tokens)


def test_task_flow_alone_has_its_own_work_and_the_mixer() -> None:
    tokens, products = 100, 4 * 2 * 8 * (8 + 8 + 8)  # blocks, networks, hidden width, its inputs and outputs
    assert DIA_ONLY.inference(tokens).macs == tokens * (products + 9 * 16)
    step = DIA_ONLY.training_step(tokens, base_trains=False)
    assert step.macs == tokens * (3 * products + 2 * 9 * 16)
    kept = 4 * (4 * 8 + 2 * 8)  # blocks; hidden layers, x2 and log-scale
    assert step.bytes == 4 * ((2 + 8) * products + tokens * (16 + 2 * kept))


def test_narrow_operands_move_less_but_not_half() -> None:
    wide, narrow = (BASELINE.training_step(12_544, False, operand) for operand in (4, 2))
    assert narrow.macs == wide.macs
    assert wide.bytes / 2 < narrow.bytes < wide.bytes


def test_odd_width() -> None:
    flow = Flow(15, blocks=1, dia_blocks=2, rank=2)
    model = MoLESpatialAwareNF(15, 1, lora_rank=2, ablation_config=AblationConfig())
    model.add_task(0)
    weights = {n: p.numel() for n, p in model.named_parameters() if n.endswith("weight") and p.dim() == 2}
    assert sum(n for name, n in weights.items() if "base_linear" in name) == flow.base_macs()
    assert sum(n for name, n in weights.items() if name.startswith("dia")) == flow.dia_macs()


@pytest.mark.parametrize(("inputs", "outputs"), [(4608, 768), (288, 32), (45, 7), (9, 16)])
def test_pooling_taps(inputs: int, outputs: int) -> None:
    weights = F.adaptive_avg_pool1d(torch.eye(inputs), outputs)  # (inputs, outputs)
    assert pooling_taps(inputs, outputs) == int((weights != 0).sum())


def test_patch_pooling_grows_with_images() -> None:
    maps = [FeatureMap(512, 28, 28), FeatureMap(1024, 14, 14)]
    one, eight = patch_pooling(1, maps, 768), patch_pooling(8, maps, 768)
    assert eight == one * 8
    assert one.macs == 784 * 4608 + 196 * 9216 + 4 * 768 * 784
    assert one.bytes == 4 * (512 * 784 + 1024 * 196 + 768 * 784)


def test_smoothing_takes_two_passes_of_33_taps() -> None:
    assert smoothing(1, 224, 4.0).macs == 224 * 224 * 66
    assert smoothing(3, 224, 4.0).bytes == 3 * 2 * 4 * 224 * 224


def test_pixel_maps_take_two_matrices_where_that_is_cheaper() -> None:
    assert pixel_maps(1, (28, 28), 224, 4.0).macs == 28 * 28 * 224 + 28 * 224 * 224
    assert pixel_maps(1, (128, 128), 224, 4.0).macs == 224 * 224 * (4 + 66)


def test_fronts_take_a_triangle_and_two_passes_along_directions() -> None:
    work = gaussian_front(3, 2, 5, 7, 4)
    assert work.macs == 3 * 5 * (10 + 2 * 7 * 4)
    # Features in and out; of a task triangle, directions, gains, means and scales; positions.
    assert work.bytes == 4 * (2 * 3 * 5 * 4 + 2 * (10 + 5 * 7 * 4 + 5 * 7 + 5 * 4 + 5) + 5 * 4)


def test_distances_take_a_triangle_of_each_prototype() -> None:
    one = mahalanobis(1, 1, 4)
    assert (one.macs, one.bytes) == (10, 4 * (4 + 1 + 10 + 4))
    assert mahalanobis(3, 5, 4).macs == 15 * one.macs
