"""The program says what the detector says, whatever the method's switches, for batches that mix tasks."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export.small_detectors import DIM, make_detector, make_run, mixed_pictures
from flow_models import CONFIGS, FULL, PLAIN

from moleflow_fast.backend import use_backend
from moleflow_fast.config import AblationConfig
from moleflow_fast.config.switches import SCORE_AGGREGATION_MODES
from moleflow_fast.detector.detector import Detector
from moleflow_fast.evaluation.scorer import WORST_SCORE
from moleflow_fast.export import exporting, formats, runtimes
from moleflow_fast.export.parity import BATCHES, TRACED_BATCH, check, compare, of_detector
from moleflow_fast.export.program import OUTPUTS, DetectorProgram
from moleflow_fast.export.scores import ImageScores
from moleflow_fast.extractors import create_feature_extractor
from moleflow_fast.models.aggregation import image_scores
from moleflow_fast.run.run import Run

SWITCHES = {
    **CONFIGS,
    "spectral_norm": replace(PLAIN, use_spectral_norm=True),
    "separated_spectral": replace(PLAIN, use_spectral_norm=True, use_task_separated=True),
    "no_positions": replace(FULL, use_pos_embedding=False),
    "euclidean": replace(FULL, use_mahalanobis=False),
    "class_ledoit_wolf": replace(FULL, router_covariance="class_ledoit_wolf"),
    "pooled": replace(FULL, router_covariance="pooled"),
    "no_router": replace(FULL, use_router=False),
    "baseline": AblationConfig(
        use_lora=False, use_task_adapter=False, use_dia=False, use_spatial_context=False, use_scale_context=False
    ),
    "cluster": replace(FULL, score_aggregation_mode="spatial_cluster"),
    "top_k": replace(FULL, score_aggregation_mode="top_k"),
    "no_directions": replace(
        FULL, adapter_mode="gaussian", use_whitening_adapter=False, front_directions=0, use_dia=False
    ),
}
# Between them they have every module and every operation; the rest is the same graphs with fewer of them.
FRONTS = replace(FULL, adapter_mode="gaussian", use_whitening_adapter=False, front_directions=5)
SMALL = replace(FULL, use_dia=False, use_spatial_context=False)
TRACED = {
    "default": FULL,
    "separated_spectral": replace(
        PLAIN, use_spectral_norm=True, use_task_separated=True, use_dia=False, adapter_mode="whitening_no_ln",
        use_whitening_adapter=False, score_aggregation_mode="spatial_cluster", router_covariance="pooled",
    ),
    "gaussian": FRONTS,
    "full_layers_and_film": replace(
        PLAIN, use_regular_linear=True, use_dia=False, adapter_mode="soft_ln", use_whitening_adapter=False,
        spatial_context_mode="full", use_mahalanobis=False, score_aggregation_mode="mean",
    ),
}  # fmt: skip


def expected_of(detector: Detector, images: np.ndarray) -> list:
    answers = []
    for backend in ("auto", "eager"):
        detector._run.context.options = replace(detector._run.options, backend=backend)
        answers.append(of_detector(detector, images))
    return answers


def traced(run: Run, detector: Detector) -> torch.export.ExportedProgram:
    return formats.trace(DetectorProgram(run, detector))


def operators(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_configuration(name: str) -> None:
    run = make_run(SWITCHES[name])
    detector, images = make_detector(run), mixed_pictures(3)
    expected = expected_of(detector, images)
    assert set(expected[0]["task_id"]) == {0, 1, 2}
    with use_backend("eager"):
        checked = check("eager", runtimes.of_torch(DetectorProgram(run, detector)), images, expected, detector)
    assert checked.parity.score < 1e-5 and checked.parity.maps < 1e-5 and checked.parity.calibrated < 1e-4


@pytest.mark.parametrize("name", TRACED)
def test_graphs_for_any_batch(name: str) -> None:
    run = make_run(TRACED[name])
    detector, images = make_detector(run), mixed_pictures(3)
    program = traced(run, detector)
    assert TRACED_BATCH not in BATCHES and len(set(BATCHES)) > 1
    checked = check("torch", runtimes.of_torch(program.module()), images, expected_of(detector, images), detector)
    assert checked.parity.score < 1e-5 and checked.parity.maps < 1e-5
    assert not any(name.startswith("moleflow") for name in operators(program))


def test_the_task_flow_alone_behind_a_front(tmp_path: Path) -> None:
    run = make_run(FRONTS, num_coupling_layers=0)
    detector, images = make_detector(run), mixed_pictures(3)
    program, expected = traced(run, detector), expected_of(detector, images)
    formats.write_onnx(program, tmp_path / "front.onnx")
    for runtime in (runtimes.of_torch(program.module()), runtimes.onnxruntime(tmp_path / "front.onnx")):
        assert check("front", runtime, images, expected, detector).parity.score < 1e-5
    directions = 3 * 8 * 8 * 5 * DIM * 4  # bytes
    assert (tmp_path / "front.onnx").stat().st_size > directions  # which is what such a file is large of


@pytest.mark.parametrize("removed", [0, 1])
@pytest.mark.parametrize("separated", [False, True])
def test_a_removed_task_is_left_out(removed: int, separated: bool) -> None:
    run = make_run(replace(PLAIN, use_task_separated=separated))
    del run.moleflow.router.prototypes[removed]
    detector, images = make_detector(run), mixed_pictures(3)
    with use_backend("eager"):
        answers = runtimes.of_torch(DetectorProgram(run, detector))(images)
    assert set(answers["task_id"]) == {0, 1, 2} - {removed}
    assert compare(answers, of_detector(detector, images), detector).problems() == []


def test_a_single_task() -> None:
    run = make_run(tasks=1)
    detector, images = make_detector(run), mixed_pictures(1)
    program = traced(run, detector)
    answers = runtimes.of_torch(program.module())(images)
    assert answers["distances"].shape == (9, 1) and not answers["task_id"].any()
    assert compare(answers, of_detector(detector, images), detector).problems() == []


def test_answers_are_named_and_shaped_as_promised() -> None:
    run = make_run()
    detector, images = make_detector(run), mixed_pictures(3)
    with use_backend("eager"):
        answers = runtimes.of_torch(DetectorProgram(run, detector))(images)
    assert tuple(answers) == OUTPUTS
    shapes = {name: value.shape for name, value in answers.items()}
    assert shapes["score"] == shapes["calibrated"] == shapes["task_id"] == shapes["label"] == (9,)
    assert shapes["distances"] == (9, 3) and shapes["patch_map"] == (9, 8, 8) and shapes["pixel_map"] == (9, 24, 24)
    assert {str(answers[name].dtype) for name in ("task_id", "label")} == {"int64"}
    assert set(answers["label"]) == {0, 1, 2}


def test_the_wrong_expert_shows() -> None:
    """Else the tests above could not see one."""
    run = make_run()
    detector, images = make_detector(run), mixed_pictures(3)
    expected = of_detector(detector, images)
    program = DetectorProgram(run, detector)
    flow = program.flow.forward
    program.flow.forward = lambda x, places: flow(x, (places + 1) % 3)  # type: ignore[method-assign]
    with use_backend("eager"):
        found = compare(runtimes.of_torch(program)(images), expected, detector)
    assert found.score > 1e-2 and found.maps > 1e-2 and found.problems()


@pytest.mark.parametrize("broken", ["nan", "inf"])
def test_what_cannot_be_computed_is_most_anomalous(broken: str) -> None:
    run = make_run()
    with torch.no_grad():
        run.moleflow.flow.dia_adapters["1"].coupling_blocks[1].t_net.layers[-1].bias[0] = float(broken)
    detector, images = make_detector(make_run()), mixed_pictures(3)
    detector._run = run
    expected = of_detector(detector, images)
    with use_backend("eager"):
        answers = runtimes.of_torch(DetectorProgram(run, detector))(images)
    worst = answers["task_id"] == 1
    assert (answers["score"][worst] == np.float32(WORST_SCORE)).all() and np.isfinite(answers["pixel_map"]).all()
    assert (answers["score"][~worst] < 1e6).all()
    assert compare(answers, expected, detector).problems() == []


@pytest.mark.parametrize("mode", SCORE_AGGREGATION_MODES)
@pytest.mark.parametrize("fraction", [0.01, 0.9, 0.99, 1.0])
def test_scores_of_maps(mode: str, fraction: float) -> None:
    config = replace(
        FULL,
        score_aggregation_mode=mode,
        score_aggregation_percentile=fraction,
        cluster_high_score_percentile=fraction,
        score_aggregation_top_k_percent=fraction,
    )
    maps = torch.randn(6, 5, 7, generator=torch.Generator().manual_seed(2))
    maps[1, 2, 3] = maps[2] = torch.inf
    maps[3, 0, :3] = -torch.inf
    maps[4, 1, 1], maps[4, 1, 2] = torch.inf, -torch.inf
    with use_backend("eager"):
        torch.testing.assert_close(ImageScores(config, (5, 7))(maps), image_scores(maps, config))


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LARGEST_ONNX", 1000)
    run = make_run(SMALL, num_coupling_layers=1)
    detector, images = make_detector(run), mixed_pictures(3)
    made = tmp_path / "made" / "large.onnx"
    made.parent.mkdir()
    formats.write_onnx(traced(run, detector), made)
    formats.describe_onnx(made, {"moleflow.labels": "[]"})
    small, weights = (made.with_name(name).stat().st_size for name in ("large.onnx", "large.onnx.data"))
    assert weights > 1000 and small < 1_000_000
    moved = exporting._move(made.parent, tmp_path / "large.onnx")
    assert [file.name for file in moved] == ["large.onnx.data", "large.onnx"]
    shutil.rmtree(made.parent)
    answers = runtimes.onnxruntime(tmp_path / "large.onnx")(images)
    assert compare(answers, of_detector(detector, images), detector).problems() == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor compiles C++")
def test_compiled_code_says_the_same(tmp_path: Path) -> None:
    run = make_run(SMALL, num_coupling_layers=1)
    detector, images = make_detector(run), mixed_pictures(3)
    formats.write_aot(traced(run, detector), tmp_path / "small.pt2")
    runtime = runtimes.aot_package(tmp_path / "small.pt2")
    assert check("AOTInductor", runtime, images, expected_of(detector, images), detector).parity.score < 1e-5


@pytest.mark.parametrize("backbone", ["mobilenetv2_100", "wide_resnet50_2", "vit_tiny_patch16_224"])
def test_backbones(backbone: str) -> None:
    torch.manual_seed(3)
    extractor = create_feature_extractor(backbone, (3, 64, 64), DIM, "cpu", pretrained=False)
    run = make_run(SMALL, extractor=extractor, num_coupling_layers=1, img_size=64)
    detector, images = make_detector(run), mixed_pictures(3, 64)
    answers = runtimes.of_torch(traced(run, detector).module())(images)
    assert compare(answers, of_detector(detector, images), detector).problems() == []
