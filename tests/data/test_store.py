"""The token store: what is written is what is read, budgets nest, damage is named."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from metanmt.data.language import Pair
from metanmt.data.store import ArrayFile, Bitext, Side, TokenStore, write_bitext
from metanmt.errors import DataError, UsageError

PAIR = Pair("de", "en")
SOURCE, TARGET = [[5, 6, 2], [7, 2], [2]], [[8, 2], [9, 9, 9, 2], [2]]
WORDS = [1, 3, 0]


def make_store(folder: Path, vocabulary_size: int = 100) -> TokenStore:
    """Write one set of one pair, in two chunks."""
    chunks = [(SOURCE[:2], TARGET[:2], WORDS[:2]), (SOURCE[2:], TARGET[2:], WORDS[2:])]
    sizes = write_bitext(folder / "tokens" / str(PAIR), "train", chunks, vocabulary_size)
    facts = {
        "format": 1,
        "tokenizer_digest": "x",
        "pairs": {str(PAIR): {"role": "meta-train", "sets": {"train": sizes}}},
    }
    (folder / "data.json").write_text(json.dumps(facts))
    return TokenStore.open(folder)


def sentences(side: Side) -> list[list[int]]:
    return [side.sentence(index).tolist() for index in range(len(side.offsets) - 1)]


@pytest.mark.parametrize(("vocabulary_size", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_what_is_written_is_read(tmp_path: Path, vocabulary_size: int, dtype: type) -> None:
    store = make_store(tmp_path, vocabulary_size)
    bitext = store.bitext(PAIR)
    assert (sentences(bitext.source), sentences(bitext.target)) == (SOURCE, TARGET)
    assert bitext.target_words.tolist() == WORDS
    assert bitext.source.ids.dtype == dtype
    assert isinstance(bitext.source.ids.base, np.memmap)
    sizes = {"sentences": 3, "source_tokens": 6, "target_tokens": 7, "target_words": 4}
    found = store.sets(PAIR)["train"]
    assert found == {**sizes, "digest": found["digest"]}


def test_an_empty_set(tmp_path: Path) -> None:
    sizes = write_bitext(tmp_path, "train", [], 100)
    assert sizes["sentences"] == 0
    assert len(np.load(tmp_path / "train.source.ids.npy")) == 0


def test_padding_stands_behind_the_sentence() -> None:
    side = Side.of(SOURCE)
    assert side.padded(np.array([1, 0]), 0).tolist() == [[7, 2, 0], [5, 6, 2]]
    assert side.lengths(np.array([2, 0])).tolist() == [1, 3]
    assert sentences(side.take(np.array([2, 0]))) == [SOURCE[2], SOURCE[0]]


def test_a_digest_of_the_tokens_and_one_of_all_that_is_trained_on(tmp_path: Path) -> None:
    """Two texts of one size are not one text, nor is an order of pairs another's."""
    first = make_store(tmp_path / "first")
    assert make_store(tmp_path / "again").training_digest == first.training_digest
    chunks = [(SOURCE[::-1], TARGET[::-1], WORDS[::-1])]
    sizes = write_bitext(tmp_path / "other", "train", chunks, 100)
    plain = dict(first.sets(PAIR)["train"])
    assert sizes.pop("digest") != plain.pop("digest")
    assert sizes == plain

    def digest(*names: str, **sizes: object) -> str:
        pairs = {name: {"role": "meta-train", "sets": {"train": {**plain, **sizes}}} for name in names}
        return TokenStore(tmp_path, {**first.facts, "pairs": pairs}).training_digest

    assert digest("de-en", "fi-en", digest="x") != digest("fi-en", "de-en", digest="x")
    assert digest("de-en", "fi-en") == digest("fi-en", "de-en"), "as it was for folders without"


def test_the_other_direction_of_a_pair_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no pair") as error:
        make_store(tmp_path).sets(PAIR.turned())
    assert f"It has {PAIR}: metanmt prepare ... --both-directions" in error.value.remedy


