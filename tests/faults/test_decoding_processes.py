"""A decoding process that dies ends the run with a clear error, and the run can be gone on with."""

from pathlib import Path

import pytest
from faults.soak import fingerprints
from run.small_runs import command_line, run

from moleflow_fast.cli.train import main as train
from moleflow_fast.data.decoder import Decoder
from moleflow_fast.data.pool import DecodingProcesses
from moleflow_fast.run.session import RunResult


def test_a_killed_process(
    data: Path, tmp_path: Path, finished: RunResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, calls = Decoder.pixels, iter(range(1000))

    def dies_in_time(self: Decoder, batches: object) -> object:
        if next(calls) == 2:
            assert isinstance(self._pool, DecodingProcesses)
            self._pool._link._process.kill()
            self._pool._link._process.wait()
            self._kept.clear()
        return asked(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "pixels", dies_in_time)
    options = {"heatmaps": 0, "experiment_name": "run", "num_workers": 2}
    assert train(command_line(data, tmp_path, **options)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: a decoding process ended") and "--num_workers" in error and "--resume" in error
    assert "Traceback" not in error
    monkeypatch.undo()
    result = run(data, tmp_path, **options, resume=True).directory.path
    expected = finished.directory.path
    assert fingerprints(result, result) == fingerprints(expected, expected)
