"""The tokenizer: every script survives it, and `AutoTokenizer` gives the same ids as the training path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from metanmt.data.cldr import sentence_pairs
from metanmt.data.cleaning import normalise
from metanmt.data.fast_twin import message
from metanmt.data.language import Pair
from metanmt.data.pretrained_tokenizer import FACTS_FILE
from metanmt.data.tokenizer import (
    MODEL_FILE,
    SentencePieceTokenizer,
    load_tokenizer,
    tag,
    train_tokenizer,
)
from metanmt.errors import CheckpointError, ConfigError, CorpusError, UsageError
from tests import toy

SCRIPTS = ("am", "ar", "bn", "el", "gu", "he", "hi", "hy", "ja", "ka", "km", "ko", "lo", "ml", "my", "ru", "si", "ta")
SCRIPTS += ("te", "th", "vi", "zh")
AWKWARD = [
    "",
    " ",
    "  two  blanks  ",
    "tab\tand line\u2028end",
    "ﬁ ligature, ½, ①, Ａ",
    "a▁b",
    "e\u0301 is decomposed",
    "soft\u00adhyphen, zero\u200bwidth, bom\ufeff",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "🏳️‍🌈 and 👩🏽‍🚀",
    "x" * 500,
    "\U00010330\U0001d11e",
]
SYMBOLS = ["</s> is written here", "<2en> too, <unk> and <pad>", "<0x41> looks like a byte"]


def everything() -> list[str]:
    """Return real sentences in 22 scripts, most of them never seen by the toy tokenizer, and awkward ones."""
    return [source for code in SCRIPTS for source, _ in sentence_pairs(code, 15)] + AWKWARD


def test_a_source_begins_with_the_tag_and_ends_with_the_mark(tokenizer: SentencePieceTokenizer) -> None:
    tag_id = tokenizer.targets["en"]
    (source,), (target,) = (
        encode(["drei Stunden"], toy.PAIR) for encode in (tokenizer.encode_source, tokenizer.encode_target)
    )
    assert source == [tag_id, *target]
    assert target[-1] == tokenizer.eos_id
    assert tag_id not in target
    assert tokenizer.encode_source(["drei Stunden"], Pair("en", "de"))[0][0] == tokenizer.targets["de"] != tag_id


def test_every_script_survives(tokenizer: SentencePieceTokenizer) -> None:
    """Scripts that the model never saw are spelled in bytes: nothing becomes unknown, nothing is lost."""
    sentences = [source for code in SCRIPTS for source, _ in sentence_pairs(code, 15)]
    ids = tokenizer.encode_source(sentences, toy.PAIR)
    normal = [tokenizer._processor.normalize(sentence).replace("▁", " ").strip() for sentence in sentences]
    assert tokenizer.decode(ids) == normal
    assert not any(1 in sentence for sentence in ids)


def test_a_target_stays_as_it_is_written(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    """Every script, and what compatibility forms would change: a fraction, an exponent, an ellipsis, a joiner."""
    written = ["29¾ by 24½", "10² …", "می\u200cخواهم", "ต่ำ ໝ", "你好，世界！", "ﬁ Ａ"]
    written += [normalise(text) for text in everything() if normalise(text) and "▁" not in text]
    assert tokenizer.decode(tokenizer.encode_target(written, toy.PAIR)) == written
    tokenizer.save(tmp_path)
    grown = tokenizer.with_pieces({"▁zzz": -9.0}).with_target("fi")
    for other in (load_tokenizer(tmp_path), grown, tokenizer.with_pieces({"½": -9.0}, of_targets=True)):
        assert other.decode(other.encode_target(written, toy.PAIR)) == written
    assert tokenizer.decode(tokenizer.encode_source(["10² …"], toy.PAIR)) == ["102 ..."], "sources are normalised"


def test_a_model_of_before_normalises_both_sides(tokenizer: SentencePieceTokenizer) -> None:
    proto = message(tokenizer._model)
    proto.normalizer_spec.name = "nmt_nfkc"
    old = SentencePieceTokenizer(proto.SerializeToString())
    assert old.decode(old.encode_target(["10² …"], toy.PAIR)) == ["102 ..."]


def test_what_ends_the_reading_of_a_sample_is_no_matter_of_the_vocabulary() -> None:
    def cut() -> Iterator[str]:
        yield "drei Stunden"
        raise KeyboardInterrupt("Stopped.")

    with pytest.raises(KeyboardInterrupt, match="Stopped"):
        train_tokenizer(cut(), ("en",), 400)


def test_symbols_in_a_text_are_text(tokenizer: SentencePieceTokenizer) -> None:
    """Here `tokenizers` differs and cannot help it: every piece of its model matches text, symbols too."""
    ids = tokenizer.encode_source(SYMBOLS, toy.PAIR)
    assert tokenizer.decode(ids) == SYMBOLS
    assert all(sentence.count(tokenizer.eos_id) == 1 for sentence in ids)


def test_auto_tokenizer_gives_the_same_ids(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path, toy.PAIR)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    sentences = everything()
    ours, theirs = tokenizer.encode_source(sentences, toy.PAIR), plain(sentences)["input_ids"]
    different = [s for s, a, b in zip(sentences, ours, theirs, strict=True) if a != b]
    assert different == []
    assert tokenizer.decode(ours) == [
        text.strip() for text in plain.batch_decode([ids[:-1] for ids in ours], skip_special_tokens=True)
    ]
    assert (plain.pad_token_id, plain.eos_token_id, len(plain)) == (0, 2, tokenizer.vocabulary_size)


def test_the_tag_follows_the_pair(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path, Pair("en", "de"))
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain("a")["input_ids"] == tokenizer.encode_source(["a"], Pair("en", "de"))[0]


def test_round_trip_of_the_folder(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.digest() == tokenizer.digest()
    assert again.encode_source(everything(), toy.PAIR) == tokenizer.encode_source(everything(), toy.PAIR)


def test_decoding_stops_at_the_end_mark(tokenizer: SentencePieceTokenizer) -> None:
    pieces = tokenizer.encode_target(["drei Stunden"], toy.PAIR)[0]
    padded = [tokenizer.eos_id, *pieces, tokenizer.pad_id, *pieces]  # as `generate` returns it: start mark first
    assert tokenizer.decode([padded, [], [tokenizer.pad_id]]) == ["drei Stunden", "", ""]


def test_tags_and_bytes_are_part_of_the_vocabulary(tokenizer: SentencePieceTokenizer) -> None:
    assert set(tokenizer.targets) == {"en", "de"}
    assert tokenizer._processor.piece_to_id(tag("en")) == tokenizer.targets["en"]
    assert all(tokenizer._processor.piece_to_id(f"<0x{byte:02X}>") > 2 for byte in range(256))


def test_a_language_that_is_no_target(tokenizer: SentencePieceTokenizer) -> None:
    with pytest.raises(UsageError, match="cannot translate into 'fi'; it knows en, de"):
        tokenizer.encode_source(["a"], Pair("en", "fi"))


def test_another_model_has_another_digest(tokenizer: SentencePieceTokenizer) -> None:
    other = train_tokenizer([side for pair in toy.lines(200) for side in pair], ("en",), 400)
    assert other.digest() != tokenizer.digest()


def test_a_vocabulary_too_small() -> None:
    with pytest.raises(ConfigError, match="vocabulary of 100"):
        train_tokenizer([source for source, _ in toy.lines(50)], ("en",), 100)


def test_no_text() -> None:
    with pytest.raises(CorpusError, match="could not be trained"):
        train_tokenizer([], ("en",), 400)


def test_a_folder_that_is_not_there_is_not_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="tokenizer data/tokenizer is missing"):
        load_tokenizer(Path("data/tokenizer"))


@pytest.mark.parametrize("content", ["[]", "{", "3"])
def test_damaged_facts(tokenizer: SentencePieceTokenizer, tmp_path: Path, content: str) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / FACTS_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{FACTS_FILE} is missing or damaged"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_damaged_model(tokenizer: SentencePieceTokenizer, tmp_path: Path, content: bytes) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / MODEL_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load_tokenizer(tmp_path)
