"""What every page gets: escaped text, styles and scripts as they stand, an error for what a template was not given."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from moleflow_fast.pages import templates

SOURCE = """\
{% extends "page.html" %}
{% block body %}
<p>{{ note }}</p>
<script>{{ text("odd.js") }}</script>
{% endblock %}
"""
SCRIPT = "const {{a}} = '<b>{% no template %}'; {# nor a comment #}\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "package_of_a_page"
    folder.mkdir()
    for name, content in (("__init__.py", ""), ("one.html", SOURCE), ("odd.js", SCRIPT)):
        (folder / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name


def test_text_is_escaped_and_scripts_are_not(package: str) -> None:
    page = templates.template(package, "one.html").render(language="en", title="<i>", note="<b>&\"'")
    assert "<title>&lt;i&gt;</title>" in page and "<p>&lt;b&gt;&amp;&#34;&#39;</p>" in page
    assert f"<script>{SCRIPT}</script>" in page
    assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n") and "color-scheme" in page


def test_what_is_missing_is_an_error(package: str) -> None:
    with pytest.raises(UndefinedError, match="note"):
        templates.template(package, "one.html").render(language="en", title="t")
