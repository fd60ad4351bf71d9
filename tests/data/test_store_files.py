"""The token store: gathers, copies and files that are written piece by piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metanmt.data.store import PARTS, ArrayFile, Side, write_bitext

SENTENCES = [[5, 6, 7], [8], [], [9, 10, 11, 12], [13, 14]]


@pytest.mark.parametrize("indices", [[0, 3, 1], [4, 4, 2], [2], [], [3]])
def test_padded_and_taken_sentences_are_the_sentences(indices: list[int]) -> None:
    side, chosen = Side.of(SENTENCES), np.array(indices, dtype=np.int64)
    wanted = [SENTENCES[index] for index in indices]
    longest = max((len(sentence) for sentence in wanted), default=0)
    padded = side.padded(chosen, 99)
    assert padded.dtype == np.int64
    assert padded.tolist() == [sentence + [99] * (longest - len(sentence)) for sentence in wanted]
    taken = side.take(chosen)
    assert [taken.sentence(place).tolist() for place in range(len(indices))] == wanted
    assert taken.ids.dtype == np.int32


def test_a_padded_sentence_may_hold_the_pad_id() -> None:
    assert Side.of([[0, 1, 0], [0]]).padded(np.array([1, 0]), 0).tolist() == [[0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("vocabulary_size", [1 << 16, (1 << 16) + 1])
def test_a_set_in_chunks_is_the_set_at_once(tmp_path: Path, vocabulary_size: int) -> None:
    top = vocabulary_size - 1
    sources, targets, words = [[top], [3, 4], []], [[5], [6, 7, 8], [top, 1]], [1, 70_000, 2]
    chunks = [(sources[:2], targets[:2], words[:2]), (sources[2:], targets[2:], words[2:])]
    sizes = write_bitext(tmp_path, "train", chunks, vocabulary_size)
    at_once = write_bitext(tmp_path / "at once", "train", [(sources, targets, words)], vocabulary_size)
    assert sizes == at_once
    del sizes["digest"]
    assert sizes == {"sentences": 3, "source_tokens": 3, "target_tokens": 6, "target_words": 65_538}
    arrays = [np.load(tmp_path / f"train.{part}.npy", mmap_mode="r") for part in PARTS]
    assert [array.tolist() for array in arrays[:4]] == [[top, 3, 4], [0, 1, 3, 3], [5, 6, 7, 8, top, 1], [0, 1, 4, 6]]
    assert arrays[4].tolist() == [1, 65_535, 2]
    assert arrays[0].dtype == (np.uint16 if vocabulary_size == 1 << 16 else np.uint32)
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == sorted(f"train.{part}.npy" for part in PARTS)


def test_a_set_of_nothing_can_be_opened(tmp_path: Path) -> None:
    assert write_bitext(tmp_path, "train", [], 100)["sentences"] == 0
    assert np.load(tmp_path / "train.source.offsets.npy").tolist() == [0]
    assert len(np.load(tmp_path / "train.target.ids.npy", mmap_mode=None)) == 0


def test_an_appended_file_is_what_numpy_saves(tmp_path: Path) -> None:
    numbers = np.arange(100_000, dtype=np.int64)
    with ArrayFile(tmp_path / "a.npy", numbers.dtype) as out:
        for part in np.split(numbers, 10):
            out.append(part)
    np.save(tmp_path / "b.npy", numbers)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
