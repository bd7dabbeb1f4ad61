"""`moleflow demo`: what it trains, scores and shows; the run itself is tested where runs are."""

import json
from pathlib import Path

import pytest

from moleflow_fast.cli import demo, predict, train

KINDS = ("tablet/test/crack", "tablet/test/good", "wood/test/knot")


def record(kind: str, label: str, calibrated: float) -> dict:
    name = kind.partition("/")[0]
    path = f"runs/demo-data/{kind}/000.png"
    return {
        "path": path,
        "label": label,
        "calibrated": calibrated,
        "classes": [name],
        "overlay": f"pictures/{name}.png",
    }


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines of training and scoring, which take no time here."""
    made: list[list[str]] = []

    def trained(words: list[str]) -> int:
        made.append(words)
        for kind in KINDS:
            folder = tmp_path / "demo-data" / kind
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "000.png").touch()
        (tmp_path / "demo").mkdir(exist_ok=True)
        (tmp_path / "demo" / "summary.json").touch()
        return 0

    def scored(words: list[str]) -> int:
        made.append(words)
        out = Path(words[words.index("-o") + 1])
        out.mkdir()
        records = [
            record(KINDS[0], "defective", 0.9),
            record(KINDS[1], "defective", 0.99),
            record(KINDS[2], "normal", 0.3),
        ]
        (out / "scores.jsonl").write_text("\n".join(map(json.dumps, records)))
        return 0

    monkeypatch.setattr(train, "main", trained)
    monkeypatch.setattr(predict, "main", scored)
    return made


def test_it_trains_scores_and_says_where_to_look(
    tmp_path: Path, calls: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["-o", str(tmp_path), "--device", "cpu", "--num_epochs", "2"]) == 0
    learned, scored = calls
    assert learned[:2] == ["--dataset", "demo"] and learned[-4:] == ["--device", "cpu", "--num_epochs", "2"]
    assert scored[1:4] == [str(tmp_path / "demo-data" / kind / "000.png") for kind in KINDS]
    assert scored[-2:] == ["--device", "cpu"]
    out = capsys.readouterr().out
    assert f"tablet: crack found, {tmp_path / 'demo' / 'found' / 'pictures' / 'tablet.png'}" in out
    assert "good found" not in out and "wood" not in out  # no defect, and none that was found
    assert f"open in a browser: {tmp_path / 'demo' / 'found' / 'index.html'}" in out


def test_again_it_scores_what_was_learned(
    tmp_path: Path, calls: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["-o", str(tmp_path)]) == 0
    assert demo.main(["-o", str(tmp_path)]) == 0
    assert len(calls) == 3 and "learned before" in capsys.readouterr().out
    assert demo.main(["-o", str(tmp_path), "--num_epochs", "2"]) == 1
    assert "is finished: drop --num_epochs 2, or choose another folder" in capsys.readouterr().err


def test_interrupted_it_goes_on(tmp_path: Path, calls: list[list[str]]) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "config.json").touch()
    assert demo.main(["-o", str(tmp_path)]) == 0
    assert "--resume" in calls[0]


def test_what_the_demo_decides(tmp_path: Path, calls: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["-o", str(tmp_path), "--dataset", "mvtec"]) == 1
    assert not calls and "--dataset: the demo decides that itself" in capsys.readouterr().err
