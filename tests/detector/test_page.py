"""The page, as a browser shows it."""

import html
import re
import shutil
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from moleflow_fast.detector.result import Result
from moleflow_fast.predict import page
from moleflow_fast.predict.page import Page
from moleflow_fast.predict.records import record_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=4000",
)  # fmt: skip
NASTY = "<img src=x onerror=document.title='broken'>&\"'</script><script>document.title='broken'</script>é 漢.png"
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def result(name: str, calibrated: float, label: Any = "normal", product: str = "wood") -> Result:
    return Result(Path(name), label, None, 0, (product,), {0: 4.0, 1: 9.0}, 10 * calibrated, calibrated)


RESULTS = [
    result("good.png", 0.2),
    result("low.png", 0.6, "defective"),
    result("high.png", 0.95, "defective", "<b>nut</b>"),
    result("far.png", 0.99, "unknown"),
    result(NASTY, 0.3),
    Result(Path("gone.png"), "error", "gone.png: <i>no such file</i>"),
]


def write(folder: Path, results: list[Result]) -> Path:
    picture = page.inlined(Image.effect_noise((40, 30), 60).convert("RGB"))
    with Page.in_folder(folder) as made:
        for one in results:
            names = {} if one.error else {"overlay": "pictures/a b.png"}
            made.add(record_of(one, names), one, None if one.error else (picture, picture))
        return made.write("run <1>", 0.5)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("page"), RESULTS)


def dom(file: Path, fragment: str, profile: Path) -> str:
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", f"{file.as_uri()}#{fragment}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def counts(text: str) -> dict[str, int]:
    found = re.findall(r'id="show-(\w+)">\w+ <b>(\d+)</b>', text)
    return {label: int(number) for label, number in found}


def files_shown(text: str) -> list[str]:
    cells = re.findall(r'class="file"[^>]*>(.*?)</td>', text, re.S)
    return [html.unescape(name.replace("<wbr>", "")) for name in cells]


@browser
def test_counts_and_order_at_the_given_threshold(file: Path, tmp_path: Path) -> None:
    text = dom(file, "", tmp_path)
    assert counts(text) == {"all": 6, "defective": 2, "unknown": 1, "normal": 2, "error": 1}
    assert files_shown(text) == ["far.png", "high.png", "low.png", NASTY, "good.png", "gone.png"]
    assert re.findall(r'<tr class="(\w+)">', text) == [
        "unknown", "defective", "defective", "normal", "normal", "error",
    ]  # fmt: skip
    assert "<title>run &lt;1&gt;</title>" in text  # and no name has become a script
    assert "&lt;b&gt;nut&lt;/b&gt;" in text and "gone.png: &lt;i&gt;no such file" in text


@browser
def test_the_threshold_recounts(file: Path, tmp_path: Path) -> None:
    text = dom(file, "threshold=0.9", tmp_path)
    assert counts(text) == {"all": 6, "defective": 1, "unknown": 1, "normal": 3, "error": 1}
    assert '<output id="shown">0.90</output>' in text


@browser
def test_filter_and_sort(file: Path, tmp_path: Path) -> None:
    text = dom(file, "label=normal&sort=path&order=up&threshold=0.7", tmp_path)
    assert files_shown(text) == sorted(["good.png", "low.png", NASTY])
    assert counts(text)["all"] == 6
    assert len(files_shown(dom(file, "label=what&sort=ever&threshold=high&order=", tmp_path))) == 6


@browser
def test_moving_the_slider(file: Path, tmp_path: Path) -> None:
    act = "const s = document.getElementById('threshold'); s.value = 0.25; s.dispatchEvent(new Event('input'));"
    act += "document.getElementById('show-defective').click();"
    acted = tmp_path / "acted.html"
    acted.write_text(file.read_text().replace("</body>", f"<script>{act}</script></body>"))
    text = dom(acted, "", tmp_path / "profile")
    assert counts(text) == {"all": 6, "defective": 3, "unknown": 1, "normal": 1, "error": 1}
    assert files_shown(text) == ["high.png", "low.png", NASTY]


@browser
def test_what_all_paths_begin_with_is_said_once(tmp_path: Path) -> None:
    names = ["/line/a/good/1.png", "/line/ab/2.png", "/line/a/1.png"]
    text = dom(write(tmp_path, [result(name, 0.9 - i / 10) for i, name in enumerate(names)]), "", tmp_path / "profile")
    assert "Files are below /line/<" in text
    assert files_shown(text) == ["a/good/1.png", "ab/2.png", "a/1.png"]
    assert 'title="/line/a/good/1.png">a/<wbr>good/<wbr>1.png</td>' in text
    apart = write(tmp_path, [result("/a/1.png", 0.9), result("/b/1.png", 0.8)])
    assert files_shown(dom(apart, "", tmp_path / "profile")) == ["/a/1.png", "/b/1.png"]


@browser
def test_many_rows_come_in_parts(tmp_path: Path) -> None:
    many = [result(f"{i}.png", i / 1000) for i in range(450)]
    text = dom(write(tmp_path, many), "", tmp_path / "profile")
    assert len(files_shown(text)) == 200 and counts(text)["all"] == 450
    assert "show 200 more of 250" in text


def test_nothing_is_fetched(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r'(src|href)="(?!data:)', text.split('<script type="application/json"')[0])
    assert "http:" not in text and "https:" not in text and "@import" not in text


def test_memory_does_not_hold_the_rows(tmp_path: Path) -> None:
    rows = 8000
    with Page.in_folder(tmp_path) as made:
        tracemalloc.start()
        for i in range(rows):
            missing = Result(tmp_path / f"{i}.png", "error", f"{i}.png: no such file")
            made.add(record_of(missing, {}), missing, None)
        held = tracemalloc.get_traced_memory()[0]
        file = made.write("run", 0.5)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # Other threads of the process allocate as well: hence the room.
    assert max(held, peak) < file.stat().st_size / 2
    assert file.read_text().count('"label": "error"') == rows
    assert [f.name for f in tmp_path.iterdir()] == ["index.html"]


def test_pictures_of_the_highest_scores_up_to_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_PICTURES", 3)
    results = [result(f"{i}.png", c) for i, c in enumerate((0.5, 0.1, 0.9, 0.3, 0.7))]
    text = write(tmp_path, results).read_text()
    kept = [i for i in range(5) if re.search(rf'"path": "{i}.png"[^}}]*"pictures"', text)]
    assert kept == [0, 2, 4]
    assert "The 3 highest scores have pictures here" in text and "2 images beyond that are links" in text
    one = len(re.findall(r"data:image[^\"]*", text)[0])
    monkeypatch.setattr(page, "MOST_BYTES", 5 * one)
    assert len(re.findall("data:image", write(tmp_path, results).read_text())) == 4
