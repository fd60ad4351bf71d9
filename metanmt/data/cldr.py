"""The embedded corpus: sentence pairs that Unicode CLDR's linguists keep, made offline and for no download at all.

Every locale of CLDR words the same facts: dates, times, durations, distances from now, quantities, amounts of money,
lists of places and of languages. A sentence here is one fact, or up to three that a list or a colon joins; it is said
by the source language and by English, so both sides mean the same. That is real language with its real morphology
(Finnish partitives, Slavic plurals, Turkish word order) in well over a hundred languages, but a narrow domain: good to
try the program, to test it and to compare learners, no substitute for text.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal

from babel import localedata
from babel.core import get_global
from babel.numbers import get_territory_currencies

from metanmt.data.cldr_phrases import Number, Speaker, Untranslated
from metanmt.errors import CorpusError, did_you_mean

Fact = Callable[[Speaker], str]
"""Something that can be said in any language."""

TARGET = "en"
# Units that people write about, the commoner first.
_UNIT_LIST = """
    length-kilometer length-meter mass-kilogram length-centimeter volume-liter mass-gram temperature-celsius
    duration-minute duration-hour duration-day duration-week duration-month duration-year length-mile length-millimeter
    area-square-meter area-square-kilometer area-hectare speed-kilometer-per-hour volume-cubic-meter mass-tonne
    length-foot length-inch mass-pound volume-milliliter power-kilowatt power-megawatt power-watt energy-kilowatt-hour
    digital-megabyte digital-gigabyte digital-kilobyte digital-terabyte digital-byte digital-bit duration-second
    duration-decade duration-century length-yard area-acre mass-ounce volume-gallon volume-cup volume-tablespoon
    volume-teaspoon volume-deciliter volume-hectoliter volume-cubic-centimeter speed-meter-per-second
    speed-mile-per-hour power-horsepower energy-kilocalorie energy-kilojoule energy-joule mass-milligram mass-carat
    electric-volt electric-ampere electric-ohm frequency-megahertz frequency-hertz pressure-hectopascal
    pressure-millibar pressure-bar length-light-year length-nautical-mile speed-knot temperature-fahrenheit
    graphics-pixel graphics-megapixel area-square-mile area-square-foot angle-degree volume-barrel volume-pint
    area-square-centimeter duration-millisecond length-nanometer length-micrometer concentr-karat
