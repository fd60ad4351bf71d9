"""The embedded corpus: deterministic, distinct, translated, and worded as Babel's public functions word it."""

from __future__ import annotations

import hashlib
import itertools
import re
import subprocess
import sys
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from babel.dates import format_date, format_datetime, format_timedelta
from babel.lists import format_list
from babel.numbers import format_currency
from babel.units import format_unit

from metanmt.data import cldr
from metanmt.data.cldr import languages, sentence_pairs
from metanmt.data.cldr_phrases import Speaker, Untranslated
from metanmt.errors import CorpusError

META_DEV_AND_TEST = ["ro", "lv", "fi", "tr", "ko"]
META_TRAIN = "bg cs da de el es et fr hu it lt nl pl pt sk sl sv ru"
OTHERS = "ar bn bs cv eu fa he hi hy ja ka kk ps sr sw ta th ug uk zh"
DEFAULT = {*META_TRAIN.split(), *META_DEV_AND_TEST}
ALL = sorted({*DEFAULT, *OTHERS.split()})
KEYS = re.compile(
    r"\b(duration|length|mass|volume|area|digital|power|speed|pressure|temperature|energy|electric)-[a-z]"
    r"|\bM(0\d|1[0-2])\b|[{}]|\b(and|or|ago|hours?|days?|kilometers)\b"
)
CONTROLS = re.compile("[\x00-\x1f\x7f\u00a0\u061c\u200e\u200f\u202a-\u202f\u2066-\u2069]")


def digest(language: str, count: int) -> str:
    return hashlib.sha256(repr(list(sentence_pairs(language, count))).encode()).hexdigest()


def test_every_process_and_every_order_of_languages_give_the_same_pairs() -> None:
    # Babel 2.18 lets one locale's words leak into others, by the order in which they are asked; ours must not.
    names = ["fy", "et", "he", "zh", "bs", "ug"]
    program = (
        "import sys, hashlib; from babel.dates import get_day_names, get_month_names;"
        "get_day_names('wide', 'stand-alone', 'fy'); get_month_names('wide', 'stand-alone', 'zh');"
        "from metanmt.data.cldr import sentence_pairs as pairs;"
        "[print(n, hashlib.sha256(repr(list(pairs(n, 300))).encode()).hexdigest()) for n in sys.argv[1:]]"
    )
    expected = {name: digest(name, 300) for name in names}
    for order in (names, names[::-1]):
        result = subprocess.run([sys.executable, "-c", program, *order], capture_output=True, text=True, check=True)
        assert dict(line.split() for line in result.stdout.splitlines()) == expected


def test_a_longer_stream_begins_with_the_shorter() -> None:
    longer = list(sentence_pairs("fi", 500))
    assert list(sentence_pairs("fi", 100)) == longer[:100]
    assert list(sentence_pairs("fi", 0)) == []


def test_languages_and_seeds_give_different_streams() -> None:
    streams = [{english for _, english in sentence_pairs(name, 500)} for name in ("fi", "ro", "tr")]
    streams.append({english for _, english in sentence_pairs("fi", 500, seed=2)})
    for first, second in itertools.combinations(streams, 2):
        assert len(first & second) < 50


@pytest.mark.parametrize("language", ALL)
def test_sentences_are_whole_distinct_and_translated(language: str) -> None:
    pairs = list(sentence_pairs(language, 2000))
    assert len(set(pairs)) == 2000
    speaker = Speaker(language)
    for source, english in pairs:
        assert source.strip() == source != ""
        assert english.strip() == english != ""
        assert not CONTROLS.search(source + english), (source, english)
        assert not KEYS.search(source), source
        assert english.isprintable()
    if not any(letter.isascii() for letter in speaker.weekdays[0]):  # not a Latin script
        lower_case = [source for source, _ in pairs if re.search("[a-z]{3}", source)]
        assert not lower_case


def test_numbers_agree_on_both_sides() -> None:
    for source, english in sentence_pairs("zh", 1000):
        if ":" not in english:  # a clock of 24 hours says other digits
            plain = [re.sub(r"[,.]", "", number) for number in re.findall(r"\d[\d,.]*", english)]
            assert set(plain) <= {re.sub(r"[,.]", "", number) for number in re.findall(r"\d[\d,.]*", source)}


def test_the_default_languages_are_among_the_languages() -> None:
    known = languages()
    assert len(known) > 100
    assert set(known) >= DEFAULT
    assert "en" not in known
    assert known == sorted(known)


