"""Which runs are one configuration, what it is called, and what it is compared with."""

from pathlib import Path

import pytest
from report.written_runs import BASELINE, PROTOCOL, PUBLISHED, figures, write_run

from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.report.command_line import command_line
from moleflow_fast.report.configurations import Group, group_runs
from moleflow_fast.report.factors import departures, effective_options
from moleflow_fast.report.published_rows import options_of_presets
from moleflow_fast.report.runs import find_runs
from moleflow_fast.report.sections.combinations import single_parts, sum_of_parts, surplus
from moleflow_fast.report.sections.components import stars
from moleflow_fast.report.sections.recommendations import balanced
from moleflow_fast.report.sections.trade_off import pareto_front
from moleflow_fast.run.asked import parse_options

FULL = figures(0.9, 0.4)


def group(root: Path, baseline: str | None = None) -> Group:
    return group_runs(find_runs([str(root)]).runs, baseline).groups[0]


def names(found: Group) -> dict[str, list[int]]:
    return {c.name: c.seeds for c in found.configurations}


def options(*arguments: str) -> RunOptions:
    return parse_options([*PUBLISHED, *PROTOCOL, *arguments])


def test_runs_of_one_configuration_differ_by_seed_and_place_only(tmp_path: Path) -> None:
    write_run(tmp_path, FULL, "--preset", BASELINE, seed=1)
    write_run(tmp_path, FULL, "--preset", BASELINE, "--data_path", "elsewhere", "--device", "cpu", seed=0)
    write_run(tmp_path, FULL, "--preset", "MVTec-WRN50-DIA6")
    assert names(group(tmp_path)) == {"60ep-lr2e4-dia4": [0, 1], "DIA6": [0]}


def test_names_by_what_departs_from_the_baseline(tmp_path: Path) -> None:
    write_run(tmp_path, FULL, "--preset", BASELINE)
    write_run(tmp_path, FULL, "--preset", "MVTec-WRN50-DIA6", "--lr", "0.0003", name="departs from its preset")
    write_run(tmp_path, FULL, "--dia_n_blocks", "4", "--score_aggregation_mode", "max", name="no preset")
    assert set(names(group(tmp_path))) == {
        BASELINE,  # one preset alone shares no beginning with others
        "lr=0.0003, dia_n_blocks=6",
        "use_tail_aware_loss=False, score_aggregation_mode=max",
    }


def test_the_protocol_is_what_all_runs_change(tmp_path: Path) -> None:
    for preset in (BASELINE, "MVTec-WRN50-DIA6"):
        write_run(tmp_path, FULL, "--preset", preset, *PROTOCOL, "--lora_rank", "16")
    found = group(tmp_path)
    assert set(names(found)) == {"60ep-lr2e4-dia4", "DIA6"}
    assert found.protocol["lora_rank"] == (16, 64) and found.protocol["num_epochs"] == (4, 60)
    assert found.protocol["task_classes"] == (tuple(FULL), None)
    assert not {"dia_n_blocks", "backend", "data_path", "seed"} & set(found.protocol)


def test_a_row_that_the_protocol_makes_the_baseline_is_repeated(tmp_path: Path) -> None:
    write_run(tmp_path, FULL, "--preset", BASELINE, *PROTOCOL)
    write_run(tmp_path, FULL, "--preset", "MVTec-WRN50-80ep", *PROTOCOL)
    grouped = group_runs(find_runs([str(tmp_path)]).runs)
    assert [(r.left, r.kept, r.agrees) for r in grouped.repeated] == [
        ("MVTec-WRN50-80ep-seed0", f"{BASELINE}-seed0", True)
    ]
    assert len(grouped.groups[0].configurations) == 1


def test_the_protocol_may_be_what_a_preset_says_already(tmp_path: Path) -> None:
    for preset in (BASELINE, "MVTec-WRN50-80ep", "MVTec-WRN50-DIA6"):
        write_run(tmp_path, FULL, "--preset", preset, *PROTOCOL, "--num_epochs", "80", seed=len(preset))
    found = group(tmp_path)
    assert {c.name: c.presets[1:] for c in found.configurations} == {
        "60ep-lr2e4-dia4": ("MVTec-WRN50-80ep",),
        "DIA6": (),
    }


def test_options_without_effect_make_no_difference() -> None:
    plain = effective_options(options("--no_dia"))
    assert plain == effective_options(options("--no_dia", "--dia_n_blocks", "7"))
    assert departures(plain, effective_options(options())) == {"component_dia": {"use_dia": False}}
    assert effective_options(options("--msk_size", "128")) == effective_options(options())
    mode = departures(effective_options(options("--score_aggregation_mode", "top_k")), effective_options(options()))
    assert mode == {"aggregation": {"score_aggregation_mode": "top_k", "score_aggregation_top_k": 10}}
    front = ("--adapter_mode", "gaussian")
    behind = effective_options(options(*front))
    assert behind == effective_options(options(*front, "--no_spatial_context"))
    fewer = departures(effective_options(options(*front, "--front_directions", "8")), behind)
    assert fewer == {"front_directions": {"front_directions": 8}}
    other = departures(behind, effective_options(options()))
    assert other.keys() == {"component_whitening"} and "front_directions" not in other["component_whitening"]


