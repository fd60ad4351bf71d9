"""Leakage: no dev or test sentence of an unseen pair may occur in any training text, on either side."""

from __future__ import annotations

import functools
import sys
import unicodedata

from metanmt.data.cleaning import hash64


@functools.cache
def _table() -> dict[int, None]:
    """Return a translation table that deletes punctuation, symbols, spaces and marks of formatting."""
    return {
        code: None
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code))[0] in "PSZC" and not 0xD800 <= code <= 0xDFFF
    }


def normalized(sentence: str) -> str:
    """Return what is compared: NFKC, case folded, only letters, marks and digits.

    A sentence without any letter or digit is compared as it stands.
    """
    folded = unicodedata.normalize("NFKC", sentence).casefold()
    return folded.translate(_table()) or sentence


class HeldOut:
    """The normalised dev and test sentences of all meta-dev and meta-test pairs, as 64-bit hashes."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def add(self, source: str, target: str) -> None:
        """Hold out both sides of a pair."""
        self._hashes.update((hash64(normalized(source)), hash64(normalized(target))))

    def leaks(self, source: str, target: str) -> bool:
        """Return whether either side of a training pair is held out."""
        return hash64(normalized(source)) in self._hashes or hash64(normalized(target)) in self._hashes

    def __len__(self) -> int:
        return len(self._hashes)
