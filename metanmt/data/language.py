"""Languages and pairs of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from metanmt.errors import UsageError

CODE = re.compile(r"[A-Za-z0-9_]+")
CHINESE, JAPANESE = ("zh", "zho", "cmn", "yue"), ("ja", "jpn")
OTHERS_WITHOUT_SPACES = ("th", "tha", "km", "khm", "lo", "lao", "my", "mya")
CHARACTERS_A_WORD = {**dict.fromkeys((*CHINESE, *JAPANESE), 2), **dict.fromkeys(OTHERS_WITHOUT_SPACES, 5)}
"""About so many make a word where no spaces part words: for budgets, which need not be exact."""


def base_language(code: str) -> str:
    """Return the language of a code with a region or script: "pt" of pt_BR."""
    return code.partition("_")[0].lower()


def count_words(sentence: str, language: str) -> int:
    """Return how many words a sentence has: those that white space parts, or where none does, by its characters."""
    if characters := CHARACTERS_A_WORD.get(base_language(language)):
        return -(-sum(map(len, sentence.split())) // characters)
    return len(sentence.split())


@dataclass(frozen=True, order=True)
class Pair:
    """A translation direction: from `source` into `target`."""

    source: str
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the pair that "fi-en" names: letters, digits and underscores on each side of one hyphen.

        Raises:
            UsageError: the text is not of that form, or both sides are the same.
        """
        source, hyphen, target = text.partition("-")
        remedy = "Write it as SOURCE-TARGET, such as fi-en; a code of several parts with underscores: pt_BR-en."
        if not (hyphen and CODE.fullmatch(source) and CODE.fullmatch(target)):
            raise UsageError(f"{text!r} is not a language pair.", remedy)
        if source == target:
            raise UsageError(f"{text!r} is not a language pair: both sides are the same language.", remedy)
        return cls(source, target)

    def turned(self) -> Self:
        """Return the pair of the other direction."""
        return type(self)(self.target, self.source)

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"
