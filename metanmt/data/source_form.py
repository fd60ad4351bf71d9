"""The form in which a model reads its sources: as written, in lower case, or also without accents.

A language with little text has few examples of each word, and a vocabulary that is shared by many languages few pieces
for each. "Trebuie" at the head of a sentence and "trebuie" within one are two words to a model, and Romanian "să" has
nothing in common with any piece of Spanish. What is lost is small on the source side; targets stay as they are written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

SourceForm = Literal["written", "lowercase", "plain"]

RULES = "nmt_nfkc"
"""By which every source is normalised, by SentencePiece: compatibility forms, and what is like a space."""

ACCENTS = "[\u0300-\u036f]"
"""Marks above and below letters of Latin, Greek and Cyrillic; those of other scripts, often vowels, are no accents."""

_accents = re.compile(ACCENTS)


def in_form(sentences: Sequence[str], form: SourceForm) -> list[str]:
    """Return the sentences as written; in lower case; or plain, in lower case without accents.

    A final sigma becomes an ordinary one, as in case folding.
    """
    if form == "written":
        return list(sentences)
    lower = [sentence.lower().replace("ς", "σ") for sentence in sentences]
    return lower if form == "lowercase" else [_without_accents(sentence) for sentence in lower]


def _without_accents(sentence: str) -> str:
    if sentence.isascii():
        return sentence
    return unicodedata.normalize("NFC", _accents.sub("", unicodedata.normalize("NFD", sentence)))


def form_normalizers(form: SourceForm) -> list[Any]:
    """Return what does the same to a text in the `tokenizers` library, in this order."""
    from tokenizers import Regex, normalizers

    lower = [normalizers.Lowercase(), normalizers.Replace("ς", "σ")]
    accents = [normalizers.NFD(), normalizers.Replace(Regex(ACCENTS), ""), normalizers.NFC()]
    return {"written": [], "lowercase": lower, "plain": [*lower, *accents]}[form]


def as_sources(sentences: Sequence[str]) -> list[str]:
    """Return sentences as sources are normalised before they are cut into pieces."""
    return list(source_normalizer().normalize(list(sentences)))


@cache
def source_normalizer() -> Any:
    """Return what does so, a SentencePiece normalizer."""
    import sentencepiece

    return sentencepiece.SentencePieceNormalizer(rule_name=RULES, add_dummy_prefix=False, escape_whitespaces=False)
