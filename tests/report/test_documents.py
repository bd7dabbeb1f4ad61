"""The two renderings: well-formed, safe, the same twice, in both languages."""

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from report.reading import headings
from report.written_runs import CLASSES, PROTOCOL, write_results, write_run
from run.small_runs import run as real_run

from moleflow_fast.report.document import (
    Block,
    Bullets,
    Caution,
    Code,
    Details,
    Figure,
    Heading,
    Strong,
    Table,
    Text,
    figures_of,
)
from moleflow_fast.report.html import to_html
from moleflow_fast.report.markdown import escape, to_markdown
from moleflow_fast.report.words import LANGUAGES
from moleflow_fast.report.words.english import ENGLISH
from moleflow_fast.report.words.korean import KOREAN
from moleflow_fast.report.write import build_report, write_report

NASTY = "<script>alert(1)</script>|`x`\n[a](javascript:b) \"'&"
HANGUL = re.compile(r"[\uac00-\ud7a3]")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every section has something to say; names and errors are as bad as names can be."""
    root = tmp_path_factory.mktemp("sweep")
    effects = {
        "60ep-lr2e4-dia4": (0, 0), "DIA2": (-0.02, 0.01), "DIA8": (0.01, -0.02), "LogdetReg1e-4": (0, 0.03),
        "Ablation-wo_DIA": (-0.04, 0), "LoRA32": (0, 0), "LogdetReg1e-4-DIA8": (0.02, 0.01), "Percentile95": (-0.03, 0),
    }  # fmt: skip
    draw = np.random.default_rng(0)
    classes = ("<b>class</b>|", *CLASSES[1:])
    for name, (image, pixel) in effects.items():
        for seed in (0, 1):
            noise = draw.normal(0, 0.002, (len(classes), 2))
            figures = {c: (0.9 + image + a, 0.4 + pixel + b) for c, (a, b) in zip(classes, noise, strict=True)}
            write_run(root, figures, "--preset", f"MVTec-WRN50-{name}", *PROTOCOL, seed=seed)
    odd = write_run(root, dict.fromkeys(classes, (0.5, 0.5)), "--backbone_weights", "<i>.pt", name="odd")
    odd.rename(root / "<script>x|y")
    (write_run(root, {"a": (0.5, 0.5)}, name="unfinished") / "summary.json").rename(root / "kept")
    write_results(root, {"identity": NASTY, "name": NASTY, "status": "failed", "error": NASTY, "directory": "gone"})
    return root


class Page(HTMLParser):
    """Tags with attributes, open tags at the end, and ids."""

    VOID = frozenset({"meta", "br", "img", "link", "use", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def reports(sweep: Path) -> dict[str, list[Block]]:
    return {language: build_report([str(sweep), "published"], language) for language in LANGUAGES}


@pytest.fixture(scope="module", params=LANGUAGES)
def page(request: pytest.FixtureRequest, reports: dict[str, list[Block]]) -> Page:
    return Page(to_html(reports[request.param], request.param))


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and "section-1" in ids
    used = [value for _, attributes in page.tags for key, value in attributes.items() if key.endswith("href") and value]
    assert used and all(value.startswith("#") and value[1:] in ids for value in used)
    clips = [found for _, a in page.tags for value in a.values() for found in re.findall(r"url\(#(.*?)\)", value or "")]
    assert clips and set(clips) <= set(ids)


def test_the_page_fetches_nothing_and_runs_nothing(page: Page) -> None:
    tags = {tag for tag, _ in page.tags}
    assert "svg" in tags and not tags & {"script", "link", "img", "iframe", "object", "b", "i"}
    for _, attributes in page.tags:
        assert not any(key.startswith("on") or key == "src" for key in attributes)
        assert not any("http" in (value or "") for key, value in attributes.items() if not key.startswith("xmlns"))


def test_the_style_fetches_nothing(reports: dict[str, list[Block]]) -> None:
    text = to_html(reports["en"], "en")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style and "overflow-x: auto" in style
    assert '<meta name="viewport" content="width=device-width' in text
    assert "<!DOCTYPE html>" in text[:20] and "<!DOCTYPE svg" not in text


def without_code(markdown: str) -> str:
    """Without fenced blocks, whose text is shown as it is."""
    return re.sub(r"```\n.*?```\n", "", markdown, flags=re.DOTALL)


def test_bad_names_stay_text() -> None:
    blocks = [
        Heading(NASTY, 1), Heading(NASTY), Text(NASTY), Code(NASTY), Table((NASTY,), ((NASTY,), (Strong(NASTY),))),
        Details(NASTY, [Text(NASTY)]), Figure("f", "<svg></svg>", NASTY), Caution(NASTY), Bullets([NASTY, NASTY]),
    ]  # fmt: skip
    html, markdown = to_html(blocks, "en"), to_markdown(blocks)
    assert {type(block) for block in blocks} == set(get_args(Block))
    assert "<script" not in html and html.count("&lt;script&gt;") == 15
    assert "<script" not in without_code(markdown)
    assert r"\](javascript" in markdown and not re.search(r"(?<!\\)\]\(javascript", without_code(markdown))


def test_bad_names_from_files_stay_text(reports: dict[str, list[Block]]) -> None:
    blocks = reports["en"]
    for text in (to_html(blocks, "en"), without_code(to_markdown(blocks))):
        assert "<script" not in text and "<b>" not in text and "<i>" not in text
        assert "alert(1)" in text and "class&lt;/b&gt;" in text


def test_code_cannot_end_early() -> None:
    assert to_markdown([Code("a\n```\n<b>")]).count("```") == 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_tables_in_markdown_are_well_formed(reports: dict[str, list[Block]], language: str) -> None:
    lines = to_markdown(reports[language]).splitlines()
    tables: list[list[int]] = []
    for line, before in zip(lines, ["", *lines], strict=False):
        if line.startswith("|"):
            assert line.endswith("|")
            tables += [] if before.startswith("|") else [[]]
            tables[-1].append(len(re.findall(r"(?<!\\)\|", line)) - 1)
    assert len(tables) > 12
    assert all(len(rows) > 2 and len(set(rows)) == 1 for rows in tables)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b", r"a\|b"), ("lora_rank=4", "lora_rank=4"), ("_x_", r"\_x\_"), ("**x**", r"\*\*x\*\*"),
        ("[a](b)", r"\[a\](b)"), ("[1](b)", r"[1\](b)"), ("+0.1 [-0.2, +0.3]", "+0.1 [-0.2, +0.3]"),
        ("a\n# b", "a # b"), ("<b>&", "&lt;b&gt;&amp;"),
    ],
)  # fmt: skip
def test_escapes_in_markdown(text: str, written: str) -> None:
    assert escape(text) == written


def test_a_row_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="another number of cells"):
        Table(("a", "b"), (("1",),))


def test_both_languages_have_the_same_words() -> None:
    assert list(ENGLISH) == list(KOREAN)
    for key, text in ENGLISH.items():
        assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", KOREAN[key])), key


# What is the same in both: names of methods and metrics, and patterns without words.
UNTRANSLATED = {
    "bwt", "n", "component_dia", "component_lora", "difference_in", "top_minus_baseline", "reading", "of_baseline",
    "contradiction", "aupro",
}  # fmt: skip


def test_korean_is_korean() -> None:
    plain = {key for key, text in KOREAN.items() if not HANGUL.search(text)}
    assert plain <= UNTRANSLATED
    assert not any(HANGUL.search(text) for text in ENGLISH.values())


def test_no_english_is_left_in_the_korean_document(reports: dict[str, list[Block]]) -> None:
    english, korean = reports["en"], reports["ko"]
    assert [type(block) for block in english] == [type(block) for block in korean]
    assert len(headings(korean)) == len(headings(english)) > 12
    assert all(HANGUL.search(text) for text in headings(korean))
    sentences = [text for text in ENGLISH.values() if text.count(" ") > 3 and "{" not in text]
    text = to_markdown(korean)
    assert sentences and not [sentence for sentence in sentences if sentence in text]
    for figure in figures_of(korean):
        assert HANGUL.search(figure.svg) and HANGUL.search(figure.caption)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_input_gives_the_same_bytes(sweep: Path, tmp_path: Path, language: str) -> None:
    for name in ("a", "b"):
        write_report([str(sweep)], tmp_path / name, language)
    first, second = (sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("a", "b"))
    assert [p.relative_to(tmp_path / "a") for p in first] == [p.relative_to(tmp_path / "b") for p in second]
    assert {p.name for p in first} >= {"report.md", "report.html", "trade-off.svg", "routing.svg", "dia_blocks.svg"}
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


def test_figures_are_files_whose_text_is_text(sweep: Path, tmp_path: Path) -> None:
    write_report([str(sweep)], tmp_path)
    linked = re.findall(r"\]\((figures/[\w-]+\.svg)\)", (tmp_path / "report.md").read_text())
    assert len(linked) == len(set(linked)) >= 3
    for name in linked:
        root = ElementTree.parse(tmp_path / name).getroot()
        texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert root.tag.endswith("svg") and len(texts) > 4
    drawn = (tmp_path / "figures" / "dia_blocks.svg").read_text()
    assert "image AUROC" in drawn and "Noto Sans KR" in drawn and "metadata" not in drawn


def test_two_real_runs(data: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        real_run(data, tmp_path / "runs", seed=seed, num_epochs=1, heatmaps=0)
    blocks = build_report([str(tmp_path / "runs")])
    (row,) = [b for b in blocks if isinstance(b, Table) and b.columns[0] == "Rank"][0].rows
    assert row[2] == "2" and " \u00b1 " in row[3]
    assert {"routing"} == {figure.name for figure in figures_of(blocks)}
    assert "One configuration alone is no ranking" in to_markdown(blocks)
