"""What one language can say: dates, times, amounts, names and lists, as the Unicode CLDR words them.

Babel's own `format_*` functions answer an entry that a locale lacks with an internal key ("7 duration-week"), a code
or English, and spend most of their time looking things up. A `Speaker` looks each table up once, says only what its
locale itself translates, and raises `Untranslated` otherwise; the tests hold it equal to Babel's public functions.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from babel import Locale, localedata
from babel.dates import DateTimeFormat, DateTimePattern

Number = int | Decimal
Forms = Mapping[str, str]
"""A pattern or a name for each plural category ("one", "few", "other")."""

# Which part of a moment each letter of a CLDR date pattern depends on, so that a formatted field can be kept.
_DATE_PARTS: dict[str, Callable[[datetime], object]] = {
    **dict.fromkeys("G", lambda moment: moment.year > 0),
    **dict.fromkeys("yY", lambda moment: moment.year),
    **dict.fromkeys("MLQq", lambda moment: moment.month),
    **dict.fromkeys("d", lambda moment: moment.day),
    **dict.fromkeys("Eec", lambda moment: moment.weekday()),
    **dict.fromkeys("hHkKa", lambda moment: moment.hour),
    **dict.fromkeys("m", lambda moment: moment.minute),
}
_LATIN_WORD = re.compile("[a-z]{3}")
# Babel imports no <alias> elements; root.xml says where an absent style of list takes its patterns from.
_LIST_STYLES = {"standard": ("standard",), "or": ("or",), "unit": ("unit", "unit-short", "standard")}


class Untranslated(Exception):
    """The locale has no words of its own for this."""


class Speaker:
    """One language, with the tables of its locale looked up once.

    Args:
        language: an identifier that Babel knows, such as `fi`.

    Every method that returns text raises `Untranslated` where the locale (or the locale it inherits from, short of the
    language-neutral root) has no entry.
    """

    def __init__(self, language: str) -> None:
        self.locale = _OwnLocale.parse(language)
        data = _Tables(self.locale)
        self.territories = _names(self.locale.territories)
        self.languages = _names(self.locale.languages)
        self.weekdays = _names(data.own("days", "stand-alone", "wide") or data.own("days", "format", "wide"))
        self.months = _names(data.own("months", "stand-alone", "wide") or data.own("months", "format", "wide"))
        self.units = data.unit_forms()
        self.relative_times = data.relative_forms()
        self.currencies = data.currency_forms()
        self._per_currency: Forms = data.merged("currency_unit_patterns")
        self._lists = data.list_patterns()
        self._number_pattern = self.locale.decimal_formats[None]
        self._date_patterns: dict[str, DateTimePattern] = {
            **{name: self.locale.date_formats[name] for name in ("full", "long")},
            **{name: self.locale.datetime_skeletons[name] for name in ("yMMMM", "MMMMd")},
            "time": self.locale.time_formats["short"],
        }
        if not data.is_latin and str(self.locale.day_periods["format"]["abbreviated"]["am"]).isascii():
            self._date_patterns["time"] = self.locale.datetime_skeletons["Hm"]  # not "PM 3:05" among Hangul
        self._date_and_time = str(self.locale.datetime_formats["long"]).replace("'", "")
        self._fields: dict[tuple[str, Any], str] = {}
        self._numbers: dict[Number, tuple[str, str]] = {}

    def number(self, value: Number) -> str:
        """Return `value` with the separators of the locale, in the digits 0 to 9."""
        return self._number(value)[0]

    def quantity(self, value: Number, unit: str) -> str:
        """Return so many of a unit, which is a CLDR key such as `length-meter`: "3 meters"."""
        text, form = self._number(value)
        return _pick(self.units, unit, form).replace("{0}", text)

    def relative(self, count: int, unit: str) -> str:
        """Return a distance from now: "in 3 weeks" for (3, "week"), "3 weeks ago" for (-3, "week")."""
        text, form = self._number(abs(count))
        return _pick(self.relative_times, (unit, "past" if count < 0 else "future"), form).replace("{0}", text)

    def money(self, amount: Number, currency: str) -> str:
        """Return an amount with the name of its currency, which is an ISO 4217 code: "3 euros"."""
        text, form = self._number(amount)
        name = _pick(self.currencies, currency, form)
        pattern = self._per_currency.get(form) or self._per_currency["other"]
        return pattern.replace("{0}", text).replace("{1}", name)

    def date(self, style: str, moment: datetime) -> str:
        """Return a Gregorian date.

        Args:
            style: "full" (with the weekday), "long", "yMMMM" (month and year) or "MMMMd" (day and month).
            moment: a time of any zone; only its own calendar date counts.
        """
        if len(self.months) < 12 or len(self.weekdays) < 7:
            raise Untranslated(style)
        return self._moment(style, moment)

    def time(self, moment: datetime) -> str:
        """Return hours and minutes, by the 12- or 24-hour clock of the locale."""
        return self._moment("time", moment)

    def date_and_time(self, moment: datetime) -> str:
        """Return a long date and a time, in the order of the locale."""
        return self._date_and_time.replace("{0}", self.time(moment)).replace("{1}", self.date("long", moment))

    def name(self, table: str, key: str | int) -> str:
        """Return the name of `key` in one of `territories`, `languages`, `weekdays`, `months`."""
        names: Mapping[str | int, str] = getattr(self, table)
        try:
            return names[key]
        except KeyError:
            raise Untranslated(f"{table} {key}") from None

    def listed(self, items: Sequence[str], style: str = "standard") -> str:
        """Return the items as a list; `style` is "standard" (and), "or", or "unit" (parts of one measure)."""
        if len(items) == 1:
            return items[0]
        patterns = self._lists.get(style)
        if patterns is None:
            raise Untranslated(style)
        if len(items) == 2:
            return _join(patterns["2"], items[0], items[1])
        text = _join(patterns["start"], items[0], items[1])
        for item in items[2:-1]:
            text = _join(patterns["middle"], text, item)
        return _join(patterns["end"], text, items[-1])

    def _number(self, value: Number) -> tuple[str, str]:
        """Return the text of a number and its plural category."""
        known = self._numbers.get(value)
        if known is None:
            text = self._number_pattern.apply(value, self.locale, numbering_system="latn")
            known = self._numbers[value] = (text, self.locale.plural_form(value))
        return known

    def _moment(self, style: str, moment: datetime) -> str:
        # Babel keeps a pattern as a %-format over field names such as %(MMMM)s.
        text: str = self._date_patterns[style].format % _Fields(self._fields, self.locale, moment)
        return text


class _Fields(dict[str, str]):
    """The fields of a moment by their CLDR names, formatted by Babel when first needed and then kept."""

    def __init__(self, known: dict[tuple[str, Any], str], locale: Locale, moment: datetime) -> None:
        super().__init__()
        self._known, self._locale, self._when = known, locale, moment

    def __missing__(self, field: str) -> str:
        part = _DATE_PARTS.get(field[0])
        key = field, part(self._when) if part else self._when
        text = self._known.get(key)
        if text is None:
            text = self._known[key] = DateTimeFormat(self._when, self._locale)[field]
        return text


class _Tables:
    """A locale's data beside that of the root, which holds what no language translates.

    Babel merges the root into each locale, so an entry is a translation only where the two differ.
    """

    def __init__(self, locale: _OwnLocale) -> None:
        self._data: Mapping[str, Any] = locale._data
        self._root = _root()
        self._is_english = locale.language == "en"
        first_weekday = next(iter(_table(self._data, ("days", "format", "wide")).values()))
        self.is_latin = any(letter.isascii() for letter in first_weekday)

    def merged(self, *path: str) -> dict[Any, Any]:
        """Return a table with what it inherits from the root."""
        return _table(self._data, path)

    def own(self, *path: str) -> dict[Any, Any]:
        """Return the entries of a table that differ from those of the root."""
        root = _table(self._root, path)
        return {key: value for key, value in self.merged(*path).items() if value != root.get(key)}

    def unit_forms(self) -> dict[str, Forms]:
        """Return the long patterns of every unit that the locale spells out.

        CLDR leaves the long patterns out where they equal the short ones ("7 सप्ताह"), so those stand in, unless they
        are an abbreviation that belongs to no language ("kg").
        """
        forms: dict[str, Forms] = {}
        for unit in self.merged("unit_patterns"):
            long, short = self.own("unit_patterns", unit, "long"), self.own("unit_patterns", unit, "short")
            if "other" in long and not self._is_foreign(long["other"]):
                forms[unit] = long
            elif "other" in short and not self._is_symbol(short["other"]):
                forms[unit] = short
        return forms

    def _is_symbol(self, pattern: str) -> bool:
        """Return whether a unit's pattern is an abbreviation such as "{0} kg" or "{0} km/h", and no word."""
        word = pattern.replace("{0}", "").strip()
        if word.endswith(".") or "/" in word or (word.isascii() and len(word) < 2):
            return True
        return word.isascii() and (not self.is_latin or not set(word.lower()) & set("aeiouy"))

    def _is_foreign(self, text: str) -> bool:
        """Return whether a name has Latin words where the language has another script ("3 hectares" in Uyghur)."""
        return not self.is_latin and _LATIN_WORD.search(text) is not None

    def relative_forms(self) -> dict[tuple[str, str], Forms]:
        """Return the patterns of relative times by (unit, "past" or "future")."""
        fields = (field for field in self.merged("date_fields") if "-" not in field)
        entries = {(field, way): self.own("date_fields", field, way) for field in fields for way in ("past", "future")}
        return {key: forms for key, forms in entries.items() if "other" in forms}

    def currency_forms(self) -> dict[str, Forms]:
        """Return the names of every currency, by plural category."""
        plural = self.merged("currency_names_plural")
        forms: dict[str, Forms] = {}
        for code, name in self.merged("currency_names").items():
            names = {"other": name, **plural.get(code, {})}
            if not any(each == code or "(" in each or self._is_foreign(each) for each in names.values()):
                forms[code] = names
        return forms

    def list_patterns(self) -> dict[str, Forms]:
        """Return the list patterns by style; without those that would join with an English word."""
        merged = self.merged("list_patterns")
        patterns: dict[str, Forms] = {}
        for style, sources in _LIST_STYLES.items():
            found: dict[str, str] = {}
            for source in reversed(sources):
                found |= merged.get(source, {})
            patterns[style] = found
        for style in () if self._is_english else tuple(patterns):
            if any(word in patterns[style][part] for word in (" and ", " or ") for part in ("2", "end")):
                del patterns[style]
        return patterns


