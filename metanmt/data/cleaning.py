"""Cleaning: what makes a line of text a training sentence, and how many lines each rule dropped."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

RULES = ("empty", "overlong", "length ratio", "identical sides", "duplicate")
# Controls, soft hyphen, zero-width space, word joiner, byte-order mark, line and paragraph separators, direction marks.
# The zero-width joiner and non-joiner stay: Persian and the scripts of India spell with them.
NOISE = re.compile("[\x00-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ufffe\uffff]")
SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class CleaningRules:
    """What a training sentence pair must satisfy; dev and test sets are only normalised.

    Attributes:
        max_characters: of either side.
        max_length_ratio: characters of the longer side over those of the shorter, each taken as at least 15 so that
            short sentences are not judged.
        keep_identical: keep pairs whose sides are the same (names, numbers, untranslated text).
        deduplicate: keep the first of several identical pairs.
    """

    max_characters: int = 1_000
    max_length_ratio: float = 5.0
    keep_identical: bool = False
    deduplicate: bool = True


SHORT = 15


def normalise(sentence: str) -> str:
    """Return the sentence in NFC, without control characters, runs of white space folded to one space."""
    if not sentence.isascii():
        sentence = unicodedata.normalize("NFC", sentence)
    if not sentence.isprintable():
        sentence = NOISE.sub(" ", sentence)
    return SPACES.sub(" ", sentence).strip()


def clean(pairs: Iterable[tuple[str, str]], rules: CleaningRules, dropped: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield the training pairs that satisfy the rules, normalised; count in `dropped` what each rule took out.

    Memory grows by one 64-bit hash a pair, for the duplicates.
    """
    seen: set[int] = set()
    for raw_source, raw_target in pairs:
        source, target = normalise(raw_source), normalise(raw_target)
        rule = _broken(source, target, rules)
        if rule is None and rules.deduplicate:
            key = hash64(f"{source}\n{target}")
            if key in seen:
                rule = "duplicate"
            seen.add(key)
        if rule is None:
            yield source, target
        else:
            dropped[rule] += 1


def clean_held_out(pairs: Iterable[tuple[str, str]], dropped: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield dev or test pairs, normalised; only empty ones are dropped, so that scores stay comparable."""
    for raw_source, raw_target in pairs:
        source, target = normalise(raw_source), normalise(raw_target)
        if source and target:
            yield source, target
        else:
            dropped["empty"] += 1


def hash64(text: str) -> int:
    """Return a 64-bit hash that is the same in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _broken(source: str, target: str, rules: CleaningRules) -> str | None:
    if not source or not target:
        return "empty"
    short, long = sorted((len(source), len(target)))
    if long > rules.max_characters:
        return "overlong"
    if max(long, SHORT) > rules.max_length_ratio * max(short, SHORT):
        return "length ratio"
    if source == target and not rules.keep_identical:
        return "identical sides"
    return None
