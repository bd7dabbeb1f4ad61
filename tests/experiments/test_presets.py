"""Published experiments by name: every row parses to the settings its name tells of, explicit options win."""

import re

import pytest

from moleflow_fast.config.known_bad import known_bad
from moleflow_fast.config.options import RunOptions
from moleflow_fast.config.presets import METRICS, get_preset, listing, matching, presets
from moleflow_fast.run.asked import parse_options

UNKNOWN = ("MVTec-WRN50-GlobalContext", "MVTec-WRN50-SemanticProj", "MVTec-WRN50-TAPE")
RUNNABLE = [name for name, preset in presets().items() if preset.options]


def options(name: str, *more: str) -> RunOptions:
    return parse_options(["--preset", name, "--data_path", "images", *more])


def test_all_published_rows_are_there() -> None:
    rows = [p for p in presets().values() if p.source == "results table"]
    assert len(rows) == 175 and len(presets()) == 185
    assert [name for name, preset in presets().items() if not preset.options] == list(UNKNOWN)


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_row_does_what_its_name_says(name: str) -> None:
    chosen = options(name)
    ablation = chosen.ablation
    assert chosen.preset == name and chosen.run_name == f"{name}-seed{chosen.seed}"
    said = {
        r"-(?:DIA|DIA-Only-DIA)(\d+)": ablation.dia_n_blocks,
        r"-(?:LoRA)(\d+)": chosen.lora_rank,
        r"(?:Coupling|MoLE|-C|NCL)(\d+)(?:-|$)": chosen.num_coupling_layers,
        r"-(\d+)ep": chosen.num_epochs,
        r"lr-?(\d)e-?\d": round(chosen.lr * 10 ** -int(f"{chosen.lr:.0e}"[-3:])),
        r"TailW(\d\.\d+)": ablation.tail_weight,
        r"TailTopK(\d+)": 100 * ablation.tail_top_k_ratio,
        r"-TopK(\d+)": ablation.score_aggregation_top_k,
        r"(?:ScaleCtxK|ScaleK)(\d)": ablation.scale_context_kernel,
        r"SpatialCtxK(\d)": ablation.spatial_context_kernel,
        r"Log[dD]et(?:Reg)?(\de-\d)": ablation.lambda_logdet,
    }
    for pattern, value in said.items():
        found = re.findall(pattern, name)
        if found:
            assert any(float(text) == pytest.approx(value) for text in found), (pattern, found, value)
    assert ablation.use_tail_aware_loss == ("woTailLoss" not in name)
    assert ablation.use_lora == (not re.search(r"wo_?(LoRA|MoLESubnet)", name))
    assert ablation.use_dia == (not re.search("wo_DIA|MoLE-Only", name))
    assert chosen.dataset == next((d for d in ("visa", "mpdd") if d in name.lower()), "mvtec")


def test_the_baseline() -> None:
    preset = get_preset("MVTec-WRN50-60ep-lr2e4-dia4")
    assert preset.published == dict(zip(METRICS, (0.9793, 0.9736, 0.4735, 100.0), strict=True))
    chosen = options(preset.name)
    assert (chosen.num_epochs, chosen.lr, chosen.num_coupling_layers, chosen.lora_rank) == (60, 2e-4, 8, 64)
    assert (chosen.ablation.dia_n_blocks, chosen.ablation.lambda_logdet) == (4, 1e-5)


def test_options_beside_a_preset_win() -> None:
    chosen = options("MVTec-WRN50-DIA8", "--dia_n_blocks", "3", "--dataset", "folder", "--seed", "4")
    assert (chosen.ablation.dia_n_blocks, chosen.dataset, chosen.seed) == (3, "folder", 4)
    assert options("MVTec-WRN50-DIA8", "--experiment_name", "mine").run_name == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MVTec-WRN50-DIA9", r"unknown preset 'MVTec-WRN50-DIA9'; near it: MVTec-WRN50-DIA\d.*--list_presets"),
        ("MVTec-WRN50-TAPE", "cannot be repeated: a module of its own"),
    ],
)
def test_presets_that_cannot_run(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        options(name)
    assert stop.value.code == 2 and re.search(message, capsys.readouterr().err)


def test_listing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_options(["--list_presets", "logdetreg1e-4-dia*"])
    assert stop.value.code == 2  # a pattern is of the whole name
    with pytest.raises(SystemExit) as stop:
        parse_options(["--list_presets", "*logdetreg1e-4-dia*"])
    line = "0.9832      0.9755   0.4940  100.00%  MVTec-WRN50-LogdetReg1e-4-DIA6-lr3e-4\n"
    assert stop.value.code == 0 and line in capsys.readouterr().out
    assert len(matching("v6")) == 3 and len(matching(None)) == 185 + 2  # ours
    assert "inferred: " in listing(matching("wo_DIA")) and "section 4" in listing(matching("wo_router"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MVTec-WRN50-Coupling16", "num_coupling_layers 16"),
        ("MVTec-WRN50-Percentile95", "lost .0228"),
        ("MVTec-WRN50-TailW0.1", "tail_weight 0.1"),
        ("MVTec-WRN50-60ep-lr2e4-dia4", ""),
        ("MVTec-WRN50-Coupling12", ""),
    ],
)
def test_known_bad_settings_warn(name: str, said: str) -> None:
    warnings = known_bad(options(name))
    assert (len(warnings) == 1 and said in warnings[0]) if said else warnings == []


def test_depth_behind_a_front_is_not_known_bad() -> None:
    assert known_bad(options("MVTec-WRN50-Coupling16", "--adapter_mode", "gaussian")) == []
