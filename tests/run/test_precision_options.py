"""--backend and --precision: what is refused, what wins, what a run keeps of them."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from run.small_runs import CLASSES, arguments, command_line, run

from moleflow_fast.cli.evaluate import main as evaluate
from moleflow_fast.cli.train import main
from moleflow_fast.config.options import RunOptions
from moleflow_fast.run.asked import parse_options
from moleflow_fast.run.console import RunConsole
from moleflow_fast.run.context import RunContext
from moleflow_fast.run.directory import RunDirectoryError
from moleflow_fast.run.evaluating import evaluate_again
from moleflow_fast.run.session import ContinualRun, RunResult

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOLEFLOW_BACKEND", raising=False)
    monkeypatch.delenv("MOLEFLOW_PRECISION", raising=False)


@pytest.mark.parametrize("argv", [["--precision", "fp16"], ["--backend", "fast"]])
def test_values_that_do_not_exist(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(argv)
    assert f"argument {argv[0]}: invalid choice: '{argv[1]}'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"{argv[0]} must be one of .*got '{argv[1]}'"):
        RunOptions(**{argv[0].removeprefix("--"): argv[1]})
    with pytest.raises(SystemExit):
        evaluate(["somewhere", *argv])


def test_an_environment_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOLEFLOW_PRECISION", "half")
    assert main([]) == 1
    assert "error: unknown precision 'half'; MOLEFLOW_PRECISION must be one of" in capsys.readouterr().err


def test_the_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (parse_options([]).backend, parse_options([]).precision) == ("auto", "fp32")
    monkeypatch.setenv("MOLEFLOW_BACKEND", "eager")
    monkeypatch.setenv("MOLEFLOW_PRECISION", "tf32")
    assert (parse_options([]).backend, parse_options([]).precision) == ("eager", "tf32")
    options = parse_options(["--backend", "cpp", "--precision", "fp32"])
    assert (options.backend, options.precision) == ("cpp", "fp32")


@pytest.mark.parametrize("backend", ["eager", "cpp"])
def test_bf16_without_triton(backend: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command_line(data, tmp_path / "logs", backend=backend, precision="bf16")) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: --precision bf16 needs the flow on Triton kernels on a GPU, but backend {backend}")
    assert "take --precision fp32" in error
    assert not list((tmp_path / "logs").glob("*/config.json"))


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_bf16_on_a_cpu(backend: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command_line(data, tmp_path / "logs", device="cpu", backend=backend, precision="bf16")) == 1
    error = capsys.readouterr().err  # without the interpreter it is the backend that cannot run
    assert "take --precision fp32" in error or "use --backend auto" in error


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "compiled (cpp); precision fp32, training steps one by one"),
        ({"backend": "eager", "precision": "tf32"}, "plain PyTorch: backend eager was asked for; precision fp32 (tf32"),
    ],
)
def test_a_run_says_how_it_computes_in_one_line(
    changes: dict, line: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = command_line(data, tmp_path, task_classes=CLASSES[:1], num_epochs=1, heatmaps=0, **changes)
    assert main(argv) == 0
    said = [text for text in capsys.readouterr().out.splitlines() if text.startswith("flow  ")]
    assert len(said) == 1 and line in said[0] and "training steps one by one" in said[0]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=[pytest.mark.gpu, needs_gpu])])
def test_a_run_says_whether_its_steps_are_graphs(precision: str, data: Path, tmp_path: Path) -> None:
    """On a GPU for real; without one, Triton's interpreter takes the same steps singly."""
    device, steps = ("cuda", "as CUDA graphs") if torch.cuda.is_available() else ("cpu", "one by one")
    new = ContinualRun(RunOptions(**arguments(data, tmp_path, device=device, backend="triton", precision=precision)))
    with new.run.context.as_chosen():
        assert new._flow == f"compiled (triton); precision {precision}, training steps {steps}"


