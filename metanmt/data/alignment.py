"""Word alignment of tokenised text: IBM model 1 in both directions.

Reference: Brown, Della Pietra, Della Pietra, Mercer 1993, "The Mathematics of Statistical Machine Translation".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metanmt.data.store import Bitext, Side

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

LONGEST_ALIGNED = 40  # tokens a side: the links of a sentence pair are the product of both
MOST_LINKS = 4_000_000  # of one word alignment: a few hundred MiB
ROUNDS = 5


@dataclass(frozen=True)
class Alignment:
    """Every pair of pieces that occur in a sentence pair and its translation, and what model 1 makes of them.

    Args:
        source, target: ids of the two pieces, (n,).
        forward: probability of the target piece given the source piece.
        backward: of the source piece given the target piece.
        forward_counts: expected number of links, where each target token has one.
        agreed: where each token has one and the two directions have to agree: the geometric mean of the links'
            probabilities in each (Liang, Taskar, Klein 2006, "Alignment by Agreement", multiply them).
    """

    source: Ids
    target: Ids
    forward: Floats
    backward: Floats
    forward_counts: Floats
    agreed: Floats


def align(
    bitexts: Sequence[Bitext], special: Collection[int], vocabulary_size: int, longest: int = LONGEST_ALIGNED
) -> Alignment:
    """Return the word alignment of parallel text.

    Args:
        bitexts: tokenised sentence pairs; from the first on, as many as four million links allow, pairs of a token and
            one of its translation.
        special: ids that are no piece of text.
        vocabulary_size: ids there are.
        longest: tokens a side of a sentence pair that counts.
    """
    source, target, place_source, place_target = _links(bitexts, np.array(sorted(special)), longest)
    if not len(source):
        ids, floats = np.zeros(0, dtype=np.int64), np.zeros(0)
        return Alignment(ids, ids, floats, floats, floats, floats)
    types, link_type = np.unique(source * vocabulary_size + target, return_inverse=True)
    type_source, type_target = types // vocabulary_size, types % vocabulary_size
    forward, forward_counts = _model_1(link_type, type_source, place_target)
    backward, _ = _model_1(link_type, type_target, place_source)
    both = np.sqrt(_shared(forward[link_type], place_target) * _shared(backward[link_type], place_source))
    agreed = np.bincount(link_type, both, minlength=len(types)).astype(np.float64)
    return Alignment(type_source, type_target, forward, backward, forward_counts, agreed)


def _links(bitexts: Sequence[Bitext], special: Ids, longest: int) -> tuple[Ids, Ids, Ids, Ids]:
    """Return every possible link within a sentence pair: its two ids, and which token of the text each of them is."""
    parts: list[tuple[Ids, Ids, Ids, Ids]] = []
    links, tokens = 0, 0
    for bitext in bitexts:
        for number in bitext.shorter_than(longest).tolist():
            if links > MOST_LINKS:
                break
            one, other = (_without(side, number, special) for side in (bitext.source, bitext.target))
            rows, columns = np.repeat(np.arange(len(one)), len(other)), np.tile(np.arange(len(other)), len(one))
            parts.append((one[rows], other[columns], tokens + rows, tokens + columns))
            tokens += max(len(one), len(other))
            links += len(rows)
    if not parts:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, empty, empty
    source, target, place_source, place_target = (np.concatenate(part) for part in zip(*parts, strict=True))
    return source, target, place_source, place_target


def _without(side: Side, number: int, special: Ids) -> Ids:
    ids = side.sentence(number).astype(np.int64)
    return ids[~np.isin(ids, special)]


def _model_1(link_type: Ids, given: Ids, place: Ids) -> tuple[Floats, Floats]:
    """Return, for every type of link, the probability of its one id given the other, and its expected count.

    Args:
        link_type: of every link, (L,).
        given: the id that is given, of every type.
        place: of every link, the token that the other id is: its links share one unit of probability.
    """
    probability = counts = np.ones(len(given))
    for _ in range(ROUNDS):
        counts = np.bincount(link_type, _shared(probability[link_type], place), minlength=len(given)).astype(np.float64)
        probability = counts / np.bincount(given, counts)[given]
    return probability, counts


def _shared(weight: Floats, place: Ids) -> Floats:
    """Return weights of links, of which those of each token share one unit."""
    return weight / np.bincount(place, weight)[place]
