"""What is known of an option stands with its field, and nowhere else."""

import argparse
import ast
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from moleflow_fast import config
from moleflow_fast.config import AblationConfig
from moleflow_fast.config.arguments import add_groups, given_options, unsaid
from moleflow_fast.config.identity import result_options
from moleflow_fast.config.option import FRACTION, Option, Scope, option, options_in
from moleflow_fast.config.options import OPTIONS, RunOptions
from moleflow_fast.report.words import LANGUAGES, Words

PACKAGE = Path(config.__file__).resolve().parents[1]
# Written by --extend and --remove alone.
NOT_ON_A_COMMAND_LINE = {"extensions", "removed_tasks"}
# Lists that a new option does not touch: columns of a published table, what a worker is told otherwise, what a demo is.
LISTS_OF_OTHER_THINGS = {"utils/result_tables.py", "run/task_training.py", "cli/demo.py"}


@dataclasses.dataclass(frozen=True)
class Wider(RunOptions):
    """A run with options that nothing else knows."""

    sharpness: float = option("flow", 0.5, "how sharp maps are, in % of a pixel", FRACTION, command_line=0.25, demo=0.1)
    marks: tuple[int, ...] | None = option("more", None, "where marks are", scope=Scope.MACHINE)
    rounded: bool = option("more", True, "round marks (the default)", off="square marks", scope=Scope.RUN)
    place: str | None = option("more", None, "where they come from", is_path=True)


WIDER = Wider(data_path="images", marks=(1,), place="marks")


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="wider")
    add_groups(made, Wider)
    return made


def test_a_field_is_an_argument(parser: argparse.ArgumentParser) -> None:
    words = parser.format_help()
    assert "how sharp maps are, in % of a pixel" in " ".join(words.split())
    assert "(default 0.25; demo 0.1)" in " ".join(words.split())
    (more,) = [group for group in parser._action_groups if group.title == "more"]
    arguments = [action.option_strings for action in more._group_actions]
    assert arguments == [["--marks"], ["--rounded"], ["--no_rounded"], ["--place"]]
    given = given_options(parser.parse_args(["--marks", "3", "4", "--no_rounded", "--sharpness", "1"]), Wider)
    assert given == {"sharpness": 1.0, "marks": (3, 4), "rounded": False}
    assert unsaid(Wider) == {"sharpness": 0.25}


def test_a_field_is_checked() -> None:
    with pytest.raises(ValueError, match=r"^--sharpness is a fraction in \(0, 1\], got 1.5$"):
        dataclasses.replace(WIDER, sharpness=1.5)
    with pytest.raises(ValueError, match="^--dataset must be one of demo, mvtec"):
        dataclasses.replace(WIDER, dataset="cifar")
    with pytest.raises(ValueError, match="^--score_smooth_sigma must be at least 0, got nan$"):
        dataclasses.replace(WIDER, score_smooth_sigma=float("nan"))


def test_a_field_is_stored_and_runs_from_before_it_have_its_default() -> None:
    stored = json.loads(json.dumps(WIDER.to_json()))
    assert Wider.from_json(stored) == WIDER
    del stored["sharpness"], stored["marks"]
    assert Wider.from_json(stored) == dataclasses.replace(WIDER, marks=None)


def test_a_scope_decides_what_a_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    new = result_options(WIDER).keys() - result_options(RunOptions(data_path="images")).keys()
    assert new == {"sharpness", "place"}
    assert result_options(WIDER)["place"] == WIDER.in_full().place == str(tmp_path / "marks")


@pytest.mark.parametrize("cls", [RunOptions, AblationConfig])
def test_every_field_says_what_it_is(cls: type) -> None:
    fields = {field.name for field in dataclasses.fields(cls)}
    assert fields - options_in(cls).keys() == ({"ablation"} if cls is RunOptions else set())
    for name, known in options_in(cls).items():
        assert known.help or known.off, name
        assert (known.group is None) == (name in NOT_ON_A_COMMAND_LINE), name
        known.check(name, known.default)
        known.check(name, known.demo)
        if known.acts_with is not None:
            switch, value = known.acts_with
            OPTIONS[switch].check(switch, value)
            assert isinstance(value, type(OPTIONS[switch].default)), name
    assert not options_in(RunOptions).keys() & options_in(AblationConfig).keys()


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_of_reports_are_those_of_options(language: str) -> None:
    words = Words(language)
    assert set(words.names("factor")) <= {known.factor or name for name, known in OPTIONS.items()}
    assert set(words.names("component")) == {known.component for known in OPTIONS.values() if known.component}
    assert set(words.names("option")) <= OPTIONS.keys()


def lists_of_options(source: str) -> Iterator[list[str]]:
    """Names of options in each set, list or tuple of a module that has two or more."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Set | ast.List | ast.Tuple):
            continue
        texts = [one.value for one in node.elts if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        names = [text for text in texts if text.removeprefix("--") in OPTIONS]
        if len(names) > 1:
            yield names


def test_no_other_module_lists_options() -> None:
    assert list(lists_of_options('X = ("lr", "seed")\nY = {"--lr", "--heatmaps", "x"}\nz("lr", ["a"])')) == [
        ["lr", "seed"],
        ["--lr", "--heatmaps"],
    ]
    files = {file.relative_to(PACKAGE).as_posix(): file for file in PACKAGE.rglob("*.py")}
    others = {name: file for name, file in files.items() if not name.startswith("config/")}
    assert {name for name, file in others.items() if any(lists_of_options(file.read_text()))} == LISTS_OF_OTHER_THINGS


def test_an_option_without_a_group_is_no_argument() -> None:
    assert Option(None, ()).is_identity and Option(None, ()).scope is Scope.RESULT
    parser = argparse.ArgumentParser()
    add_groups(parser, RunOptions)
    assert not NOT_ON_A_COMMAND_LINE & vars(parser.parse_args([])).keys()
