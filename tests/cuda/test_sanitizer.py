"""The CUDA kernels touch no memory that is not theirs and do not race, says compute-sanitizer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sanitizer
import torch

SCRIPT = Path(__file__).with_name("smooth_once.py")
HEADER = "========= COMPUTE-SANITIZER\n"


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("tool", sanitizer.SUMMARY)
def test_nothing_is_found(tool: str) -> None:
    program = sanitizer.find()
    if program is None and "MOLEFLOW_GPU_CHECK" not in os.environ:
        pytest.skip("compute-sanitizer, of the CUDA toolkit, is not installed")
    assert program is not None, "compute-sanitizer is not installed: nothing was checked"
    # The allocator's own blocks are larger than the tensors in them, so that reads beyond the end would go unseen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["MOLEFLOW_BACKEND"] = "auto"
    command = [program, "--tool", tool, sys.executable, str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    report = done.stdout + done.stderr
    assert done.returncode == 0 and "smoothed" in done.stdout, report
    assert sanitizer.found(tool, report) == 0, report


@pytest.mark.parametrize(
    ("tool", "summary", "count"),
    [
        ("memcheck", "========= ERROR SUMMARY: 0 errors", 0),
        ("memcheck", "========= Invalid __global__ read of size 4 bytes\n========= ERROR SUMMARY: 12 errors", 12),
        ("memcheck", "========= ERROR SUMMARY: 1 error", 1),
        ("racecheck", "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0),
        ("racecheck", "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)", 1),
    ],
)
def test_reports_are_read(tool: str, summary: str, count: int) -> None:
    assert sanitizer.found(tool, f"{HEADER}smoothed 4 shapes\n{summary}\n") == count


@pytest.mark.parametrize(
    "report", ["", "smoothed 4 shapes\n", HEADER, "========= ERROR SUMMARY: 0 errors", HEADER + "ERROR SUMMARY: 0"]
)
def test_a_tool_that_did_not_run_is_not_a_success(report: str) -> None:
    for tool in sanitizer.SUMMARY:
        with pytest.raises(ValueError, match="did not run"):
            sanitizer.found(tool, report)


def test_the_tool_is_found_beside_the_toolkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert sanitizer.find() == str(program)
