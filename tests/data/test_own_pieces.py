"""New pieces of a language's own: what they change, and what they must not."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from metanmt.data.language import Pair
from metanmt.data.own_pieces import FEWEST, recut, with_own_pieces
from metanmt.data.tokenizer import SentencePieceTokenizer, load_tokenizer
from metanmt.nmt.checkpoint import check_tokenizer
from tests import toy
from tests.data.test_tokenizer import everything

GEORGIAN, ENGLISH = map(list, zip(*toy.lines(120, language="ka"), strict=True))
MOST = 150


@pytest.fixture(scope="module")
def grown(tokenizer: SentencePieceTokenizer) -> SentencePieceTokenizer:
    return with_own_pieces(tokenizer, GEORGIAN, MOST)[0]


def test_what_was_there_stays(tokenizer: SentencePieceTokenizer, grown: SentencePieceTokenizer) -> None:
    assert grown.pieces()[: tokenizer.vocabulary_size] == tokenizer.pieces()
    assert 0 < grown.vocabulary_size - tokenizer.vocabulary_size <= MOST
    assert (grown.targets, grown.special_ids()) == (tokenizer.targets, tokenizer.special_ids())
    both = [*ENGLISH, *GEORGIAN]
    assert grown.encode_target(both, toy.PAIR) == tokenizer.encode_target(both, toy.PAIR), "as it has learned to write"
    assert grown.digest() != tokenizer.digest()


def test_sentences_take_fewer_pieces_and_say_the_same(
    tokenizer: SentencePieceTokenizer, grown: SentencePieceTokenizer
) -> None:
    cut, before = (one.ids(GEORGIAN) for one in (grown, tokenizer))
    assert sum(map(len, cut)) < 0.3 * sum(map(len, before)), "three bytes a letter, before"
    assert grown.decode(cut) == tokenizer.decode(before) == GEORGIAN


def test_every_new_piece_is_used_where_it_is_learned(
    tokenizer: SentencePieceTokenizer, grown: SentencePieceTokenizer
) -> None:
    used = [index for ids in grown.ids(GEORGIAN) for index in ids]
    assert min(used.count(index) for index in range(tokenizer.vocabulary_size, grown.vocabulary_size)) >= FEWEST


def test_new_pieces_are_spelled_by_those_that_are_there(tokenizer: SentencePieceTokenizer) -> None:
    grown, spelled = with_own_pieces(tokenizer, GEORGIAN, MOST)
    texts = [piece.replace("▁", " ") for piece in grown.pieces()[tokenizer.vocabulary_size :]]
    assert any(text.startswith(" ") for text in texts)
    assert not all(text.startswith(" ") for text in texts)
    for text, ids in zip(texts, spelled, strict=True):
        assert all(index < tokenizer.vocabulary_size for index in ids)
        assert text.strip() == tokenizer.decode([ids])[0].strip()
    assert [len(ids) for ids in spelled if len(ids) == 1] == [], "a single piece would not be new"


def test_auto_tokenizer_gives_the_same_ids(grown: SentencePieceTokenizer, tmp_path: Path) -> None:
    grown.save(tmp_path, toy.PAIR)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert grown.encode_source(everything(), toy.PAIR) == plain(everything())["input_ids"]
    assert len(plain) == grown.vocabulary_size


def test_a_script_of_more_characters_than_that_is_left_as_it_is(tokenizer: SentencePieceTokenizer) -> None:
    grown, spelled = with_own_pieces(tokenizer, GEORGIAN, 2)
    assert (grown.pieces(), spelled) == (tokenizer.pieces(), [])


def test_a_vocabulary_may_grow_twice(
    tokenizer: SentencePieceTokenizer, grown: SentencePieceTokenizer, tmp_path: Path
) -> None:
    twice, _ = with_own_pieces(grown, [source for source, _ in toy.lines(80, language="hy")], 50)
    twice.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.digest() == twice.digest()
    for known in (tokenizer, grown):
        check_tokenizer(again, known.digest(), "checkpoint", tmp_path)
    assert again.encode_target(GEORGIAN, toy.PAIR) == tokenizer.encode_target(GEORGIAN, toy.PAIR)


def test_a_script_of_many_characters_gets_as_many_pieces_as_it_takes(tokenizer: SentencePieceTokenizer) -> None:
    chinese = [source for source, _ in toy.lines(300, language="zh")]
    grown, _ = with_own_pieces(tokenizer, chinese, 100)
    assert grown.vocabulary_size - tokenizer.vocabulary_size > 100
    assert sum(map(len, grown.ids(chinese))) < 0.6 * sum(map(len, tokenizer.ids(chinese)))


def test_a_language_that_is_known_gains_few(tokenizer: SentencePieceTokenizer) -> None:
    """What its own text has learned already is not learned again."""
    german = [source for source, _ in toy.lines(300)]
    grown, _ = with_own_pieces(tokenizer, german, 100)
    assert grown.vocabulary_size - tokenizer.vocabulary_size < 50


def test_pieces_of_targets_are_for_both_sides(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    into = Pair("en", "ka")
    tagged = tokenizer.with_target("ka")
    assert tagged.encode_target(GEORGIAN, into) == tokenizer.encode_target(GEORGIAN, toy.PAIR)
    assert tagged.targets == {**tokenizer.targets, "ka": tokenizer.vocabulary_size}
    grown, _ = with_own_pieces(tagged, GEORGIAN, MOST, of_targets=True)
    written = grown.encode_target(GEORGIAN, into)
    assert sum(map(len, written)) < 0.3 * sum(map(len, tagged.encode_target(GEORGIAN, into)))
    assert grown.decode(written) == GEORGIAN
    grown.save(tmp_path, into)
    again, plain = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert again.encode_target(GEORGIAN, into) == written
    assert plain(everything())["input_ids"] == again.encode_source(everything(), into)
    assert plain.decode(written[0], skip_special_tokens=True) == GEORGIAN[0]
    check_tokenizer(again, tokenizer.digest(), "checkpoint", tmp_path)
    text = toy.make_bitext(tagged, [(there, here) for here, there in toy.lines(9, language="ka")], into)
    assert recut(text, tagged, grown, into).target.sentence(0).tolist() == written[0]
