"""What a report says of measured runs: no winner inside the noise, signs, protocol, what is missing."""

from pathlib import Path

import numpy as np
import pytest
from report.reading import prose, table, under
from report.written_runs import BASELINE, CLASSES, PROTOCOL, figures, write_run

from moleflow_fast.cli.report import main
from moleflow_fast.report.document import Block, Caution, Code
from moleflow_fast.report.published_rows import published_figures
from moleflow_fast.report.sections.against_published import sign_of
from moleflow_fast.report.statistics import Difference
from moleflow_fast.report.write import build_report

EFFECTS = {
    "60ep-lr2e4-dia4": (0.0, 0.0),
    "DIA2": (0.03, -0.03),  # against both published signs
    "DIA8": (0.05, -0.05),  # with both
    "LoRA32": (0.0, 0.0),
    "Percentile95": (-0.04, 0.0),
    "Ablation-wo_DIA": (-0.02, -0.02),
}


def write_sweep(root: Path, *arguments: str, seeds: int = 3) -> Path:
    """Every effect ten times as large as the noise of a class, and LoRA32 without any."""
    draw = np.random.default_rng(7)
    for name, (image, pixel) in EFFECTS.items():
        for seed in range(seeds):
            noise = draw.normal(0, 0.003, (len(CLASSES), 2))
            found = {c: (0.9 + image + a, 0.4 + pixel + b) for c, (a, b) in zip(CLASSES, noise, strict=True)}
            write_run(root, found, "--preset", f"MVTec-WRN50-{name}", *PROTOCOL, *arguments, seed=seed)
    return root


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> list[Block]:
    return build_report([str(write_sweep(tmp_path_factory.mktemp("sweep")))])


def test_the_top_says_what_was_changed(report: list[Block]) -> None:
    top = prose(report[: next(i for i, b in enumerate(report) if getattr(b, "text", "") == "Overview")])
    assert "Not the published protocol" in top and "synthetic" not in top
    for line in (
        "epochs per task: 4 instead of 60",
        "image size in pixels: 128 instead of 224",
        "backbone: mobilenetv2_100 instead of wide_resnet50_2",
        "classes: bolt, cable, disc, gear, plate (5) instead of all classes of the data set",
        "data set: folder instead of mvtec",
    ):
        assert line in top


def test_the_demo_is_called_synthetic(tmp_path: Path) -> None:
    write_run(tmp_path, figures(0.9, 0.4), "--dataset", "demo")
    for language, word in (("en", "synthetic"), ("ko", "합성")):
        first = build_report([str(tmp_path)], language)[1]
        assert isinstance(first, Caution) and word in first.text


def test_the_published_protocol_is_no_departure(tmp_path: Path) -> None:
    published = ("--preset", BASELINE, "--img_size", "224", "--num_epochs", "60", "--backbone_name", "wide_resnet50_2")
    write_run(tmp_path, figures(0.9, 0.4), *published, "--dataset", "mvtec", "--task_classes", *CLASSES)
    text = prose(build_report([str(tmp_path)]))
    assert "classes: bolt" in text and "epochs per task" not in text and "data set: folder" not in text


def test_a_winner_outside_the_noise(report: list[Block]) -> None:
    assert "DIA8 is the best:" in prose(report, "Ranking by image AUROC")
    rows = table(report, "DIA blocks")
    assert rows["8"]["Verdict"] == "higher / lower"
    assert prose(report, "LoRA rank").count("every difference is within the noise") == 2
    assert table(report, "LoRA rank")["32"]["Verdict"] == "within the noise / within the noise"


