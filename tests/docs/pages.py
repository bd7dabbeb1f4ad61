"""What is wrong with a page of the documentation: each check gives its faults as lines of text."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST = 120
COMMANDS = ROOT / "moleflow_fast" / "cli"
_SUFFIXES = ("py", "md", "js", "cpp", "cu", "h", "csv", "json", "toml", "svg", "png", "j2")
_ANYWHERE = ("py", "md", "js", "cpp", "cu", "h")  # a name without its folder: one of this kind is the repository's
_TOP = ("moleflow_fast", "bench", "tests", "docs", "csrc", "kernels", "examples")
_TOKEN = re.compile(rf"(?<![\w.*>/])[\w./-]+\.(?:{'|'.join(_SUFFIXES)})(?![\w*])")
_OF_OTHER_COMMANDS = frozenset(
    {"--kills", "--seed", "--cases", "--gigabytes", "--csv", "--coreset", "--results", "--minutes", "--benchmark-only"}
)
_EXEMPT = re.compile(r"^\s*\||https?://")  # a table's row cannot be wrapped, nor a URL

Check = Callable[[Path], Iterator[str]]


def pages() -> list[Path]:
    """README and what was written by hand; the example report is generated."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def long_lines(page: Path) -> Iterator[str]:
    for number, line in enumerate(_lines(page), 1):
        if len(line) > LONGEST and not _EXEMPT.search(line):
            yield f"line {number} is {len(line)} wide"


def broken_links(page: Path) -> Iterator[str]:
    text = _without_code(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            yield f"link to {target}: no such file"
        elif anchor and anchor not in _anchors(file):
            yield f"link to {target}: no such heading"


def unknown_commands(page: Path) -> Iterator[str]:
    for words in _commands(page):
        name = _command_of(words)
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            yield from (f"make {t}: no such target" for t in targets if t not in _targets())
        elif name is not None and not _is_command(name, words[0]):
            yield f"{' '.join(words[:3])}: no such command"


def unknown_options(page: Path) -> Iterator[str]:
    """Of a command in a code block, its own; of those named in the text, an option of any command."""
    for words in _commands(page):
        name = _command_of(words)
        if name not in _names():
            continue
        yield from (f"{name} has no {option}" for option in _options_in(words) if option not in options_of(name))
    everything = frozenset().union(*(options_of(name) for name in _names()))
    for code in _inline(page):
        for option in re.findall(r"(?<![\w-])--[a-z]\w*(?:-\w+)*", code) if code.startswith("--") else ():
            if option not in everything | _OF_OTHER_COMMANDS:
                yield f"no command has {option}"


def missing_files(page: Path) -> Iterator[str]:
    for code in [*_inline(page), *(" ".join(words) for words in _commands(page))]:
        for token in _TOKEN.findall(code):
            if not _is_here(token, page):
                yield f"{token}: no such file in the repository"


CHECKS: tuple[Check, ...] = (long_lines, broken_links, unknown_commands, unknown_options, missing_files)


@cache
def options_of(name: str) -> frozenset[str]:
    """What `--help` of a command shows. A sweep takes those of training too."""
    module = importlib.import_module(f"moleflow_fast.cli.{name}")
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        module.main(["--help"])
    own = frozenset(re.findall(r"(?<![\w-])--[a-z]\w*", shown.getvalue()))
    return own | options_of("train") if name in ("sweep", "demo") else own


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def _lines(page: Path) -> list[str]:
    return page.read_text(encoding="utf-8").splitlines()


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def _inline(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def _commands(page: Path) -> Iterator[list[str]]:
    """Words of every `moleflow`, `python` and `make` in code."""
    text = page.read_text(encoding="utf-8")
    shell = [content for language, content in blocks(text) if language in ("", "bash", "sh")]
    lines = [line for content in shell for line in content.replace("\\\n", " ").splitlines()]
    for line in [*lines, *_inline(page)]:
        plain = re.sub(r"^(?:\s|[A-Z_]+=(?:\$\([^)]*\)|\S+)\s)*", "", re.sub(r"\s#.*", "", line))
        if re.match(r"(moleflow|python|make)\s", plain) and plain.count('"') % 2 == 0:
            yield shlex.split(plain)


def _command_of(words: list[str]) -> str | None:
    """`train` of `moleflow train` and `python -m moleflow_fast.train`."""
    if words[0] == "moleflow":
        return words[1]
    if "-m" in words[:3]:
        package, _, name = words[words.index("-m") + 1].partition(".")
        return name if package == "moleflow_fast" else None
    return None


def _is_command(name: str, program: str) -> bool:
    if name in ("--version", "--help", "NAME"):
        return True
    place = ROOT / "moleflow_fast" / name.replace(".", "/")
    as_module = place.with_suffix(".py").exists() or (place / "__main__.py").exists()
    return name in _names() if program == "moleflow" else as_module


@cache
def _names() -> frozenset[str]:
    """Modules of cli/ that are commands; beside them stand what all share."""
    command = re.compile(r"^def build_parser\(", re.MULTILINE)
    return frozenset(file.stem for file in COMMANDS.glob("*.py") if command.search(file.read_text()))


def _options_in(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def _anchors(file: Path) -> frozenset[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", file.read_text(), flags=re.DOTALL | re.MULTILINE), re.M
    )
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@cache
def _files() -> frozenset[str]:
    """Every path of the repository, and each of its ends."""
    found = (file for top in _TOP for file in (ROOT / top).rglob("*") if "__pycache__" not in file.parts)
    whole = [*(file.relative_to(ROOT) for file in found), *(Path(file.name) for file in ROOT.iterdir())]
    return frozenset("/".join(path.parts[i:]) for path in whole for i in range(len(path.parts)))


def _is_here(token: str, page: Path) -> bool:
    ours = token.startswith(_TOP) or token.rpartition(".")[2] in _ANYWHERE
    example = token.startswith(("/", "-", ".")) or "/" not in token and token in _EXAMPLES
    placeholder = "NAME" in token or "WAY" in token
    return not ours or example or placeholder or token in _files() or (page.parent / token).exists()


_EXAMPLES = frozenset({"report.md"})  # what commands write