def test_one_text_behind_another() -> None:
    one, two = (
        Bitext(Side.of(sources), Side.of(targets), np.array(words))
        for sources, targets, words in (([[1, 2], [3]], [[4], [5, 6]], [1, 2]), ([[7, 8, 9]], [[10]], [1]))
    )
    both = one.followed_by(two)
    assert [side.sentence(index).tolist() for side in (both.source, both.target) for index in range(3)] == [
        *([1, 2], [3], [7, 8, 9]),
        *([4], [5, 6], [10]),
    ]
    assert both.target_words.tolist() == [1, 2, 1]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="No space left") as error,
        ArrayFile(Path("/dev/full"), np.dtype(np.int64)) as file,
    ):
        file.append(np.arange(100_000))
    assert error.value.errno == errno.ENOSPC


def test_budgets_nest_and_keep_to_their_words() -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(1, 12, 200)
    side = Side.of([[index] * int(count) for index, count in enumerate(words)])
    bitext = Bitext(side, side, words)
    small, large = bitext.draw(100, 3, PAIR), bitext.draw(400, 3, PAIR)
    assert 100 - 12 < small.target_words.sum() <= 100
    first = sentences(large.source)[: len(small)]
    assert first == sentences(small.source)
    assert sentences(bitext.draw(100, 4, PAIR).source) != first
    assert len(bitext.draw(int(words.sum()), 1, PAIR)) == 200


def test_draws_of_parallel_pairs_share_sentences_by_chance_only() -> None:
    words = np.full(1_000, 5)
    side = Side.of([[index] for index in range(1_000)])
    bitext = Bitext(side, side, words)
    drawn = [{tuple(ids) for ids in sentences(bitext.draw(2_000, 1, Pair(name, "en")).source)} for name in ("ro", "fi")]
    assert all(len(one) == 400 for one in drawn)
    assert 110 < len(drawn[0] & drawn[1]) < 210


def test_a_budget_larger_than_the_corpus() -> None:
    bitext = Bitext(Side.of(SOURCE), Side.of(TARGET), np.array(WORDS))
    with pytest.raises(UsageError, match="5 words is larger than the corpus of 4"):
        bitext.draw(5, 1, PAIR)


def test_long_sentences_on_either_side_are_left_out() -> None:
    bitext = Bitext(Side.of(SOURCE), Side.of(TARGET), np.array(WORDS))
    assert bitext.shorter_than(3).tolist() == [0, 2]
    assert bitext.shorter_than(2).tolist() == [2]


def test_unknown_names(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with pytest.raises(UsageError, match="no pair dd-en") as error:
        store.bitext(Pair("dd", "en"))
    assert "de-en" in error.value.remedy
    with pytest.raises(UsageError, match="no set 'trian'") as error:
        store.bitext(PAIR, "trian")
    assert "train" in error.value.remedy


def test_no_data_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a prepared data folder"):
        TokenStore.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "damaged"), ("[]", "damaged"), ('{"format": 1}', "damaged"), ('{"format": 0}', "another version")],
)
def test_a_damaged_data_folder(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(DataError, match=message):
        TokenStore.open(tmp_path)


@pytest.mark.parametrize("part", ["source.ids", "target.offsets"])
@pytest.mark.parametrize("size", [None, 0, 100, 130])
def test_damaged_tokens(tmp_path: Path, part: str, size: int | None) -> None:
    store = make_store(tmp_path)
    path = tmp_path / "tokens" / str(PAIR) / f"train.{part}.npy"
    if size is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"tokens of de-en train .* are damaged"):
        store.bitext(PAIR)


def test_tokens_that_may_not_be_read_are_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path)

    def refused(path: Path, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np, "load", refused)
    with pytest.raises(PermissionError, match=r"train\.source\.ids\.npy"):
        store.bitext(PAIR)