def test_a_backbone_in_bf16_reports_its_parity(
    finished: RunResult, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(data, tmp_path, backbone_precision="bf16", task_classes=CLASSES[:2], num_epochs=1, heatmaps=0)
    said = re.search(r"in bf16, patch features (\S+)% from fp32 in the median .* \(6 images\)", capsys.readouterr().out)
    summary = json.loads((result.directory.path / "summary.json").read_text())
    assert said and float(said[1]) == pytest.approx(100 * summary["backbone_parity"]["patch_median"], abs=0.01)
    assert 0 < summary["backbone_parity"]["patch_worst"] < 0.05
    assert json.loads((finished.directory.path / "summary.json").read_text())["backbone_parity"] is None
    again = evaluate_again(result.directory, result.directory.options(), RunConsole(quiet=True))
    assert again[0].mean("image_auroc") == result.routed.mean("image_auroc")
    with pytest.raises(RunDirectoryError, match="--backbone_precision: was 'bf16', now 'fp32'"):
        name = result.directory.path.name
        run(data, tmp_path, experiment_name=name, task_classes=CLASSES[:2], num_epochs=1, heatmaps=0, resume=True)


def test_the_flags_of_torch_in_a_run_and_after_it(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flags() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before, seen = flags(), []
    plain = ContinualRun._execute
    monkeypatch.setattr(ContinualRun, "_execute", lambda self: seen.append(flags()) or plain(self))
    run(data, tmp_path, precision="tf32", task_classes=CLASSES[:1], num_epochs=1, heatmaps=0)
    assert seen == [(True, True)]
    assert flags() == before
    monkeypatch.setattr(ContinualRun, "_execute", lambda self: seen.append(flags()) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(data, tmp_path, precision="fp32")
    assert seen[1:] == [(False, False)]
    assert flags() == before


def test_what_a_run_stores(finished: RunResult, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = json.loads((finished.directory.path / "config.json").read_text())["options"]
    assert (stored["backend"], stored["precision"]) == ("auto", "fp32")
    monkeypatch.setenv("MOLEFLOW_BACKEND", "eager")
    result = run(data, tmp_path, task_classes=CLASSES[:1], num_epochs=1, heatmaps=0, precision="tf32")
    monkeypatch.delenv("MOLEFLOW_BACKEND")
    options = result.directory.options()
    assert (options.backend, options.precision) == ("eager", "tf32")


def test_options_from_before_they_were_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    content = RunOptions().to_json()
    del content["backend"], content["precision"]
    monkeypatch.setenv("MOLEFLOW_BACKEND", "eager")
    monkeypatch.setenv("MOLEFLOW_PRECISION", "tf32")
    options = RunOptions.from_json(content)
    assert (options.backend, options.precision) == ("auto", "fp32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "tf32"}, "--precision: was 'fp32', now 'tf32'"),
        ({"backend": "eager"}, "--backend: was 'auto', now 'eager'"),
    ],
)
def test_resume_refuses_another(changes: dict, message: str, finished: RunResult, data: Path) -> None:
    logs, name = finished.directory.path.parent, finished.directory.path.name
    with pytest.raises(RunDirectoryError, match=message):
        run(data, logs, experiment_name=name, run_diagnostics=True, resume=True, **changes)


def test_evaluate_takes_another_and_says_so(
    finished: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = str(shutil.copytree(finished.directory.path, tmp_path / "copy"))
    assert evaluate([copy, "--quiet"]) == 0
    same = capsys.readouterr().out
    assert "compiled (cpp); precision fp32" in same and "warning" not in same
    monkeypatch.setenv("MOLEFLOW_BACKEND", "eager")
    assert evaluate([copy, "--quiet", "--precision", "tf32"]) == 0
    out = capsys.readouterr().out
    assert "warning: trained with --precision fp32 and evaluated with tf32" in out
    assert "plain PyTorch: backend eager was asked for" in out
    assert evaluate([copy, "--quiet", "--backend", "cpp"]) == 0
    assert "compiled (cpp)" in capsys.readouterr().out
    assert evaluate([copy, "--quiet", "--precision", "bf16"]) == 1
    assert "--precision bf16 needs the flow on Triton kernels" in capsys.readouterr().err


def test_arguments_reach_the_options(data: Path, tmp_path: Path) -> None:
    options = RunOptions(**arguments(data, tmp_path, backend="cpp", precision="tf32"))
    assert RunOptions.from_json(options.to_json()) == options


def test_a_run_makes_its_gpu_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the thread that runs it, which Triton launches from."""
    current: list[str] = []

    @contextmanager
    def on(device: torch.device) -> Iterator[None]:
        current.append(str(device))
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", on)
    context = RunContext(RunOptions(device="cuda:1"))
    context.__dict__["device"] = torch.device("cuda:1")  # as where there are two
    with context.as_chosen():
        assert current == ["cuda:1"]
    assert current == []
