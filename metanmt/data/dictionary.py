"""Seed dictionaries between two languages of one vocabulary: identical strings, numerals, word alignments.

An entry is a piece of the one language and a piece of the other, as two ids of the shared vocabulary.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from metanmt.data.alignment import Ids, align
from metanmt.data.fast_twin import WORD_START
from metanmt.data.store import Bitext

Entries = NDArray[np.int64]
"""A dictionary: (n, 2), a source id and a target id each."""

SHORTEST_IDENTICAL = 4  # letters: shorter strings are alike by chance
FEWEST, SUREST = 3, 0.2


def same_strings(pieces: Sequence[str], source: Ids, target: Ids) -> Entries:
    """Return the pieces that both languages have and that mean the same for all we know.

    These are strings without a letter, such as punctuation, and those of four letters or more, such as names.

    Args:
        pieces: of the vocabulary, by id.
        source, target: ids that occur in each language.
    """
    both = np.intersect1d(source, target)
    kept = [index for index in both.tolist() if _telling(pieces[index].removeprefix(WORD_START))]
    return np.array([(index, index) for index in kept], dtype=np.int64).reshape(-1, 2)


def _telling(text: str) -> bool:
    return bool(text) and (len(text) >= SHORTEST_IDENTICAL or not any(character.isalpha() for character in text))


def same_numbers(pieces: Sequence[str], source: Ids, target: Ids) -> Entries:
    """Return the pieces that spell one number in each language, be it in digits of different scripts."""
    spelled: dict[str, int] = {}
    for index in target.tolist():
        if number := _number(pieces[index]):
            spelled.setdefault(number, index)
    found = [(index, spelled[n]) for index in source.tolist() if (n := _number(pieces[index])) in spelled]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _number(piece: str) -> str:
    """Return a numeral in ASCII digits, with the mark of a word's start, or nothing."""
    text = piece.removeprefix(WORD_START)
    digits = [unicodedata.decimal(character, -1) for character in text]
    return piece[: len(piece) - len(text)] + "".join(map(str, digits)) if text and min(digits) >= 0 else ""


def word_alignments(bitexts: Sequence[Bitext], special: Collection[int], vocabulary_size: int) -> Entries:
    """Return the pieces that translate each other in parallel text, in both directions the likeliest.

    An entry is a pair of pieces of which each is the other's likeliest translation, that were linked thrice or more,
    with a geometric mean of both probabilities of 0.2 or more.

    Args:
        bitexts, special, vocabulary_size: as for `align`.
    """
    found = align(bitexts, special, vocabulary_size)
    if not len(found.source):
        return np.zeros((0, 2), dtype=np.int64)
    sure = np.sqrt(found.forward * found.backward)
    best = (found.links == _largest(found.links, found.source)) & (found.links == _largest(found.links, found.target))
    kept = best & (sure >= SUREST) & (found.links >= FEWEST)
    return np.stack([found.source[kept], found.target[kept]], axis=1)


def _largest(values: NDArray[np.float64], group: Ids) -> NDArray[np.float64]:
    """Return, for every value, the largest of its group."""
    largest = np.zeros(int(group.max()) + 1)
    np.maximum.at(largest, group, values)
    return largest[group]
