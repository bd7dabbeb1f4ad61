"""Arbitrary damage to bytes and to JSON documents, as hypothesis strategies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

JSON_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([2**63, -(2**63), 10**30, 1e308, "", "0", "../../x", "\x00", [[]], {"": {}}])
)
JSON_VALUES = st.recursive(
    JSON_LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged_bytes(draw: st.DrawFn, whole: bytes, start: int = 0) -> bytes:
    """`whole` with one to four wounds: bits, bytes, pieces lost, put in or doubled, half of them near its `start`."""
    content = bytearray(whole)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        near = start and draw(st.booleans())
        at = draw(st.integers(0, max(0, min(len(content), start if near else len(content)) - 1)))
        _WOUNDS[draw(st.integers(0, len(_WOUNDS) - 1))](draw, content, at)
    return bytes(content)


def _flip(draw: st.DrawFn, content: bytearray, at: int) -> None:
    if content:
        content[at] ^= 1 << draw(st.integers(0, 7))


def _overwrite(draw: st.DrawFn, content: bytearray, at: int) -> None:
    put = draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 4, b"\x00" * 8, b"\xff" * 8, b"\x7f"]))
    content[at : at + len(put)] = put


def _lose(draw: st.DrawFn, content: bytearray, at: int) -> None:
    del content[at : at + draw(st.integers(1, 64))]


def _cut(draw: st.DrawFn, content: bytearray, at: int) -> None:
    del content[at:]


def _insert(draw: st.DrawFn, content: bytearray, at: int) -> None:
    content[at:at] = draw(st.binary(min_size=1, max_size=32))


def _double(draw: st.DrawFn, content: bytearray, at: int) -> None:
    content[at:at] = content[at : at + draw(st.integers(1, 512))]


_WOUNDS: tuple[Callable[[st.DrawFn, bytearray, int], None], ...] = (_flip, _overwrite, _lose, _cut, _insert, _double)


@st.composite
def damaged_json(draw: st.DrawFn, whole: Any) -> Any:
    """A document with one to three places replaced, by values of the same or any type, taken out, or added."""
    document = copy.deepcopy(whole)
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        places = list(_places(document))
        if not places:
            return draw(JSON_VALUES)
        owner, key = places[draw(st.integers(0, len(places) - 1))]
        action = draw(st.integers(0, 5))
        if action == 0:
            del owner[key]
        elif action == 1 and isinstance(owner, dict):
            owner[draw(st.text(max_size=12))] = owner[key]
        else:
            owner[key] = draw(JSON_VALUES if action == 2 else _alike(owner[key]))
    return document


def _alike(value: Any) -> st.SearchStrategy[Any]:
    for kind, alike in _OF_TYPE.items():
        if isinstance(value, kind):
            return alike
    return JSON_VALUES


_OF_TYPE: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-2, 100) | st.integers(),
    float: st.floats(0, 1) | st.floats(),
    str: st.text(max_size=12),
}


def _places(document: Any) -> list[tuple[Any, Any]]:
    keys = list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    return [place for key in keys for place in [(document, key), *_places(document[key])]]
