"""`moleflow` and its commands as a person types them: what there is, and what is said of mistakes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from moleflow_fast.cli.commands import COMMANDS, command
from moleflow_fast.cli.main import main


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command line that starts nothing."""
    try:
        code = main(list(words))
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


def test_alone_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys)
    assert code == 0 and all(f"  {name} " in out for name in COMMANDS)
    assert out.index("  demo ") < out.index("  train ") < out.index("  predict ") < out.index("  export_published ")
    assert max(map(len, out.splitlines())) <= 120
    for words in (["--help"], ["-h"], ["help"]):
        assert said(capsys, *words) == (0, out, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_one_form_of_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, name, "--help")
    assert code == 0
    assert (
        out.startswith(f"usage: moleflow {name}")
        and f"  moleflow {name}" in out.partition("options:")[2]
        and "exit codes: 0" in out
    )
    assert "python -m" not in out
    assert said(capsys, "help", name) == (0, out, "")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trian"], "no command 'trian'; did you mean train?"),
        (["help", "exprot"], "no command 'exprot'; did you mean export?"),
        (["xyzzy"], "no command 'xyzzy'\n"),
        (["--verison"], "unrecognized option --verison; did you mean --version?"),
        (["--dataset", "demo"], "unrecognized option --dataset; did you mean moleflow train --dataset?"),
        (["train", "--num_epoch", "3"], "unrecognized option --num_epoch; did you mean --num_epochs?"),
        (["train", "--num-epochs=3"], "unrecognized option --num-epochs; did you mean --num_epochs?"),
        (["train", "--backend", "trton"], "--backend: invalid choice: 'trton'; did you mean triton? (choose from auto"),
        (["train", "--false_alarms", "0.1"], "--false_alarms; it is an option of moleflow predict, moleflow export"),
        (["train", "--lr", "fast"], "--lr: invalid float value: 'fast'"),
        (["evaluate", "run", "--lora_rank", "3"], "--lora_rank; it is an option of moleflow train"),
        (["evaluate", "run", "--interp_mode", "bicubik"], "did you mean bicubic?"),
        (["export", "run", "--frmat", "onnx"], "did you mean --format?"),
        (["report", "runs"], "the following arguments are required: -o/--output"),
        (["report", "runs", "--outptu", "x"], "did you mean --output?"),
        (["sweep", "-o", "x", "--dryrun"], "did you mean --dry_run?"),
        (["sweep", "-o", "x", "--num_epoch", "3"], "did you mean --num_epochs?"),
        (["sweep", "-o", "x", "--dry_run", "--grid", "num_epoch=3"], "did you mean --num_epochs?"),
        (["demo", "--num_epoch", "3"], "did you mean --num_epochs?"),
        (["tune", "--device", "cuda"], "--device; it is an option of moleflow train"),
    ],
)
def test_mistakes(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = said(capsys, *words)
    assert (code, out) == (2, "")
    assert error.startswith("error: ") and text in error
    assert error.splitlines()[-1].startswith("see moleflow ") and len(error.splitlines()) == 2


def test_predict_keeps_2_for_unreadable_files(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = said(capsys, "predict", "run", "images", "--outptu", "x")
    assert code == 1 and "did you mean --output?" in error


def test_an_error_that_the_user_can_mend(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "sweep", "-o", "x", "--grid", "lr") == (1, "", "error: --grid lr: expected NAME=VALUE,VALUE\n")


def test_options_of_train_are_those_of_a_run() -> None:
    assert {"--num_epochs", "--extend", "--list_presets", "--no_dia"} <= command("train").build_parser().options


SCRIPT = """
import sys
from moleflow_fast.cli.main import main

sys.argv[1:] = {words}
try:
    main()
except SystemExit:
    pass
heavy = {{"torch", "timm", "matplotlib", "ray", "triton", "numpy", "rich", "PIL"}}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize("words", [[], ["help", "train"], ["train", "--num_epoch", "3"], ["trian"]])
def test_nothing_heavy_is_imported_to_say_so(words: list[str]) -> None:
    command_line = [sys.executable, "-P", "-c", SCRIPT.format(words=words)]
    done = subprocess.run(command_line, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_as_a_module_it_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    _, overview, _ = said(capsys)
    _, of_report, _ = said(capsys, "report", "--help")
    for words, expected in (
        (["moleflow_fast"], overview),
        (["moleflow_fast", "report", "--help"], of_report),
        (["moleflow_fast.report", "--help"], of_report),
    ):
        done = subprocess.run([sys.executable, "-P", "-m", *words], capture_output=True, text=True, check=True)
        assert done.stdout == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_module_too(name: str) -> None:
    there = importlib.util.find_spec(f"moleflow_fast.{name}")
    if there is not None and there.submodule_search_locations:
        there = importlib.util.find_spec(f"moleflow_fast.{name}.__main__")
    assert there is not None and f"from moleflow_fast.cli.{name} import main" in Path(there.origin).read_text()