def test_other_data_are_another_group(tmp_path: Path) -> None:
    write_run(tmp_path, FULL, name="one")
    write_run(tmp_path, figures(0.9, 0.4, classes=("a", "b")), name="other classes")
    write_run(tmp_path, FULL, "--lr", "0.001", name="two")
    write_run(tmp_path, FULL, "--backbone_name", "resnet18", name="other backbone")
    runs = find_runs(["published", str(tmp_path)]).runs
    groups = group_runs(runs).groups
    assert [len(g.configurations) for g in groups if not g.is_published] == [2, 1, 1]
    assert [g.is_published for g in groups[:4]] == [False, False, False, True]


def test_the_baseline(tmp_path: Path) -> None:
    write_run(tmp_path, FULL, "--preset", "MVTec-WRN50-DIA6", name="six")
    write_run(tmp_path, FULL, "--preset", "MVTec-WRN50-DIA6", "--lr", "0.001", name="six fast")
    write_run(tmp_path, FULL, "--preset", "MVTec-WRN50-DIA6", "--no_lora", name="six plain")
    assert (group(tmp_path).baseline.name, group(tmp_path).why) == ("MVTec-WRN50-DIA6", "why_neighbours")
    write_run(tmp_path, FULL, "--preset", BASELINE, name="four")
    write_run(tmp_path, FULL, "--preset", "MVTec-WRN50-LogdetReg1e-4-DIA6", name="another that ends alike")
    assert group(tmp_path).why == "why_reference" and BASELINE in group(tmp_path).baseline.presets
    for wanted in ("MVTec-WRN50-DIA6", "DIA6", "six"):
        assert (group(tmp_path, wanted).baseline.name, group(tmp_path, wanted).why) == ("DIA6", "why_asked")
    assert group(tmp_path, "six fast").baseline.departures == {}
    with pytest.raises(UserError, match="--baseline seven: no run has this name; there are .*six fast"):
        group(tmp_path, "seven")


def test_combinations_beside_their_parts(tmp_path: Path) -> None:
    for image, pixel, *arguments in (
        (0.90, 0.40),
        (0.91, 0.42, "--lr", "0.0003"),
        (0.92, 0.37, "--dia_n_blocks", "6"),
        (0.95, 0.39, "--lr", "0.0003", "--dia_n_blocks", "6"),
        (0.80, 0.30, "--lr", "0.01", "--dia_n_blocks", "6"),
    ):
        for seed in (0, 1):
            write_run(tmp_path, figures(image, pixel), "--preset", BASELINE, *map(str, arguments), seed=seed)
            path = tmp_path / f"{BASELINE}-seed{seed}"
            path.rename(tmp_path / f"{image}-{seed}")
    found = group(tmp_path)
    by_image = {round(c.mean("image_auroc"), 2): c for c in found.configurations}
    assert found.baseline is by_image[0.90] and set(found.combined()) == {by_image[0.95], by_image[0.80]}
    assert single_parts(found, by_image[0.80]) is None
    parts = single_parts(found, by_image[0.95])
    assert parts is not None and set(parts) == {by_image[0.91], by_image[0.92]}
    total = sum_of_parts(found, parts, "image_auroc")
    assert total is not None and round(total, 6) == 0.03
    above = surplus(found, by_image[0.95], parts, "image_auroc")
    below = surplus(found, by_image[0.95], parts, "pixel_ap")
    assert above is not None and (round(above.value, 6), above.verdict) == (0.02, "higher")
    assert below is not None and round(below.value, 6) == 0 and abs(below.value) < 1e-9


def test_front_and_balance(tmp_path: Path) -> None:
    for number, (image, pixel) in enumerate(((0.95, 0.30), (0.94, 0.39), (0.90, 0.40), (0.89, 0.38))):
        write_run(tmp_path, figures(image, pixel), "--lora_rank", str(number + 1))
        (tmp_path / "folder-mobilenetv2_100-seed0").rename(tmp_path / str(number))
    found = group(tmp_path)
    ranked = sorted(found.configurations, key=lambda c: -c.mean("image_auroc"))
    assert pareto_front(found, ranked) == ranked[:3]
    assert balanced(ranked) is ranked[1]


def test_stars() -> None:
    counts = [stars(loss).count("\u2605") for loss in (0.03, 0.029, 0.01, 0.0025, 0.001, 0.0009, -1)]
    assert counts == [5, 4, 4, 3, 2, 1, 1]


@pytest.mark.parametrize("name", [None, *options_of_presets()])
def test_a_command_line_repeats_its_configuration(name: str | None) -> None:
    chosen = options("--no_lora", "--task_classes", "a", "b") if name is None else options_of_presets()[name]
    again = parse_options([*command_line(chosen), "--data_path", "images"])
    assert effective_options(again) == effective_options(chosen)
