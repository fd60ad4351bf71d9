"""Vectors in one space: rotations recovered, precision of a known answer, dictionaries, files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from metanmt.data.dictionary import same_numbers, same_strings, word_alignments
from metanmt.data.store import Bitext, Side
from metanmt.data.vectors import (
    AlignedVectors,
    PieceVectors,
    align,
    common_vectors,
    data_vectors,
    learn_vectors,
    normalised,
    piece_vectors,
    precision,
    read_word_vectors,
    relative_similarity,
    rotation,
)
from metanmt.errors import CorpusError, DataError

RNG = np.random.default_rng(5)
PIECES = ["<pad>", "<unk>", "</s>", "▁12", "▁١٢", "▁Lima", "▁die", ",", "12"]


def random_rotation(size: int) -> np.ndarray:
    return np.linalg.qr(RNG.normal(size=(size, size)))[0]


def vectors(values: np.ndarray) -> PieceVectors:
    ids = np.arange(len(values))
    return PieceVectors(ids, 1_000 - ids, normalised(values))


def test_procrustes_recovers_a_known_rotation() -> None:
    source, turn = RNG.normal(size=(50, 8)).astype(np.float32), random_rotation(8)
    found = rotation(source, source @ turn)
    np.testing.assert_allclose(found, turn, atol=1e-5)
    np.testing.assert_allclose(found @ found.T, np.eye(8), atol=1e-5)


def test_a_few_entries_align_a_whole_language_that_is_a_rotation() -> None:
    """With 20 seed entries of 16 dimensions and noise, the pieces found on the way turn 300 others right."""
    pivot = vectors(RNG.normal(size=(300, 16)))
    turned = vectors(pivot.values @ random_rotation(16) + 0.02 * RNG.normal(size=(300, 16)))
    seed = np.stack([np.arange(20), np.arange(20)], axis=1)
    rest = np.stack([np.arange(20, 300), np.arange(20, 300)], axis=1)
    assert precision(turned, pivot, rest)[0][0] < 0.1
    aligned = align(turned, pivot, seed)
    assert precision(aligned, pivot, rest) == ([1.0], 280)
    with pytest.raises(DataError, match="no entry"):
        align(turned, pivot, np.array([[700, 700]]))


def test_precision_of_a_known_answer() -> None:
    """Eight of ten translations stand at their place; two are exchanged, so one and all five nearest differ."""
    values = np.eye(10)
    pivot = vectors(values)
    exchanged = vectors(values[[1, 0, *range(2, 10)]])
    entries = np.stack([np.arange(10), np.arange(10)], axis=1)
    assert precision(exchanged, pivot, entries) == ([0.8], 10)
    assert precision(exchanged, pivot, np.array([[0, 0], [0, 1], [3, 3]])) == ([1.0], 2), (
        "any of two translations will do"
    )
    assert precision(exchanged, pivot, entries[:2], among=(1, 10)) == ([0.0, 1.0], 2)
    assert precision(exchanged, pivot, np.array([[50, 1]])) == ([0.0], 0), "what has no vector is not looked up"


def test_similarity_is_relative_to_neighbours_whatever_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = (vectors(RNG.normal(size=(size, 6))).values for size in (37, 23))
    cosine = source @ target.T
    near = [np.sort(cosine, axis=axis).take(range(-10, 0), axis=axis).mean(axis=axis, keepdims=True) for axis in (1, 0)]
    whole = 2 * cosine - near[0] - near[1]
    np.testing.assert_allclose(relative_similarity(source, target), whole, atol=1e-6)
    monkeypatch.setattr("metanmt.data.vectors.BLOCK_ROWS", 5)
    rows = np.array([3, 30])
    np.testing.assert_allclose(relative_similarity(source, target, rows), whole[rows], atol=1e-6)


def test_identical_strings_and_numerals() -> None:
    everything = np.arange(3, 9)
    same = same_strings(PIECES, everything, everything[everything != 7])
    assert same[:, 0].tolist() == same[:, 1].tolist() == [3, 4, 5, 8], "three letters may be alike by chance"
    numbers = same_numbers(PIECES, np.array([4, 5, 8]), np.array([3, 8]))
    assert numbers.tolist() == [[4, 3], [8, 8]], "Arabic digits are a number too, and a word's start is kept"


def test_word_alignments_of_a_language_that_is_another_by_a_key() -> None:
    """Word i of the one language is word i + 100 of the other, in reversed order; special ids are in no entry."""
    sentences = [RNG.permutation(np.arange(10, 40))[:6].tolist() for _ in range(300)]
    source = Side.of([[3, *sentence, 2] for sentence in sentences])
    target = Side.of([[*(word + 100 for word in reversed(sentence)), 2] for sentence in sentences])
    bitext = Bitext(source, target, np.ones(300, dtype=int))
    found = word_alignments([bitext], [2, 3], 200)
    assert found.tolist() == [[word, word + 100] for word in range(10, 40)]
    assert word_alignments([], [2], 200).shape == (0, 2)


def test_learned_vectors_know_which_pieces_are_used_together() -> None:
    """Every sentence is of one of two sets of pieces: 10 to 49, 60 to 99."""
    text = [first + RNG.integers(40, size=8) for first in RNG.choice([10, 60], 1_500)]
    found = learn_vectors(text, 8, seed=1)
    assert np.array_equal(found.values, learn_vectors(text, 8, seed=1).values)
    assert found.counts.sum() == 12_000
    np.testing.assert_allclose(np.linalg.norm(found.values, axis=1), 1, atol=1e-5)
    cosine, one = found.values @ found.values.T, found.ids < 50
    assert cosine[one][:, one].mean() > 0.5
    assert cosine[one][:, ~one].mean() < -0.5


def test_pieces_take_the_mean_of_their_words_by_frequency() -> None:
    segmented = [np.array([5]), np.array([6, 7]), np.array([5, 7])]
    found = piece_vectors(segmented, np.eye(3, dtype=np.float32), {5: 9, 7: 20})
    assert found.ids.tolist() == [7, 5], "commonest first; 6 is not in the text"
    np.testing.assert_allclose(found.values[1], normalised(np.array([[1, 0, 1 / 6]]))[0], atol=1e-6)
    np.testing.assert_allclose(found.values[0], normalised(np.array([[0, 1 / 4, 1 / 6]]))[0], atol=1e-6)


def test_common_vectors_are_the_mean_over_languages() -> None:
    one = PieceVectors(np.array([1, 2]), np.array([5, 1]), np.array([[1, 0], [0, 1]], dtype=np.float32))
    other = PieceVectors(np.array([2]), np.array([9]), np.array([[1, 0]], dtype=np.float32))
    found = common_vectors([one, other])
    assert (found.ids.tolist(), found.counts.tolist()) == ([2, 1], [10, 5])
    np.testing.assert_allclose(found.values, [[0.5**0.5, 0.5**0.5], [1, 0]], atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_vec_files_are_read_as_far_as_wanted(tmp_path: Path, packed: bool) -> None:
    text = "3 2\nund 1 0\nHaus 0 1\nBaum 1 1\n"
    path = tmp_path / ("de.vec.gz" if packed else "de.vec")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    words, values = read_word_vectors(path, 2)
    assert words == ["und", "Haus"]
    assert values.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("text", ["", "no vectors here\n", "2 2\na 1 0\n", "1 2\na 1 x\n", "1 2\na nan 0\n"])
def test_what_is_no_vec_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.vec"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.vec"):
        read_word_vectors(path, 10)
    with pytest.raises(CorpusError, match=r"No file .*none\.vec\."):
        read_word_vectors(tmp_path / "none.vec", 10)


def test_vectors_are_what_they_were_after_a_round_trip(tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    path = tmp_path / "vectors" / "vectors.safetensors"
    languages = {"en": vectors(RNG.normal(size=(6, 4))), "x_y": vectors(RNG.normal(size=(3, 4)))}
    saved = AlignedVectors("en", "digest", 9, np.array([0, 1]), languages)
    saved.save(path)
    loaded = data_vectors(tmp_path, "digest")
    assert (loaded.digest(), loaded.size, loaded.pivot) == (saved.digest(), 4, "en")
    np.testing.assert_allclose(loaded.languages["x_y"].values, languages["x_y"].values, atol=1e-3)
    with pytest.raises(DataError, match="another tokenizer"):
        data_vectors(tmp_path, "other")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        data_vectors(tmp_path, "digest")
    path.unlink()
    with pytest.raises(DataError, match="has no vectors"):
        data_vectors(tmp_path, "digest")


def test_next_to_no_text_is_said() -> None:
    with pytest.raises(DataError, match="too little text"):
        learn_vectors([np.array([1, 2, 3])], 4, 1)