class _OwnLocale(Locale):  # type: ignore[misc]  # Babel is untyped here
    """A locale whose data no other locale can reach.

    Babel's locales share the data that they inherit, and asking one for it writes its words there: `Locale("he")` has
    the Frisian weekdays once `Locale("fy")` was asked for its own (Babel 2.18). A corpus must not depend on that.
    """

    @functools.cached_property
    def _data(self) -> Mapping[str, Any]:
        return _fresh_data(str(self))


def _fresh_data(identifier: str) -> Mapping[str, Any]:
    """Return a locale's data read anew, beside Babel's cache."""
    with localedata._cache_lock:
        shared = dict(localedata._cache)
        localedata._cache.clear()
        try:
            data: Mapping[str, Any] = localedata.LocaleDataDict(localedata.load(identifier))
        finally:
            localedata._cache.clear()
            localedata._cache.update(shared)
    return data


@functools.cache
def _root() -> Mapping[str, Any]:
    return _fresh_data("root")


def _table(data: Mapping[Any, Any], path: Iterable[str]) -> dict[Any, Any]:
    for key in path:
        data = data.get(key) or {}
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}


def _names(table: Mapping[Any, str]) -> dict[Any, str]:
    """Return the names without those that carry a gloss, such as "Myanmar (Burma)", which locales word differently."""
    return {key: name for key, name in table.items() if name and name != key and "(" not in name}


def _pick(table: Mapping[Any, Forms], key: Any, form: str) -> str:
    """Return a plural form, or the general one, as CLDR leaves out the forms that equal it."""
    forms = table.get(key)
    if forms is None:
        raise Untranslated(str(key))
    return forms.get(form) or forms["other"]


def _join(pattern: str, first: str, second: str) -> str:
    return pattern.replace("{1}", second).replace("{0}", first)
