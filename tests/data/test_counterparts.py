"""Counterparts: what target pieces are called in the languages of a meta-training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metanmt.data.alignment import align
from metanmt.data.counterparts import COUNTERPARTS_FILE, Counterparts, find_counterparts, merged
from metanmt.data.language import Pair
from metanmt.data.store import Bitext, Side
from metanmt.errors import CheckpointError

VOCABULARY = 20
SPECIAL = (0, 1, 2)
ONE, TWO, RED, DOG = 10, 11, 12, 13  # of the target language
TEXT = [([3, 5], [ONE, DOG]), ([4, 5], [TWO, DOG]), ([3, 6], [ONE, RED]), ([4, 6], [TWO, RED]), ([7, 5], [RED, DOG])]
MEANINGS = {3: ONE, 4: TWO, 5: DOG}


def bitext(lines: list[tuple[list[int], list[int]]]) -> Bitext:
    source, target = (Side.of([[*line[side], 2] for line in lines]) for side in (0, 1))
    return Bitext(source, target, np.array([len(line[1]) for line in lines]))


def other(lines: list[tuple[list[int], list[int]]]) -> Bitext:
    """Return the same text in another language, of ids 14 and up."""
    return bitext([([index + 11 for index in source], target) for source, target in lines])


@pytest.fixture
def counterparts() -> Counterparts:
    texts = [(Pair("de", "en"), bitext(3 * TEXT)), (Pair("sv", "en"), other(TEXT)), (Pair("en", "de"), bitext(TEXT))]
    return merged((find_counterparts(*text, SPECIAL, VOCABULARY) for text in texts), VOCABULARY)


def test_words_are_aligned_by_where_they_occur_together() -> None:
    found = align([bitext(TEXT)], SPECIAL, VOCABULARY)
    for source, target in MEANINGS.items():
        mine = found.source == source
        assert found.target[mine][found.links[mine].argmax()] == target
    assert not np.isin(found.source, SPECIAL).any()


def test_every_language_has_a_say(counterparts: Counterparts) -> None:
    table = counterparts.tables["en"]
    for meaning, target in MEANINGS.items():
        mine = table.target == target
        by_weight = table.source[mine][np.argsort(-table.weight[mine])]
        assert set(by_weight[:2]) == {meaning, meaning + 11}
    assert set(counterparts.tables) == {"en", "de"}


def test_how_often_a_piece_was_read_and_written(counterparts: Counterparts) -> None:
    assert counterparts.source_counts[5] == 3 * 3 + 3
    assert counterparts.target_counts[DOG] == 3 * 3 + 3 + 3
    assert counterparts.source_counts[9] == 0


@pytest.mark.parametrize(
    ("pair", "side"), [("fi-en", "source"), ("en-fi", "target"), ("en-de", "source"), ("fi-ro", None)]
)
def test_which_language_of_a_pair_is_new(counterparts: Counterparts, pair: str, side: str | None) -> None:
    assert counterparts.new_side(Pair.parse(pair)) == side


def test_round_trip(counterparts: Counterparts, tmp_path: Path) -> None:
    assert Counterparts.load(tmp_path) is None
    counterparts.save(tmp_path)
    again = Counterparts.load(tmp_path)
    assert again is not None
    for name, table in counterparts.tables.items():
        assert np.array_equal(again.tables[name].source, table.source)
        assert np.array_equal(again.tables[name].target, table.target)
        assert np.allclose(again.tables[name].weight, table.weight)
    assert np.array_equal(again.source_counts, counterparts.source_counts)


def test_a_damaged_file_is_named(counterparts: Counterparts, tmp_path: Path) -> None:
    counterparts.save(tmp_path)
    path = tmp_path / COUNTERPARTS_FILE
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=COUNTERPARTS_FILE):
        Counterparts.load(tmp_path)


def test_text_that_says_nothing(tmp_path: Path) -> None:
    """A run whose sentences are all too long for the alignment has counterparts of nothing."""
    long = bitext([([5] * 60, [DOG] * 60)])
    found = find_counterparts(Pair("de", "en"), long, SPECIAL, VOCABULARY)
    assert len(found.tables["en"].source) == 0
    found.save(tmp_path)
    assert Counterparts.load(tmp_path) is not None
