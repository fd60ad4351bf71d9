"""Word alignment of tokenised text: IBM model 1 in both directions, which agree, of words that are near in place.

Model 1 is of Brown, Della Pietra, Della Pietra, Mercer 1993, "The Mathematics of Statistical Machine Translation"; that
the two directions are to agree while they learn, of Liang, Taskar, Klein 2006, "Alignment by Agreement"; and that a
sentence's words keep roughly the order of its translation's, of Dyer, Chahuneau, Smith 2013, "A Simple, Fast, and
Effective Reparameterization of IBM Model 2". A few hundred sentences leave open what translates what; the last two say.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from metanmt.data.store import Bitext, Side

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

LONGEST_ALIGNED = 40  # tokens a side: the links of a sentence pair are the product of both
MOST_LINKS = 4_000_000  # of one word alignment: a few hundred MiB
ROUNDS = 5
TENSION = 1.5  # how steeply links grow rarer off the diagonal: exp(-1.5 |i/m - j/n|)


@dataclass(frozen=True)
class Alignment:
    """Every pair of pieces that occur in a sentence pair and its translation, and how often they were linked.

    Args:
        source, target: ids of the two pieces, (n,).
        links: expected number of their links.
    """

    source: Ids
    target: Ids
    links: Floats

    @property
    def forward(self) -> Floats:
        """The probability of the target piece given the source piece, (n,)."""
        return _shared(self.links, self.source)

    @property
    def backward(self) -> Floats:
        """The probability of the source piece given the target piece, (n,)."""
        return _shared(self.links, self.target)


def align(
    bitexts: Sequence[Bitext], special: Collection[int], vocabulary_size: int, longest: int = LONGEST_ALIGNED
) -> Alignment:
    """Return the word alignment of parallel text.

    Every token has one link in each direction, and what counts is the geometric mean of a link's probabilities in both.

    Args:
        bitexts: tokenised sentence pairs; from the first on, as many as four million links allow, pairs of a token and
            one of its translation.
        special: ids that are no piece of text.
        vocabulary_size: ids there are.
        longest: tokens a side of a sentence pair that counts.
    """
    found = _links(bitexts, np.array(sorted(special)), longest)
    types, link_type = np.unique(found.source * vocabulary_size + found.target, return_inverse=True)
    source, target = types // vocabulary_size, types % vocabulary_size
    near = np.exp(-TENSION * found.apart)
    forward = backward = links = np.ones(len(types))
    for _ in range(ROUNDS + 1):
        chosen = _shared(forward[link_type] * near, found.target_token)
        chosen *= _shared(backward[link_type] * near, found.source_token)
        links = np.bincount(link_type, np.sqrt(chosen), minlength=len(types)).astype(np.float64)
        forward, backward = _shared(links, source), _shared(links, target)
    return Alignment(source, target, links)


@dataclass(frozen=True)
class _Links:
    """Every possible link within a sentence pair, (L,).

    Args:
        source, target: its two ids.
        source_token, target_token: which tokens of the text they are.
        apart: how far apart these are in their sentences, of which each is 1 long.
    """

    source: Ids
    target: Ids
    source_token: Ids
    target_token: Ids
    apart: Floats


def _links(bitexts: Sequence[Bitext], special: Ids, longest: int) -> _Links:
    """Return the links of sentence pairs, from the first on, that are short enough, as many as there may be."""
    empty = np.zeros(0, dtype=np.int64)
    parts = [_Links(empty, empty, empty, empty, np.zeros(0))]
    left, tokens = MOST_LINKS, 0
    for bitext in bitexts:
        drawn = bitext.shorter_than(longest)
        links = np.cumsum(bitext.source.lengths(drawn) * bitext.target.lengths(drawn))
        text = bitext.take(drawn[: np.searchsorted(links, left)])
        part = _links_of(_without(text.source, special), _without(text.target, special), tokens)
        parts.append(part)
        left, tokens = left - len(part.source), tokens + max(len(text.source.ids), len(text.target.ids))
    return _Links(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(_Links)))


def _links_of(source: Side, target: Side, tokens: int) -> _Links:
    """Return the links of a text, whose tokens on each side are numbered from `tokens` on."""
    rows, columns = np.diff(source.offsets), np.diff(target.offsets)
    number = np.repeat(np.arange(len(rows)), rows * columns)
    place = np.arange(len(number)) - (np.cumsum(rows * columns) - rows * columns)[number]
    row, column = place // columns[number], place % columns[number]
    apart = np.abs(row / rows[number] - column / columns[number])
    one, other = row + source.offsets[number], column + target.offsets[number]
    return _Links(
        source.ids[one].astype(np.int64), target.ids[other].astype(np.int64), tokens + one, tokens + other, apart
    )


def _without(side: Side, special: Ids) -> Side:
    """Return the sentences without some ids."""
    kept = ~np.isin(side.ids, special)
    return Side(side.ids[kept], np.concatenate([[0], np.cumsum(kept)])[side.offsets])


def _shared(weight: Floats, group: Ids) -> Floats:
    """Return weights as shares of what their group has together."""
    shares: Floats = weight / np.bincount(group, weight)[group]
    return shares
