"""Cleaning: what is folded, what is kept, which rule drops a pair, and that held-out sets lose nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from metanmt.data.cleaning import RULES, CleaningRules, clean, clean_held_out, hash64, normalise


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("  two\t tabs\x0band\x0c feeds \n", "two tabs and feeds"),
        ("no\u00a0break, narrow\u202fspace, wide\u3000space", "no break, narrow space, wide space"),
        ("line\u2028and\u2029paragraph\x85separators", "line and paragraph separators"),
        ("co\u00adoper\u2060ation\ufeff \u200eleft\u200f", "cooperation left"),
        ("\u200bzero\u200bwidth\u200b", "zero width"),
        ("bell\x07 and escape\x1b[0m", "bell and escape [0m"),
        ("cafe\u0301", "caf\u00e9"),
        ("e\u00ad\u0301", "\u00e9"),  # composed only after the soft hyphen between is gone
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian is spelled with the non-joiner
        ("क्\u200dष", "क्\u200dष"),  # and Hindi with the joiner
        ("\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb"),
        ("half \ud83d of a character", "half of a character"),
        ("\u200e \t", ""),
    ],
)
def test_normalise(raw: str, wanted: str) -> None:
    assert normalise(raw) == wanted
    assert normalise(wanted) == wanted


def test_normalised_text_is_one_line_whatever_the_character() -> None:
    for code in range(0x3100):
        line = normalise(f"a{chr(code)}b")
        assert line.splitlines() == [line], hex(code)
        line.encode("utf-8")


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        ("\u00a0", "text", "empty"),
        ("text", "", "empty"),
        ("x" * 1001, "y" * 1000, "overlong"),
        ("short", "y" * 76, "length ratio"),  # five times the fifteen characters that any side counts for
        ("x" * 500, "y" * 99, "length ratio"),
        ("Helsinki  2024", "Helsinki 2024", "identical sides"),
        ("short", "y" * 75, None),
        ("x" * 500, "y" * 100, None),
        ("x" * 1000, "y" * 1000, None),
        ("我们", "We are", None),
    ],
)
def test_each_rule(source: str, target: str, rule: str | None) -> None:
    dropped: Counter[str] = Counter()
    kept = list(clean([(source, target)], CleaningRules(), dropped))
    assert len(kept) == (rule is None)
    assert dropped == ({rule: 1} if rule else {})
    assert rule is None or rule in RULES


def test_only_identical_pairs_are_duplicates() -> None:
    pairs = [("a", "b"), ("a", "c"), ("d", "b"), ("a ", " b"), ("b", "a")]
    dropped: Counter[str] = Counter()
    assert list(clean(pairs, CleaningRules(), dropped)) == [("a", "b"), ("a", "c"), ("d", "b"), ("b", "a")]
    assert dropped == {"duplicate": 1}


def test_the_border_between_the_sides_counts() -> None:
    dropped: Counter[str] = Counter()
    assert len(list(clean([("a b", "c"), ("a", "b c")], CleaningRules(), dropped))) == 2


def test_rules_can_be_loosened() -> None:
    rules = CleaningRules(max_characters=9_999, max_length_ratio=999.0, keep_identical=True, deduplicate=False)
    pairs = [("same", "same"), ("same", "same"), ("s", "t" * 2_000)]
    dropped: Counter[str] = Counter()
    assert list(clean(pairs, rules, dropped)) == pairs
    assert not dropped


def test_held_out_sets_lose_only_empty_pairs() -> None:
    pairs = [("same", "same"), ("same", "same"), ("s", "t" * 2_000), ("\u200e", "text"), ("cafe\u0301", "caf\u00e9 ")]
    dropped: Counter[str] = Counter()
    kept = list(clean_held_out(pairs, dropped))
    assert kept == [*pairs[:3], ("caf\u00e9", "caf\u00e9")]
    assert dropped == {"empty": 1}


def test_the_hash_is_the_same_in_every_process() -> None:
    # BLAKE2b of 8 bytes, read from the low end; Python's own hash() is salted anew in each process.
    assert hash64("") == 0xB4B2797457A0A6E4
    assert hash64("Suomi") == 0x7BEF232AC5492101
    assert len({hash64(str(number)) for number in range(10_000)}) == 10_000
