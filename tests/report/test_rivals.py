"""Nearest neighbours beside the baseline: only classes that both have, costs, clear errors."""

from pathlib import Path

import pytest
from report.reading import headings, prose, table
from report.written_runs import figures, write_run

from moleflow_fast.cli.report import main
from moleflow_fast.report.words import LANGUAGES
from moleflow_fast.report.write import build_report

HEADER = "coreset,ids,class_name,image_auroc,image_ap,pixel_auroc,pixel_ap,aupro,build_seconds,bank_bytes\n"
ROWS = (
    "greedy,oracle,bolt,0.91,0.92,0.93,0.94,0.95,30,8192000\n"
    "greedy,oracle,cable,0.81,0.82,nan,nan,nan,10,8192000\n"
    "random,oracle,bolt,0.71,0.72,0.73,0.74,0.75,1,4096000\n"
    "random,oracle,cable,0.61,0.62,0.63,0.64,0.65,3,4096000\n"
)


@pytest.fixture
def run(tmp_path: Path) -> str:
    return str(write_run(tmp_path / "runs", figures(0.9, 0.4)))


def _file(folder: Path, text: str) -> Path:
    file = folder / "knn.csv"
    file.write_text(text)
    return file


@pytest.mark.parametrize("language", LANGUAGES)
def test_means_are_over_the_classes_that_all_have(run: str, tmp_path: Path, language: str) -> None:
    blocks = build_report([run], language, rival=_file(tmp_path, HEADER + ROWS))
    heading = {"en": "Against nearest neighbours", "ko": "최근접 이웃과 비교"}[language]
    rows = [list(row.values()) for row in table(blocks, heading).values()]
    assert rows[3:] == [["bolt", "0.8800", "0.9100", "0.7100"], ["cable", "0.8900", "0.8100", "0.6100"]]
    assert [row[1:] for row in rows[:3]] == [
        ["0.8850", "0.8850", "0.9000", "0.3850", "0.8000", "–", "–"],
        ["0.8600", "0.8700", "0.9300", "0.9400", "0.9500", "20.0", "8.2"],
        ["0.6600", "0.6700", "0.6800", "0.6900", "0.7000", "2.0", "4.1"],
    ]
    assert "disc, gear, plate" in prose(blocks, heading)


def test_without_a_common_class_it_says_so(run: str, tmp_path: Path) -> None:
    blocks = build_report([run], rival=_file(tmp_path, HEADER + ROWS.replace("bolt", "nut").replace("cable", "rod")))
    assert "no class of the baseline" in prose(blocks, "Against nearest neighbours")


def test_without_a_rival_there_is_no_section(run: str) -> None:
    assert "Against nearest neighbours" not in headings(build_report([run]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "is no file of bench/patch_knn.py ('image_auroc')"),
        (HEADER + ROWS.replace("0.91", "high"), "could not convert string to float: 'high'"),
        (HEADER, "has no row"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_is_a_clear_error(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    file = tmp_path / "missing.csv" if text is None else _file(tmp_path, text)
    assert main([run, "-o", str(tmp_path / "out"), "--rival", str(file)]) == 1
    error = capsys.readouterr().err
    assert message in error and str(file) in error
    assert not (tmp_path / "out").exists()