"""
UNITS = tuple(_UNIT_LIST.split())
_NO_PLACES = {"XA", "XB", "ZZ"}  # codes for pseudo-locales and for "unknown"
RELATIVE_UNITS = ("day", "week", "month", "year", "hour", "minute", "second", "quarter")
WEEKDAY_FIELDS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# Parts of one measure, with what each counts up to.
DURATIONS = (
    (("hour", 23), ("minute", 59)),
    (("minute", 59), ("second", 59)),
    (("day", 30), ("hour", 23)),
    (("week", 51), ("day", 6)),
    (("year", 99), ("month", 11)),
    (("day", 30), ("hour", 23), ("minute", 59)),
    (("hour", 23), ("minute", 59), ("second", 59)),
)
_DIGITS = (1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 5, 6)
_BIDI_CONTROLS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u3000 ]+")


def sentence_pairs(language: str, count: int, *, seed: int = 1) -> Iterator[tuple[str, str]]:
    """Yield `count` distinct sentence pairs of `language` and English.

    The pairs are a function of (language, seed) and of the installed release of Babel alone: the same in every
    process, and a longer stream begins with the shorter. Two languages draw from one space of facts in different
    orders, so that their English sides meet only by chance.

    Args:
        language: one of `languages()`, or another identifier that Babel knows, such as `sr_Latn`.
        count: how many pairs.
        seed: chooses another stream.

    Raises:
        CorpusError: Babel does not know the language, or translates too little of it.
    """
    source = _source_speaker(language)
    english = _speaker(TARGET)
    draw = random.Random(f"cldr {source.locale} {seed}")
    return itertools.islice(_distinct_pairs(source, english, draw), count)


@functools.cache
def languages() -> list[str]:
    """Return the identifiers of the languages that `sentence_pairs` can speak, each in its usual script."""
    identifiers = (name for name in localedata.locale_identifiers() if "_" not in name and name != TARGET)
    return sorted(name for name in identifiers if _speaks_enough(_speaker(name)))


def _distinct_pairs(source: Speaker, english: Speaker, draw: random.Random) -> Iterator[tuple[str, str]]:
    seen: set[tuple[str, str]] = set()
    while True:
        say = _sentence(draw)
        try:
            pair = _plain(say(source)), _plain(say(english))
        except Untranslated:
            continue
        if pair not in seen:
            seen.add(pair)
            yield pair


def _source_speaker(language: str) -> Speaker:
    if language not in localedata.locale_identifiers():
        raise CorpusError(f"The embedded corpus has no language {language!r}.", did_you_mean(language, languages()))
    if language.split("_")[0] == TARGET:
        raise CorpusError("English is the target of every pair of the embedded corpus.", "Name another language.")
    speaker = _speaker(language)
    if not _speaks_enough(speaker):
        raise CorpusError(
            f"The Unicode CLDR translates too little into {language!r} for the embedded corpus.",
            f"Use a file of sentence pairs, or one of {len(languages())} other languages, such as fi.",
        )
    return speaker


@functools.cache
def _speaker(language: str) -> Speaker:
    return Speaker(language)


def _speaks_enough(speaker: Speaker) -> bool:
    """Return whether a locale words most kinds of facts, so that its sentences are as varied as another's."""
    english = _speaker(TARGET).currencies
    return (
        len(speaker.months) == 12
        and len(speaker.weekdays) == 7
        and sum(key in speaker.territories for key in _territories()) >= 180
        and sum(key in speaker.languages for key in _languages()) >= 60
        and sum(speaker.currencies.get(key, english[key]) != english[key] for key in _currencies()) >= 80
        and sum(unit in speaker.units for unit in UNITS) >= 30
        and sum((unit, "past") in speaker.relative_times for unit in RELATIVE_UNITS) >= 5
    )


def _plain(text: str) -> str:
    """Return `text` without marks that only lay it out: no-break spaces become spaces, direction marks go."""
    return _SPACES.sub(" ", _BIDI_CONTROLS.sub("", text)).strip()


# ---- what there is to talk about: the same for every language, and the commoner first


@functools.cache
def _territories() -> Sequence[str]:
    """Return territories and parts of the world, by the number of languages spoken there."""
    spoken = get_global("territory_languages")
    places = set(_speaker(TARGET).territories) - _NO_PLACES
    return sorted(places, key=lambda key: (-len(spoken.get(key, ())), key))


@functools.cache
def _languages() -> Sequence[str]:
    """Return the living languages that CLDR has a locale for, by the number of territories that speak them."""
    places: Counter[str] = Counter(itertools.chain.from_iterable(get_global("territory_languages").values()))
    living = {name for name in localedata.locale_identifiers() if "_" not in name}
    return sorted(living & set(_speaker(TARGET).languages), key=lambda key: (-places[key], key))


@functools.cache
def _currencies() -> Sequence[str]:
    """Return the currencies that were legal tender in 2024, by the number of territories that use them."""
    day = date(2024, 1, 1)  # a fixed day, as the corpus must not change with the calendar
    used: Counter[str] = Counter()
    for territory in get_global("territory_currencies"):
        used.update(get_territory_currencies(territory, start_date=day))
    return sorted(set(used) & set(_speaker(TARGET).currencies), key=lambda code: (-used[code], code))


def _common(draw: random.Random, items: Sequence[str]) -> str:
    """Draw an item; the earlier, the likelier, as in any text."""
    return items[int(len(items) * draw.random() ** 2)]


# ---- facts


def _number(draw: random.Random) -> Number:
    whole = draw.randrange(2, 10 ** draw.choice(_DIGITS))
    if whole < 1000 and draw.random() < 0.2:
        return Decimal(whole * 10 + draw.randrange(1, 10)) / 10
    return whole if draw.random() < 0.95 else 1


