"""Translations side by side: what every arm makes of a sentence, and where it departs from the reference."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any

from metanmt.comparison.execute import HYPOTHESES
from metanmt.data.language import Pair
from metanmt.data.sources import read_lines
from metanmt.errors import MetanmtError
from metanmt.nmt.score import metric, parts_no_words
from metanmt.pages.reading import Comparison, System

RIGHT_TO_LEFT = {
    "ar",
    "arz",
    "ary",
    "ckb",
    "dv",
    "fa",
    "fas",
    "he",
    "heb",
    "ks",
    "ps",
    "sd",
    "ug",
    "uig",
    "ur",
    "urd",
    "yi",
}
RIGHT_TO_LEFT_SCRIPTS, LEFT_TO_RIGHT_SCRIPTS = {"Arab", "Hebr", "Nkoo", "Syrc", "Thaa"}, {"Cyrl", "Deva", "Latn"}


@dataclass(frozen=True)
class Hypothesis:
    """A system's translation: runs of its words, each with whether it differs from the reference, and its score."""

    system: System
    runs: list[tuple[str, bool]]
    score: float


@dataclass(frozen=True)
class Sentence:
    """A sentence of a test set with every system's translation; `number` counts from 1."""

    number: int
    source: str
    reference: str
    hypotheses: list[Hypothesis]


@dataclass(frozen=True)
class Translations:
    """Some sentences of a pair's test set, evenly spaced through it; `space` parts the words of the target."""

    pair: str
    source_language: str
    target_language: str
    space: str
    total: int
    systems: list[System]
    sentences: list[Sentence]


def side_by_side(comparison: Comparison, budget: int, most: int) -> list[Translations]:
    """Return the translations of every pair whose text is there, at one budget and by its first draw."""
    found = []
    for pair in comparison.pairs:
        text = comparison.text(pair)
        paths = {
            system: path for system in comparison.systems_at(budget) if (path := comparison.path(system, pair, budget))
        }
        if text is None or not paths:
            continue
        sources, references = text
        systems = {
            system: list(read_lines(path / HYPOTHESES.format(comparison.test_set))) for system, path in paths.items()
        }
        for system, hypotheses in systems.items():
            if not len(sources) == len(references) == len(hypotheses):
                raise MetanmtError(
                    f"{paths[system]} has {len(hypotheses):,} translations of {len(references):,} sentences.",
                    "The data has changed since; prepare it again as it was, or run the comparison anew.",
                )
        languages = Pair.parse(pair)
        scorer, space = metric("chrf"), "" if parts_no_words(languages.target) else " "
        sentences = [
            Sentence(
                index + 1,
                sources[index],
                references[index],
                [
                    _hypothesis(system, lines[index], references[index], scorer, space)
                    for system, lines in systems.items()
                ],
            )
            for index in evenly_spaced(len(references), most)
        ]
        tags = [side.replace("_", "-") for side in (languages.source, languages.target)]
        found.append(Translations(pair, tags[0], tags[1], space, len(references), list(systems), sentences))
    return found


def evenly_spaced(total: int, most: int) -> list[int]:
    """Return at most so many of the first `total` numbers, evenly spaced."""
    count = min(total, most)
    return [index * total // count for index in range(count)]


def marked(hypothesis: str, reference: str, space: str = " ") -> list[tuple[str, bool]]:
    """Return runs of a hypothesis' words, each with whether they differ from the reference.

    Case counts, punctuation around a word does not. What stays is a longest run of common words, and so on to its left
    and right.

    Args:
        hypothesis, reference: sentences.
        space: what parts words; with "" every character is one.
    """
    ours, theirs = (text.split() if space else list(text) for text in (hypothesis, reference))
    matcher = SequenceMatcher(None, [_bare(word) for word in ours], [_bare(word) for word in theirs], autojunk=False)
    common = {block.a + at for block in matcher.get_matching_blocks() for at in range(block.size)}
    runs = groupby(enumerate(ours), key=lambda item: item[0] not in common)
    return [(space.join(word for _, word in run), differs) for differs, run in runs]


def direction(language: str) -> str:
    """Return in which direction a language is written, by its code, as HTML has it; `auto` would go by a first name."""
    code, _, script = language.replace("-", "_").partition("_")
    known = script in RIGHT_TO_LEFT_SCRIPTS or (code in RIGHT_TO_LEFT and script not in LEFT_TO_RIGHT_SCRIPTS)
    return "rtl" if known else "ltr"


def _bare(word: str) -> str:
    """Return a word without the punctuation around it."""
    letters = [index for index, letter in enumerate(word) if unicodedata.category(letter)[0] != "P"]
    return word[letters[0] : letters[-1] + 1] if letters else word


def _hypothesis(system: System, hypothesis: str, reference: str, scorer: Any, space: str) -> Hypothesis:
    score = float(scorer.sentence_score(hypothesis, [reference]).score)
    return Hypothesis(system, marked(hypothesis, reference, space), score)
