"""Leakage: which sentences count as the same, and that none of them gets through."""

from __future__ import annotations

import pytest

from metanmt.data.leakage import HeldOut, normalized


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Hello, world!", "hello world"),
        ("HELLO WORLD", "“Hello” — world…"),
        ("Straße", "STRASSE"),
        ("cafe\u0301", "CAF\u00c9"),
        ("ﬁne ２０２４", "fine 2024"),
        ("ΟΔΟΣ", "οδος"),
        ("100 %", "100"),
        ("it's", "its"),
        ("Ｎｏ．", "no"),
        ("a\u200bb\u00adc", "abc"),
        ("안녕하세요, 여러분", "안녕하세요 여러분"),
    ],
)
def test_these_are_the_same_sentence(first: str, second: str) -> None:
    assert normalized(first) == normalized(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Yes.", "No."),
        ("schon", "schön"),
        ("कि", "की"),  # vowel signs are marks and stay
        ("I have 3", "I have 4"),
        ("!?", "!"),  # nothing but signs: compared as they stand
        ("!?", ""),
    ],
)
def test_these_are_not(first: str, second: str) -> None:
    assert normalized(first) != normalized(second)


def test_either_side_leaks_and_so_does_the_wrong_side() -> None:
    held_out = HeldOut()
    held_out.add("Hyvää huomenta!", "Good morning!")
    assert len(held_out) == 2
    assert held_out.leaks("Guten Morgen", "good morning")
    assert held_out.leaks("HYVÄÄ HUOMENTA", "Morning, all")
    assert held_out.leaks("Good morning", "untranslated")
    assert not held_out.leaks("Guten Abend", "Good evening")
    assert not HeldOut().leaks("", "")


def test_a_short_sentence_is_no_exception() -> None:
    held_out = HeldOut()
    held_out.add("Ei!", "?!")
    assert held_out.leaks("ei", "No")
    assert held_out.leaks("Was", "?!")
    assert not held_out.leaks("Was", "!")