def _moment(draw: random.Random) -> datetime:
    year = draw.randrange(1900, 2060)
    return datetime(year, draw.randrange(1, 13), draw.randrange(1, 29), draw.randrange(24), draw.randrange(60))


def _money(draw: random.Random) -> Fact:
    amount, currency = _number(draw), _common(draw, _currencies())
    return lambda speaker: speaker.money(amount, currency)


def _quantity(draw: random.Random) -> Fact:
    value, unit = _number(draw), _common(draw, UNITS)
    return lambda speaker: speaker.quantity(value, unit)


def _relative(draw: random.Random) -> Fact:
    weekday = draw.random() < 0.15
    unit = draw.choice(WEEKDAY_FIELDS if weekday else RELATIVE_UNITS)
    count = draw.randrange(1, 5 if weekday else 60) * draw.choice((-1, 1))
    return lambda speaker: speaker.relative(count, unit)


def _duration(draw: random.Random) -> Fact:
    parts = [(draw.randint(1, most), f"duration-{unit}") for unit, most in draw.choice(DURATIONS)]
    return lambda speaker: speaker.listed([speaker.quantity(*part) for part in parts], "unit")


def _date(draw: random.Random) -> Fact:
    style, moment = draw.choice(("full", "long", "long", "yMMMM", "MMMMd")), _moment(draw)
    return lambda speaker: speaker.date(style, moment)


def _date_and_time(draw: random.Random) -> Fact:
    moment = _moment(draw)
    return lambda speaker: speaker.date_and_time(moment)


def _key(draw: random.Random, table: str) -> str | int:
    match table:
        case "months":
            return draw.randrange(1, 13)
        case "weekdays":
            return draw.randrange(7)
        case "languages":
            return _common(draw, _languages())
        case _:
            return _common(draw, _territories())


def _topic(draw: random.Random) -> Fact:
    table = draw.choice(("territories", "territories", "languages", "weekdays", "months"))
    key = _key(draw, table)
    return lambda speaker: speaker.name(table, key)


def _names(draw: random.Random) -> Fact:
    """Draw a list of two to four different names of one kind."""
    table = draw.choice(("territories", "territories", "languages"))
    keys = dict.fromkeys(_key(draw, table) for _ in range(draw.choice((2, 3, 3, 4))))
    return _listed(draw, [functools.partial(Speaker.name, table=table, key=key) for key in keys])


def _listed(draw: random.Random, facts: Sequence[Fact]) -> Fact:
    style = "or" if draw.random() < 0.25 else "standard"
    return lambda speaker: speaker.listed([say(speaker) for say in facts], style)


_STATEMENTS = (_money, _quantity, _quantity, _relative, _duration, _date)
_LISTABLE = (_money, _quantity, _quantity, _relative, _date)  # a duration is a list itself
_FRAMES = ("{0}: {1}", "{0} ({1})", "{0}; {1}", "{0} – {1}")


def _statement(draw: random.Random) -> Fact:
    return draw.choice(_STATEMENTS)(draw)


def _framed(draw: random.Random, first: Fact, second: Fact) -> Fact:
    frame = draw.choice(_FRAMES)
    return lambda speaker: frame.format(first(speaker), second(speaker))


def _sentence(draw: random.Random) -> Fact:
    """Draw a sentence: one fact that is rich by itself, or two or three that belong side by side."""
    shape = draw.random()
    if shape < 0.14:
        return draw.choice((_money, _quantity, _duration, _date, _date_and_time))(draw)
    if shape < 0.32:
        return _names(draw)
    if shape < 0.52:
        return _framed(draw, _topic(draw), _statement(draw))
    if shape < 0.66:
        kind = draw.choice(_LISTABLE)
        return _listed(draw, [kind(draw), kind(draw)])
    if shape < 0.80:
        return _framed(draw, _statement(draw), _statement(draw))
    if shape < 0.90:
        return _framed(draw, _names(draw), _statement(draw))
    return _framed(draw, _topic(draw), _listed(draw, [draw.choice(_LISTABLE)(draw), draw.choice(_LISTABLE)(draw)]))
