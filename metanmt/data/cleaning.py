"""Cleaning: what makes a line of text a training sentence, and how many pairs each rule dropped."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import compress

import numpy as np

from metanmt.data.hashes import HashSet

RULES = ("empty", "overlong", "length ratio", "identical sides", "duplicate")
"""The rules' names, in the order in which they are tried and tabled."""

# What ends or separates words: controls (tab, newline), the zero-width space, line and paragraph separators.
SEPARATORS = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u2028\u2029]")
# What stands inside words and is no part of them: soft hyphen, direction marks, word joiner, byte-order mark, halves of
# surrogates. The zero-width joiner and non-joiner stay: Persian and the scripts of India spell with them.
INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)
# A side shorter than this counts as this long for the length ratio: "Ja." may well be said in twenty letters.
SHORT_CHARACTERS = 15
CHUNK_CHARACTERS = 100_000


@dataclass(frozen=True)
class CleaningRules:
    """What a training sentence pair must satisfy; dev and test sets are only normalised.

    Attributes:
        max_characters: of either side. A sentence has about 120; a thousand is a paragraph that alignment lumped.
        max_length_ratio: characters of the longer side over those of the shorter, each taken as at least
            `SHORT_CHARACTERS`. Five is wide enough for Chinese beside English.
        keep_identical: keep pairs whose sides are the same (names, numbers, untranslated text).
        deduplicate: keep only the first of identical pairs of a set.
    """

    max_characters: int = 1_000
    max_length_ratio: float = 5.0
    keep_identical: bool = False
    deduplicate: bool = True


def normalise(sentence: str) -> str:
    """Return the sentence in NFC, without control and invisible characters, white space folded to single spaces.

    Idempotent, and the result never holds a newline, so it can be written as one line.
    """
    if not sentence.isprintable():
        sentence = INVISIBLE.sub("", SEPARATORS.sub(" ", sentence))
    if not sentence.isascii():
        sentence = unicodedata.normalize("NFC", sentence)
    return " ".join(sentence.split())


def clean(pairs: Iterable[tuple[str, str]], rules: CleaningRules, dropped: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield the training pairs that satisfy the rules, normalised; count in `dropped` what each rule took out.

    Memory grows by the 64-bit hash of a pair, for the duplicates; pairs are compared by the few hundred.
    """
    seen, chunk, characters = HashSet(), list[tuple[str, str]](), 0
    for raw_source, raw_target in pairs:
        source, target = normalise(raw_source), normalise(raw_target)
        if rule := _broken(source, target, rules):
            dropped[rule] += 1
        elif not rules.deduplicate:
            yield source, target
        else:
            chunk.append((source, target))
            characters += len(source) + len(target)
            if characters > CHUNK_CHARACTERS:
                yield from _without_duplicates(chunk, seen, dropped)
                chunk, characters = [], 0
    yield from _without_duplicates(chunk, seen, dropped)


def _without_duplicates(
    chunk: list[tuple[str, str]], seen: HashSet, dropped: Counter[str]
) -> Iterator[tuple[str, str]]:
    hashes = np.fromiter((hash64(f"{source}\n{target}") for source, target in chunk), np.uint64, len(chunk))
    new = seen.add(hashes)
    if not new.all():
        dropped["duplicate"] += len(chunk) - int(new.sum())
    yield from compress(chunk, new.tolist())


def clean_held_out(pairs: Iterable[tuple[str, str]], dropped: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield dev or test pairs, normalised; only an empty side drops one, so that scores stay comparable."""
    for raw_source, raw_target in pairs:
        source, target = normalise(raw_source), normalise(raw_target)
        if source and target:
            yield source, target
        else:
            dropped["empty"] += 1


def hash64(text: str) -> int:
    """Return a 64-bit hash that is the same in every process; two of a billion texts share one with odds of 1 in 37."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _broken(source: str, target: str, rules: CleaningRules) -> str | None:
    """Return the name of the first rule that a normalised pair breaks, or None."""
    if not source or not target:
        return "empty"
    short, long = sorted((len(source), len(target)))
    if long > rules.max_characters:
        return "overlong"
    if long > rules.max_length_ratio * max(short, SHORT_CHARACTERS):
        return "length ratio"
    if source == target and not rules.keep_identical:
        return "identical sides"
    return None
