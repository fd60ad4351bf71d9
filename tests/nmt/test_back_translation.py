"""What is translated back: drawn, cleaned, kept apart from what is judged by, and as much as the updates see."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanmt.config import FineTuneConfig
from metanmt.data.language import Pair
from metanmt.data.leakage import HeldOut
from metanmt.data.own_pieces import texts_of
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.errors import CorpusError
from metanmt.meta.beside import text_beside
from metanmt.nmt import back_translation
from metanmt.nmt.back_translation import drawn_lines, sentences_seen, with_back_translation
from metanmt.nmt.tuning import batch_tokens, planned_updates
from metanmt.nmt.tuning_text import Tokenised, held_out_by, in_its_pieces, tokenized
from tests import toy

FROM = Pair("is", "en")
QUICK = FineTuneConfig(max_epochs=1, min_updates=4, max_updates=4, max_tokens=300)


@pytest.fixture(scope="module")
def text() -> list[tuple[str, str]]:
    """English beside Icelandic."""
    return [(english, icelandic) for icelandic, english in toy.lines(200, language="is")]


def read_text(tokenizer: SentencePieceTokenizer, pairs: Sequence[tuple[str, str]]) -> Tokenised:
    turned = [(icelandic, english) for english, icelandic in pairs]
    train, dev = (tokenized(tokenizer, part, FROM) for part in (turned[:80], turned[80:100]))
    return Tokenised(train, dev, tokenizer)


def translated(read: Tokenised, lines: Sequence[str], most: int = 1_000, seed: int = 1) -> tuple[Tokenised, Any]:
    drawn, facts = drawn_lines(lines, "en", held_out_by(read, FROM, []), most, seed)
    read, made = with_back_translation(read, drawn, Path("back"), FROM)
    return read, facts | made


def test_what_is_known_or_judged_by_is_not_translated(
    tokenizer: SentencePieceTokenizer, text: list[tuple[str, str]], echo: list[str]
) -> None:
    """In whatever case; nor is an empty line, nor a sentence twice."""
    read = read_text(tokenizer, text)
    train, dev = (texts_of(part.target, read.tokenizer) for part in (read.train, read.dev))
    new = list(dict.fromkeys(line for line, _ in text[100:] if line not in {*train, *dev}))
    lines = [*train, "", *new, *(line.upper() for line in (*train, *dev)), *new]
    found, facts = translated(read, lines)
    assert echo == new
    assert facts == {
        "back": "back",
        "back_chrf": None,
        **dict.fromkeys(("sentences", "translated", "usable"), len(new)),
    }
    assert found.synthetic is not None
    assert (found.train, found.dev) == (read.train, read.dev)
    assert texts_of(found.synthetic.target, read.tokenizer) == new
    assert texts_of(found.synthetic.source, read.tokenizer) == [f"{line} back" for line in new]


def test_what_is_held_out_is_known_by_the_form_that_sources_have() -> None:
    held_out = HeldOut()
    held_out.add("trebuie sa plec", "I must go")
    for form, left in (("written", 2), ("plain", 1)):
        drawn, _ = drawn_lines(["Trebuie să plec", "Rămân"], "ro", held_out, 10, 1, form)
        assert len(drawn) == left


def test_every_sentence_is_as_likely_to_be_translated(
    tokenizer: SentencePieceTokenizer, text: list[tuple[str, str]], echo: list[str]
) -> None:
    """Of more than are wanted, other ones by another seed."""
    read = read_text(tokenizer, text)
    lines = [f"number {number}" for number in range(40)]
    drawn = []
    for seed in range(200):
        assert translated(read, lines, most=10, seed=seed)[1] == {
            **{"back": "back", "back_chrf": None, "sentences": 40},
            **{"translated": 10, "usable": 10},
        }
        drawn.append(frozenset(echo))
        echo.clear()
    assert all(len(one) == 10 for one in drawn)
    times = [sum(line in one for one in drawn) for line in lines]
    assert min(times) > 50 - 6 * 6.1  # a binomial of 200 and a quarter has a deviation of 6.1
    assert max(times) < 50 + 6 * 6.1
    assert len(set(drawn)) > 190


def test_as_much_is_translated_as_the_updates_see(
    tokenizer: SentencePieceTokenizer, text: list[tuple[str, str]]
) -> None:
    read = read_text(tokenizer, text)
    for share in (0.5, 1.0):
        settings = replace(QUICK, synthetic=share)
        tokens = share * planned_updates(read.train, settings) * batch_tokens(read.train, settings)
        mean = np.diff(read.train.target.offsets).mean()
        assert sentences_seen(read, settings) == pytest.approx(tokens / mean, abs=1)
    many = replace(QUICK, synthetic=1e6)
    assert sentences_seen(read, many) == back_translation.MOST_SENTENCES


def test_little_of_it_comes_as_often_as_the_pairs(
    tokenizer: SentencePieceTokenizer, text: list[tuple[str, str]], echo: list[str]
) -> None:
    read = read_text(tokenizer, text)
    short, _ = translated(read, [line for line, _ in text[100:110]])
    assert short.synthetic is not None
    share = int(short.synthetic.target.offsets[-1]) / int(read.train.target.offsets[-1])
    beside = text_beside(None, short, QUICK, 1_000)
    assert beside is not None
    assert [weight for _, weight in beside(1, 1)] == [pytest.approx(share)]
    assert share < 0.3
    plenty, _ = translated(read, [f"{line} {number}" for number in range(3) for line, _ in text])
    beside = text_beside(None, plenty, replace(QUICK, synthetic=0.7), 1_000)
    assert beside is not None
    assert [weight for _, weight in beside(1, 1)] == [0.7]
    assert echo


def test_what_comes_back_as_nonsense_is_said(
    tokenizer: SentencePieceTokenizer,
    text: list[tuple[str, str]],
    echo: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(back_translation, "translate", lambda *arguments, **more: ["" for _ in arguments[2]])
    lines, read = [line for line, _ in text[100:]], read_text(tokenizer, text)
    with pytest.raises(CorpusError, match="none is of a length that a translation has"):
        translated(read, lines)
    _, facts = with_back_translation(read, lines, Path("back"), FROM, needed=False)
    assert facts == {"back": "back", "back_chrf": None, "usable": 0}
    assert "is-en is learned from its pairs alone" in capsys.readouterr().err
    assert not echo


def test_what_is_too_long_is_left_out(
    tokenizer: SentencePieceTokenizer, text: list[tuple[str, str]], echo: list[str]
) -> None:
    read, facts = read_text(tokenizer, text), dict[str, Any]()
    long = "\u10d0" * 300  # each letter of which is three bytes, and as many pieces
    found, _ = translated(read, [text[100][0], long])
    assert found.synthetic is not None
    assert len(found.synthetic) == len(echo) == 2
    short = in_its_pieces(found, FROM, facts, new_pieces=0)
    assert short.synthetic is not None
    assert len(short.synthetic) == 1
    assert facts["dropped"] == {"over 400 tokens of it": 1}
    only, _ = translated(read, [long])
    with pytest.raises(CorpusError, match="What was translated back has no usable sentence pair"):
        in_its_pieces(only, FROM, facts, new_pieces=0)


@pytest.mark.parametrize(("chrf", "warned"), [(13.7, True), (21.0, False), (0.0, False)])
def test_a_model_that_hardly_translates_is_warned_of(
    tokenizer: SentencePieceTokenizer,
    text: list[tuple[str, str]],
    echo: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    chrf: float,
    warned: bool,
) -> None:
    """By what its fine-tuning has noted; not where that was chosen by the loss, and nothing was translated."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    facts = {"pair": "en-is", "best": {"chrf": chrf}}
    (tmp_path / "fine_tune.json").write_text(json.dumps(facts), encoding="utf-8")
    _, facts = with_back_translation(read_text(tokenizer, text), [line for line, _ in text[150:]], tmp_path, FROM)
    assert facts["back_chrf"] == (chrf or None)
    assert ("hardly translates" in capsys.readouterr().err) == warned
    assert echo
