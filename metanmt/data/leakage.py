"""Leakage: no dev or test sentence may occur in any training text, on either side, of any pair.

Parallel corpora share their English side: the same verse, headline or proverb stands in twenty pairs. A split by line
number therefore leaks the references of one pair through the training text of another.
"""

from __future__ import annotations

import unicodedata

from metanmt.data.cleaning import hash64


class _Deletions(dict[int, int | None]):
    """A table for `str.translate` that deletes punctuation, symbols, separators and format characters.

    It learns a character when it first meets it, since a full table would hold a million entries.
    """

    def __missing__(self, code: int) -> int | None:
        kept = None if unicodedata.category(chr(code))[0] in "PSZC" else code
        self[code] = kept
        return kept


_DELETIONS = _Deletions()


def normalized(sentence: str) -> str:
    """Return what is compared: NFKC, case folded, only letters, marks and digits.

    A sentence that has none of these ("!?") is compared as it stands. However short a sentence is, it is compared: a
    training text can spare "Yes.", and an exception would make the promise untrue.
    """
    folded = sentence.casefold()
    if not sentence.isascii():  # again after folding: what some letters fold into is composed otherwise
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", sentence).casefold())
    return folded.translate(_DELETIONS) or sentence


class HeldOut:
    """The sentences of dev and test sets, both sides alike, as 64-bit hashes of their normalised form."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def add(self, source: str, target: str) -> None:
        """Hold out both sides of a pair."""
        self._hashes.add(hash64(normalized(source)))
        self._hashes.add(hash64(normalized(target)))

    def leaks(self, source: str, target: str) -> bool:
        """Return whether either side of a pair is held out, in whichever language it was."""
        return hash64(normalized(target)) in self._hashes or hash64(normalized(source)) in self._hashes

    def __len__(self) -> int:
        return len(self._hashes)
