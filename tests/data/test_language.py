"""Language pairs as a user writes them."""

from __future__ import annotations

import pytest

from metanmt.data.language import Pair, base_language, count_words
from metanmt.errors import UsageError


@pytest.mark.parametrize("text", ["fi-en", "zh_Hant-en", "fin_Latn-eng_Latn", "x1-y2"])
def test_a_pair_is_written_as_it_is_read(text: str) -> None:
    assert str(Pair.parse(text)) == text


@pytest.mark.parametrize("text", ["", "fi", "fi-", "-en", "fi-en-de", "fi en", "../x-en", "fi-en\n"])
def test_not_a_pair(text: str) -> None:
    with pytest.raises(UsageError, match="not a language pair") as error:
        Pair.parse(text)
    assert "fi-en" in error.value.remedy


def test_a_language_is_not_translated_into_itself() -> None:
    with pytest.raises(UsageError, match="'ro-ro' is not a language pair: both sides are the same language") as error:
        Pair.parse("ro-ro")
    assert "fi-en" in error.value.remedy


@pytest.mark.parametrize(
    ("sentence", "language", "words"),
    [
        ("three small words", "en", 3),
        ("我有两只猫，三只狗。", "zh_Hant", 5),
        ("猫", "ja", 1),
        ("", "zh", 0),
        ("วันนี้ วันพุธ", "th", 3),
        ("안녕하세요, 여러분", "ko", 2),
    ],
)
def test_words_of_a_sentence(sentence: str, language: str, words: int) -> None:
    assert count_words(sentence, language) == words


def test_the_language_of_a_code() -> None:
    assert [base_language(code) for code in ("pt_BR", "fin_Latn", "EN")] == ["pt", "fin", "en"]
