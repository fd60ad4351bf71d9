"""Translations side by side: what every arm makes of a sentence, and where it departs from the reference."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from metanmt.comparison.execute import HYPOTHESES
from metanmt.data.language import Pair
from metanmt.data.sources import read_lines
from metanmt.errors import MetanmtError
from metanmt.nmt.score import metric
from metanmt.pages.reading import Comparison, System


@dataclass(frozen=True)
class Hypothesis:
    """A system's translation: its words, each with whether it differs from the reference, and its score."""

    system: System
    words: list[tuple[str, bool]]
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
    """Some sentences of a pair's test set, evenly spaced through it."""

    pair: str
    source_language: str
    target_language: str
    total: int
    systems: list[System]
    sentences: list[Sentence]


def side_by_side(comparison: Comparison, budget: int, most: int) -> list[Translations]:
    """Return the translations of every pair whose text is there, at one budget and by its first draw."""
    found = []
    for pair in comparison.pairs:
        text = comparison.text(pair)
        paths = {
            system: path for system in _systems(comparison, budget) if (path := comparison.path(system, pair, budget))
        }
        if text is None or not paths:
            continue
        sources, references = text
        systems = {
            system: list(read_lines(path / HYPOTHESES.format(comparison.test_set))) for system, path in paths.items()
        }
        for system, hypotheses in systems.items():
            if len(hypotheses) != len(references):
                raise MetanmtError(
                    f"{paths[system]} has {len(hypotheses):,} translations of {len(references):,} sentences.",
                    "The data has changed since; prepare it again as it was, or run the comparison anew.",
                )
        scorer = metric("chrf")
        sentences = [
            Sentence(
                index + 1,
                sources[index],
                references[index],
                [_hypothesis(system, lines[index], references[index], scorer) for system, lines in systems.items()],
            )
            for index in evenly_spaced(len(references), most)
        ]
        languages = Pair.parse(pair)
        tags = [side.replace("_", "-") for side in (languages.source, languages.target)]
        found.append(Translations(pair, tags[0], tags[1], len(references), list(systems), sentences))
    return found


def evenly_spaced(total: int, most: int) -> list[int]:
    """Return at most so many of the first `total` numbers, evenly spaced."""
    count = min(total, most)
    return [index * total // count for index in range(count)]


def marked_words(hypothesis: str, reference: str) -> list[tuple[str, bool]]:
    """Return the words of a hypothesis, each with whether it differs from the reference; case counts, punctuation not.

    What stays is a longest run of common words, and so on to its left and right.
    """
    ours, theirs = hypothesis.split(), reference.split()
    matcher = SequenceMatcher(None, [_bare(word) for word in ours], [_bare(word) for word in theirs], autojunk=False)
    common = {block.a + at for block in matcher.get_matching_blocks() for at in range(block.size)}
    return [(word, index not in common) for index, word in enumerate(ours)]


def _bare(word: str) -> str:
    """Return a word without the punctuation around it."""
    letters = [index for index, letter in enumerate(word) if unicodedata.category(letter)[0] != "P"]
    return word[letters[0] : letters[-1] + 1] if letters else word


def _hypothesis(system: System, hypothesis: str, reference: str, scorer: Any) -> Hypothesis:
    score = float(scorer.sentence_score(hypothesis, [reference]).score)
    return Hypothesis(system, marked_words(hypothesis, reference), score)


def _systems(comparison: Comparison, budget: int) -> list[System]:
    if budget:
        return comparison.systems
    return [system for system in comparison.systems if system.update == comparison.systems[0].update]
