"""Seed dictionaries between two languages of one vocabulary: identical strings, numerals, word alignments.

An entry is a piece of the one language and a piece of the other, as two ids of the shared vocabulary.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from metanmt.data.store import Bitext, Side
from metanmt.data.tokenizer import WORD_START

Ids = NDArray[np.int64]
Entries = NDArray[np.int64]
"""A dictionary: (n, 2), a source id and a target id each."""

SHORTEST_IDENTICAL = 4  # letters: shorter strings are alike by chance
LONGEST_ALIGNED = 40  # tokens a side: the links of a sentence pair are the product of both
MOST_LINKS = 4_000_000  # of one word alignment: a few hundred MiB
ROUNDS = 5
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

    IBM model 1 is trained in each direction; an entry is a pair of pieces of which each is the other's likeliest
    translation, that were linked thrice or more, with a geometric mean of both probabilities of 0.2 or more.

    Args:
        bitexts: tokenised sentence pairs; from the first on, as many as 4 million links allow.
        special: ids that are no piece of text.
        vocabulary_size: ids there are.

    Reference: Brown, Della Pietra, Della Pietra, Mercer 1993, "The Mathematics of Statistical Machine Translation".
    """
    source, target, place_source, place_target = _links(bitexts, np.array(sorted(special)))
    if not len(source):
        return np.zeros((0, 2), dtype=np.int64)
    types, link_type = np.unique(source * vocabulary_size + target, return_inverse=True)
    type_source, type_target = types // vocabulary_size, types % vocabulary_size
    forward, counts = _model_1(link_type, type_source, place_target)
    backward, _ = _model_1(link_type, type_target, place_source)
    sure = np.sqrt(forward * backward)
    best = (forward == _largest(forward, type_source)) & (backward == _largest(backward, type_target))
    kept = best & (sure >= SUREST) & (counts >= FEWEST)
    return np.stack([type_source[kept], type_target[kept]], axis=1)


def _links(bitexts: Sequence[Bitext], special: Ids) -> tuple[Ids, Ids, Ids, Ids]:
    """Return every possible link within a sentence pair: its two ids, and which token of the text each of them is."""
    parts: list[tuple[Ids, Ids, Ids, Ids]] = []
    links, tokens = 0, 0
    for bitext in bitexts:
        for number in bitext.shorter_than(LONGEST_ALIGNED).tolist():
            one, other = (_without(side, number, special) for side in (bitext.source, bitext.target))
            rows, columns = np.repeat(np.arange(len(one)), len(other)), np.tile(np.arange(len(other)), len(one))
            parts.append((one[rows], other[columns], tokens + rows, tokens + columns))
            tokens += max(len(one), len(other))
            links += len(rows)
            if links > MOST_LINKS:
                break
    if not parts:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, empty, empty
    source, target, place_source, place_target = (np.concatenate(part) for part in zip(*parts, strict=True))
    return source, target, place_source, place_target


def _without(side: Side, number: int, special: Ids) -> Ids:
    ids = side.sentence(number).astype(np.int64)
    return ids[~np.isin(ids, special)]


def _model_1(link_type: Ids, given: Ids, place: Ids) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, for every type of link, the probability of its one id given the other, and its expected count.

    Args:
        link_type: of every link, (L,).
        given: the id that is given, of every type.
        place: of every link, the token that the other id is: its links share one unit of probability.
    """
    probability = counts = np.ones(len(given))
    for _ in range(ROUNDS):
        weight = probability[link_type]
        weight /= np.bincount(place, weight)[place]
        counts = np.bincount(link_type, weight, minlength=len(given)).astype(np.float64)
        probability = counts / np.bincount(given, counts)[given]
    return probability, counts


def _largest(values: NDArray[np.float64], group: Ids) -> NDArray[np.float64]:
    """Return, for every value, the largest of its group."""
    largest = np.zeros(int(group.max()) + 1)
    np.maximum.at(largest, group, values)
    return largest[group]
