"""What is compiled beforehand is what is launched, under the key that the launcher looks for."""

import json
from pathlib import Path

import pytest
from apart import run_apart

pytest.importorskip("triton")


@pytest.mark.slow
def test_a_launch_finds_what_was_compiled_for_it(tmp_path: Path) -> None:
    """Compiled from meta tensors; launched with real ones: no kernel is compiled, no file is written."""
    done = run_apart(Path(__file__).with_name("launching.py"), cache=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["outcome"]["failed"] == [] and result["outcome"]["there"] == 0 and result["files"] > 0
    assert [name for name, there in result["asked"] if not there] == []
    assert result["written"] == []
    names = [name for name, _ in result["asked"]]
    assert len(names) == result["outcome"]["kernels"] >= 12
    assert {"_relu_product", "_measure", "_clip", "_decide", "_advance", "_project_layer", "_move"} <= set(names)
    assert names.count("_every_kind") == 2
