"""Every word of a report's own, one file a language."""

from __future__ import annotations

from moleflow_fast.report.words.english import ENGLISH
from moleflow_fast.report.words.korean import KOREAN

_LANGUAGES = {"en": ENGLISH, "ko": KOREAN}
LANGUAGES = tuple(_LANGUAGES)


class Words:
    """Texts of one language by key, with values filled in."""

    def __init__(self, language: str) -> None:
        self._texts = _LANGUAGES[language]

    def __call__(self, key: str, **values: object) -> str:
        """A text.

        Raises:
            KeyError: there is no such text, or it needs a value that is not given.
        """
        return self._texts[key].format(**values)

    def or_same(self, kind: str, name: str) -> str:
        """The word for an option or factor; the name itself where it has none."""
        return self._texts.get(f"{kind}_{name}", name)

    def names(self, kind: str) -> list[str]:
        """The options, factors or components that have a word, in the order of the table."""
        return [key.removeprefix(f"{kind}_") for key in self._texts if key.startswith(f"{kind}_")]
