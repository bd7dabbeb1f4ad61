"""Which runs a sweep is made of, and what makes two runs the same."""

import dataclasses
from pathlib import Path

import pytest

from moleflow_fast.cli.sweep import _share, build_parser, main
from moleflow_fast.config.identity import identity
from moleflow_fast.config.options import RunOptions
from moleflow_fast.errors import UserError
from moleflow_fast.experiments.sweep import Share
from moleflow_fast.experiments.sweep_plan import Plan, make_plan
from moleflow_fast.run.asked import parse_options

BASELINE, DIA2, TOP3 = "MVTec-WRN50-60ep-lr2e4-dia4", "MVTec-WRN50-DIA2", "MVTec-WRN50-TopK3"


def plan(*patterns: str, seeds=None, grid=None, data=None, given=()) -> Plan:
    return make_plan(patterns, seeds, grid or {}, data or {"mvtec": "images"}, given)


def test_presets_times_seeds_a_seed_at_a_time() -> None:
    runs = plan(BASELINE, DIA2, seeds=[0, 7]).runs
    assert [run.label for run in runs] == [f"{n}-seed{s}" for s in (0, 7) for n in (BASELINE, DIA2)]
    assert [run.options.ablation.dia_n_blocks for run in runs] == [4, 2, 4, 2]
    assert len({run.identity for run in runs}) == 4


def test_equal_options_are_one_run_under_both_names() -> None:
    (run,) = plan(BASELINE, TOP3).runs
    assert run.names == (BASELINE, TOP3)


def test_without_seeds_a_preset_keeps_its_own() -> None:
    names = ["MVTec-WRN50-CL-1x1-Seed123", "MVTec-WRN50-CL-1x1-Seed0", BASELINE]
    assert [run.options.seed for run in plan(*names).runs] == [123, 999, 0]


def test_a_grid_over_switches_and_values() -> None:
    runs = plan(grid={"no_lora": ["on", "off"], "lr": ["1e-4", "3e-4"]}).runs
    assert [run.names[0] for run in runs] == ["no_lora+lr=1e-4", "no_lora+lr=3e-4", "lr=1e-4", "lr=3e-4"]
    assert [(run.options.ablation.use_lora, run.options.lr) for run in runs] == [
        (False, 1e-4), (False, 3e-4), (True, 1e-4), (True, 3e-4),
    ]  # fmt: skip
    assert runs[0].options.dataset == "demo"


def test_options_given_win_over_presets_and_the_grid_over_both() -> None:
    (run,) = plan(DIA2, grid={"lr": ["5e-4"]}, given=["--lr", "1e-4", "--dia_n_blocks", "3"]).runs
    assert (run.options.lr, run.options.ablation.dia_n_blocks) == (5e-4, 3)


def test_every_preset_can_be_planned_and_those_without_options_are_told() -> None:
    everything = plan("*", data={"mvtec": "a", "visa": "b", "mpdd": "c"})
    assert sum(len(run.names) for run in everything.runs) == 182 and len(everything.left_out) == 3
    folders = {run.options.dataset: Path(run.options.data_path or "").name for run in everything.runs}
    assert folders == {"mvtec": "a", "visa": "b", "mpdd": "c"}


def test_files_do_not_depend_on_where_the_command_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = plan(BASELINE, data={"mvtec": str(tmp_path / "images")}).runs[0]
    monkeypatch.chdir(tmp_path)
    assert plan(BASELINE, data={"mvtec": "images"}).runs[0].identity == here.identity


def test_identity_is_of_what_decides_the_numbers() -> None:
    options = parse_options(["--preset", BASELINE, "--data_path", "images"])
    for harmless in ({"experiment_name": "x"}, {"log_dir": "y"}, {"num_workers": 9}, {"preset": None}, {"quiet": True}):
        assert identity(dataclasses.replace(options, **harmless)) == identity(options)
    for decisive in ({"lr": 1e-3}, {"seed": 1}, {"data_path": "others"}, {"num_epochs": 2}, {"backend": "eager"}):
        assert identity(dataclasses.replace(options, **decisive)) != identity(options)


def test_identity_of_a_run_older_than_an_option() -> None:
    options = parse_options(["--preset", BASELINE, "--data_path", "images"])
    stored = options.to_json()
    del stored["backbone_precision"]
    assert identity(RunOptions.from_json(stored)) == identity(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patterns": ["nosuch*"]}, r"--presets nosuch\*: no preset matches"),
        ({"data": {"visa": "x"}}, r"dia4: --dataset mvtec needs --data_path.*--data mvtec=DIR"),
        ({"given": ["--seed", "3"]}, "--seed: a sweep decides that itself"),
        ({"given": ["--parallel_tasks", "ray"]}, "--parallel_tasks: a sweep decides that itself"),
        ({"grid": {"lr": ["-1"]}}, "lr=-1: --lr must be positive"),
    ],
)
def test_what_cannot_be_planned(change: dict, message: str) -> None:
    arguments = {"patterns": [BASELINE], **change}
    with pytest.raises(UserError, match=message):
        plan(*arguments.pop("patterns"), **arguments)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grid", "lr"], "--grid lr: expected NAME=VALUE,VALUE"),
        (["--grid", "lr=1e-3,"], "--grid lr=1e-3,: expected NAME=VALUE,VALUE"),
        (["--data", "imagenet=/x"], "--data imagenet=/x: expected mvtec=DIR"),
        (["--presets", "nosuch"], "--presets nosuch: no preset matches"),
    ],
)
def test_command_line_errors(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["-o", str(tmp_path / "sweep"), *words]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "sweep").exists()


def test_dry_run_lists_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["-o", str(tmp_path / "sweep"), "--presets", DIA2, TOP3, "--data_path", "x", "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert f"new          {DIA2}  seed 0" in shown and "2 runs: 0 finished, 0 interrupted, 2 new" in shown
    assert not (tmp_path / "sweep").exists()


class _Cluster:
    def __init__(self, **resources: float) -> None:
        self.resources = resources

    def cluster_resources(self) -> dict[str, float]:
        return self.resources


def test_a_run_s_share_of_the_cluster() -> None:
    def share(*more: str, given=(), **resources: float) -> Share:
        args = build_parser().parse_args(["-o", "x", *more])
        return _share(args, plan(BASELINE, given=given), _Cluster(**resources))

    assert share(CPU=8) == Share(1, 0)
    assert share(CPU=8, GPU=2) == Share(1, 1)
    assert share("--gpus_per_run", "0.25", "--cpus_per_run", "4", CPU=8, GPU=2) == Share(4, 0.25)
    assert share(given=["--device", "cpu"], CPU=8, GPU=2) == Share(1, 0)
    with pytest.raises(UserError, match=r"--gpus_per_run 0.5, but Ray sees 0 GPUs that these runs may use"):
        share("--gpus_per_run", "0.5", given=["--device", "cpu"], CPU=8, GPU=2)
    with pytest.raises(UserError, match=r"--cpus_per_run 9, but Ray has 8 CPUs"):
        share("--cpus_per_run", "9", CPU=8)