def test_no_winner_inside_the_noise(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    for rank in ("16", "32", "128"):
        for seed in (0, 1, 2):
            noise = dict(zip(CLASSES, 0.9 + draw.normal(0, 0.01, (len(CLASSES), 2)), strict=True))
            write_run(tmp_path, noise, "--lora_rank", rank, seed=seed, name=f"{rank}-{seed}")
    blocks = build_report([str(tmp_path)])
    ranking = prose(blocks, "Ranking by image AUROC")
    assert "is the best:" not in ranking and "within the noise of 2 others" in ranking and "no winner" in ranking
    assert "within the noise" in prose(blocks, "For pixel AP") + prose(blocks, "For image AUROC")
    assert prose(blocks, "Settings to avoid").endswith("None.")
    assert "LoRA rank" in prose(blocks, "Settings without measurable influence")


def test_one_seed_is_no_winner(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=1)
    blocks = build_report([str(tmp_path)])
    assert "whether it is the best cannot be said" in prose(blocks, "Ranking by image AUROC")
    assert "chosen by means alone" in prose(blocks, "For image AUROC")


def test_importance_and_what_to_avoid(report: list[Block]) -> None:
    assert table(report, "Component ablation")["DIA"]["Importance"].count("\u2605") == 4
    avoid = prose(report, "Settings to avoid")
    assert "percentile=0.95" in avoid and "DIA blocks" not in avoid


def test_recommended_command_lines(report: list[Block]) -> None:
    best, precise = (
        next(block.text for block in under(report, heading) if isinstance(block, Code))
        for heading in ("For image AUROC", "For pixel AP")
    )
    assert "--dia_n_blocks 8" in best and "--num_epochs 4" in best and best.endswith("--data_path DIR")
    assert "--seed" not in best and "parts" not in best and "dia_n_blocks 8" not in precise


def test_published_beside_measured(report: list[Block]) -> None:
    rows = table(report, "Published against measured")
    two, eight, same = rows["DIA2"], rows["DIA8"], rows["LoRA32"]
    signs = {name: [cell for cell in row.values() if cell in ("agrees", "disagrees", "within the noise")]
             for name, row in (("two", two), ("eight", eight), ("same", same))}  # fmt: skip
    assert set(signs["two"]) == {"disagrees"} and set(signs["eight"]) == {"agrees"}
    assert set(signs["same"]) == {"within the noise"}
    assert two["image AUROC, published"] == f"{published_figures('MVTec-WRN50-DIA2')['image_auroc']:.4f}"
    counts = prose(report, "Published against measured").splitlines()
    assert counts[0].startswith("Sign of the difference in image AUROC: agrees 3, disagrees 1, within the noise 1,")


def test_a_preset_that_the_protocol_makes_the_baseline_is_not_compared(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    write_run(tmp_path, figures(0.9, 0.4), "--preset", "MVTec-WRN50-80ep", *PROTOCOL, seed=9)
    blocks = build_report([str(tmp_path)])
    assert "MVTec-WRN50-80ep" in prose(blocks, "Published against measured").splitlines()[-1]
    assert "80ep" not in table(blocks, "Published against measured")


def test_presets_that_become_the_baseline_leave_the_others_comparable(tmp_path: Path) -> None:
    write_sweep(tmp_path, "--dia_n_blocks", "2")  # so DIA2 and DIA8 are the baseline too
    text = prose(build_report([str(tmp_path)]), "Published against measured")
    assert "Not compared" not in text and "agrees 2" in text
    assert "DIA8-seed0: same configuration and seed as" in prose(
        build_report([str(tmp_path)]), "Repeated runs, left out"
    )


@pytest.mark.parametrize(
    ("published", "measured", "sign"),
    [
        (0.1, Difference(0.1, 0.05, 0.15), "agrees"),
        (-0.1, Difference(-0.1, -0.15, -0.05), "agrees"),
        (-0.1, Difference(0.1, 0.05, 0.15), "disagrees"),
        (0.1, Difference(0.1, -0.05, 0.15), "noise"),
        (0.0, Difference(0.1, 0.05, 0.15), "equal"),
        (0.1, Difference(0.1), "no_interval"),
        (0.1, None, "no_interval"),
    ],
)
def test_signs(published: float, measured: Difference | None, sign: str) -> None:
    assert sign_of(published, measured) == sign


def test_time_is_the_mean_over_seeds_the_longest_phase_first(report: list[Block]) -> None:
    rows = table(report, "Where the time goes")
    assert list(rows) == ["training", "decoding", "imports", "everything else"]
    assert rows["training"] == {"phase": "training", "seconds": "21.0", "share": "70.00%"}  # of seeds 0 to 2
    assert "30.0 s" in prose(report, "Where the time goes")


def test_classes_forgetting_and_routing(report: list[Block]) -> None:
    rows = table(report, "Per class")
    assert list(rows) == list(CLASSES) and rows["bolt"]["routing accuracy, baseline"] == "1.0000"
    lost = table(report, "Forgetting per task")
    assert lost["0"]["forgetting measure"] == "+0.0100" and lost["DIA8"]["BWT"] == "-0.0100"
    # 45 images on the diagonal and 0 + 4*0 + 4*1 + 4*1 + 4*2 beside it, under every seed.
    assert f"{45 / (45 + 16):.2%}" in prose(report, "Routing") and "3 seeds" in prose(report, "Routing")


def test_what_is_missing_says_what_to_run(tmp_path: Path) -> None:
    write_run(tmp_path, {"alone": (0.9, 0.4)}, "--preset", BASELINE)
    blocks = build_report([str(tmp_path)])
    for heading, hint in {
        "Ranking by image AUROC": "run others on the same data",
        "Hyper-parameters, one at a time": "with one option changed",
        "Component ablation": "--no_dia",
        "Combinations": "two options changed",
        "Forgetting per task": "at least two tasks",
        "Published against measured": "--preset NAME",
        "Recommended configurations": "at least two configurations",
    }.items():
        assert hint in prose(blocks, heading), heading


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", figures(0.9, 0.4), name="mine")
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "-o", str(out), "--lang", "ko", "--baseline", "mine"]) == 0
    assert capsys.readouterr().out == f"written to {out / 'report.html'} and {out / 'report.md'}\n"
    assert '<html lang="ko">' in (out / "report.html").read_text() and "기준 설정" in (out / "report.md").read_text()
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "file")]) == 1
    assert "choose another -o" in capsys.readouterr().err
