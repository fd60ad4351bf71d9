"""Word alignment: by what occurs together, where both directions agree, and by place."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest

from metanmt.data import alignment
from metanmt.data.alignment import ROUNDS, TENSION, align
from metanmt.data.store import Bitext, Side

END = 2
Sentences = list[tuple[list[int], list[int]]]


def bitext(pairs: Sentences) -> Bitext:
    source, target = (Side.of([[*pair[side], END] for pair in pairs]) for side in (0, 1))
    return Bitext(source, target, np.array([len(pair[1]) for pair in pairs]))


def spelled_out(pairs: Sentences) -> dict[tuple[int, int], float]:
    """Return the expected links, word by word."""
    forward: dict[tuple[int, int], float] = defaultdict(lambda: 1.0)
    backward: dict[tuple[int, int], float] = defaultdict(lambda: 1.0)
    links: dict[tuple[int, int], float] = {}
    for _ in range(ROUNDS + 1):
        links = defaultdict(float)
        for source, target in pairs:
            near = [
                [math.exp(-TENSION * abs(i / len(source) - j / len(target))) for j in range(len(target))]
                for i in range(len(source))
            ]
            for i, one in enumerate(source):
                for j, other in enumerate(target):
                    weight = forward[one, other] * near[i][j], backward[one, other] * near[i][j]
                    of_target = sum(forward[word, other] * near[k][j] for k, word in enumerate(source))
                    of_source = sum(backward[one, word] * near[i][k] for k, word in enumerate(target))
                    links[one, other] += math.sqrt(weight[0] / of_target * weight[1] / of_source)
        for one, other in links:
            forward[one, other] = links[one, other] / sum(value for key, value in links.items() if key[0] == one)
            backward[one, other] = links[one, other] / sum(value for key, value in links.items() if key[1] == other)
    return links


PAIRS: Sentences = [
    ([3, 4, 5], [10, 11]),
    ([4, 6], [11, 12, 10]),
    ([3, 3], [10]),
    ([], [11]),
    ([5, 6, 3], [12, 13, 10]),
]


@pytest.mark.parametrize("parts", [1, 2])
def test_links_are_those_of_the_formula(parts: int) -> None:
    found = align([bitext(PAIRS[part::parts]) for part in range(parts)], [END], 20)
    expected = spelled_out(PAIRS)
    got = dict(zip(zip(found.source.tolist(), found.target.tolist(), strict=True), found.links.tolist(), strict=True))
    assert got == pytest.approx(dict(expected))
    for given, probability in ((found.source, found.forward), (found.target, found.backward)):
        assert np.bincount(given, probability)[np.unique(given)] == pytest.approx(1.0)


def test_place_tells_what_occurrence_leaves_open() -> None:
    found = align([bitext(3 * [([3, 4, 5], [10, 11, 12])])], [END], 20)
    for source, target in ((3, 10), (4, 11), (5, 12)):
        mine = found.source == source
        assert found.target[mine][found.links[mine].argmax()] == target


def test_where_text_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    text = bitext([([3] * 8, [10]), ([4], [11]), ([5], [12]), ([6], [13])])
    assert set(align([text], [END], 20, longest=5).source) == {4, 5, 6}, "too long"
    monkeypatch.setattr(alignment, "MOST_LINKS", 9)
    assert set(align([text, text], [END], 20, longest=5).source) == {4, 5}, "a sentence pair has four, the ends' too"
    assert not len(align([], [END], 20).links)