@pytest.mark.parametrize("language", META_DEV_AND_TEST)
def test_a_language_gives_enough(language: str) -> None:
    pairs = list(sentence_pairs(language, 20_000))
    assert len({english for _, english in pairs}) > 18_000
    words = {word for _, english in pairs for word in re.findall(r"[^\W\d]+", english)}
    assert len(words) > 700


@pytest.mark.parametrize(
    ("language", "message"),
    [("fii", "no language 'fii'"), ("", "no language"), ("en", "English"), ("ceb", "too little"), ("../fi", "no lang")],
)
def test_a_language_that_cannot_be_used_is_an_error_with_a_remedy(language: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        next(sentence_pairs(language, 1))
    assert caught.value.remedy


def test_a_misspelt_language_gets_the_nearest() -> None:
    with pytest.raises(CorpusError) as caught:
        next(sentence_pairs("fii", 1))
    assert caught.value.remedy.startswith("Did you mean")


# ---- against Babel's public functions

MOMENT = datetime(2021, 3, 4, 15, 5)


def plain(text: str) -> str:
    return re.sub("[\u00a0\u202f]", " ", text)


@pytest.mark.parametrize("language", [*sorted(DEFAULT), "en"])
def test_a_speaker_says_what_babel_says(language: str) -> None:
    speaker = Speaker(language)
    assert speaker.date("full", MOMENT) == format_date(MOMENT, "full", locale=language)
    assert speaker.date("long", MOMENT) == format_date(MOMENT, "long", locale=language)
    for amount in (1, 2, 5, 21, 1234, Decimal("1.5")):
        money = format_currency(amount, "USD", locale=language, format_type="name", currency_digits=False)
        assert speaker.money(amount, "USD") == money
        assert speaker.quantity(amount, "length-kilometer") == format_unit(amount, "length-kilometer", locale=language)
    for days in (1, 2, 5, -1, -3):
        delta = timedelta(days=days)
        relative = format_timedelta(delta, "day", threshold=1, locale=language, add_direction=True)
        assert speaker.relative(days, "day") == relative
    names = [speaker.name("territories", code) for code in ("FI", "RO", "TR")]
    assert speaker.listed(names) == format_list(names, locale=language)
    assert speaker.listed(names[:2], "or") == format_list(names[:2], "or", locale=language)


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("fi", ["torstai 4. maaliskuuta 2021", "5 Norjan kruunua", "3 viikkoa sitten", "1 234 metriä", "A, B ja C"]),
        ("ro", ["joi, 4 martie 2021", "5 coroane norvegiene", "acum 3 săptămâni", "1.234 de metri", "A, B și C"]),
        ("tr", ["4 Mart 2021 Perşembe", "5 Norveç kronu", "3 hafta önce", "1.234 metre", "A, B ve C"]),
        ("ko", ["2021년 3월 4일 목요일", "5 노르웨이 크로네", "3주 전", "1,234미터", "A, B 및 C"]),
        ("en", ["Thursday, March 4, 2021", "5 Norwegian kroner", "3 weeks ago", "1,234 meters", "A, B, and C"]),
    ],
)
def test_golden_phrases(language: str, said: list[str]) -> None:
    speaker = Speaker(language)
    phrases = [
        speaker.date("full", MOMENT),
        speaker.money(5, "NOK"),
        speaker.relative(-3, "week"),
        speaker.quantity(1234, "length-meter"),
        speaker.listed(["A", "B", "C"]),
    ]
    assert [plain(phrase) for phrase in phrases] == said


def test_times_of_day_follow_the_clock_of_the_language() -> None:
    assert plain(Speaker("en").date_and_time(MOMENT)).endswith("3:05 PM")
    assert Speaker("fi").time(MOMENT) == format_datetime(MOMENT, "H.mm", locale="fi") == "15.05"
    assert "PM" not in Speaker("ko").time(MOMENT)


def test_what_a_locale_lacks_is_not_said() -> None:
    speaker = Speaker("fi")
    for lacking in (
        lambda: speaker.quantity(3, "length-horse"),
        lambda: speaker.money(3, "XXY"),
        lambda: speaker.relative(3, "fortnight"),
        lambda: speaker.name("territories", "Q0"),
    ):
        with pytest.raises(Untranslated):
            lacking()


def test_facts_are_the_same_whatever_the_day() -> None:
    assert "EUR" in cldr._currencies()[:3]
    assert "DEM" not in cldr._currencies()
