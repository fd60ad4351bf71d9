"""Differences between systems with their uncertainty, over test sentences and over support draws.

A system is adapted on several random draws of the same budget and scored on one test set. A difference of two systems
is therefore uncertain twice: another draw would adapt otherwise, and another test set would score otherwise. The first
is estimated from the draws themselves, the second by the paired bootstrap over sentences (Koehn 2004). Three draws are
too few to be resampled, and of one pair too few for a variance: that of draws is pooled over the pairs of a row (a
pair's own is taken where it is larger), and the interval joins both variances, each at Student's quantile for its
degrees of freedom (Banerjee 1960). Simulations in the tests show that it covers the truth at its stated rate or above,
also where it is corrected for many comparisons; on a pair whose draws vary far more than those of the others it is
somewhat too narrow. (Satterthwaite's approximation for each pair alone is so everywhere: where few draws happen to
agree, it takes their variance for well known.)

A mean over pairs is as sure as its test sets are independent. Where several are translations of the same sentences, as
FLORES-200's are, a sentence that is easy in one is easy in all: those are resampled jointly, the same ones of each.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from metanmt.nmt.score import SEED, Counts, leads, resampled_leads

RESAMPLES = 1_000
LEAST_LEVEL = -300.0  # of significance that is told from 0, as a power of ten
METRICS = ("bleu", "chrf")


@dataclass(frozen=True)
class Difference:
    """A system's lead over a baseline, in points of the metric.

    Attributes:
        value: mean over the draws.
        parts: independent variances that add up to that of the value, each with its degrees of freedom.
        draws: how many there were; with one, the error is of the sentences alone.
    """

    value: float
    parts: tuple[tuple[float, int], ...]
    draws: int

    @property
    def error(self) -> float:
        """The standard error of the value."""
        return float(sum(variance for variance, _ in self.parts) ** 0.5)

    def interval(self, confidence: float = 0.95, comparisons: int = 1) -> tuple[float, float]:
        """Return the interval that holds the truth, all comparisons together, at this confidence (Bonferroni)."""
        half = self._half((1 - confidence) / comparisons)
        return self.value - half, self.value + half

    def p_value(self, comparisons: int = 1) -> float:
        """Return the probability of so large a difference where there is none, corrected likewise."""
        from scipy.optimize import brentq

        size = abs(self.value)
        if not size:
            return 1.0
        if self._half(10.0**LEAST_LEVEL) <= size:
            return 0.0
        power = float(brentq(lambda power: self._half(10.0**power) - size, LEAST_LEVEL, 0.0))
        return float(min(1.0, comparisons * 10.0**power))

    def _half(self, level: float) -> float:
        """Return half the width of the interval that misses the truth at this rate at most (Banerjee 1960)."""
        return math.hypot(*(part**0.5 * _student(level, freedom) for part, freedom in self.parts if part))


@dataclass(frozen=True)
class PairDifference(Difference):
    """A lead on one test set. Its first part is of the sentences, its second of the draws.

    Attributes:
        sentences: of the test set.
        resampled: the value on each resample of the sentences, (resamples,).
    """

    sentences: int
    resampled: NDArray[np.float64] = field(compare=False, repr=False)

    @property
    def of_draws(self) -> float:
        """Variance of the value by the draws."""
        return self.parts[1][0]


@functools.lru_cache(maxsize=1024)
def _student(level: float, freedom: int) -> float:
    """Return the two-sided quantile of Student's distribution."""
    from scipy.stats import t

    return float(t.isf(level / 2, max(1, freedom)))


def paired_difference(
    system: Sequence[Counts],
    baseline: Sequence[Counts],
    score: Callable[[Counts], float],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> PairDifference:
    """Return how far a system leads a baseline that was adapted on the same draws and scored on the same sentences.

    Args:
        system: counts of each draw, (sentences, counts).
        baseline: likewise, in the same order of draws and sentences.
        score: from summed counts to the score.
        resamples: of the sentences.
        seed: of the resampling; every pair of systems meets the same resamples.
    """
    ours, theirs = np.stack(list(system)), np.stack(list(baseline))
    if ours.shape[:2] != theirs.shape[:2]:
        raise ValueError(f"{ours.shape[:2]} draws and sentences against {theirs.shape[:2]}")
    draws, sentences = ours.shape[:2]
    by_draw = leads(ours, theirs, score, np.ones(sentences))
    resampled = resampled_leads(ours, theirs, score, resamples, seed).mean(axis=1)
    of_draws = float(by_draw.var(ddof=1)) / draws if draws > 1 else 0.0
    parts = (float(resampled.var(ddof=1)), sentences - 1), (of_draws, draws - 1)
    return PairDifference(float(by_draw.mean()), parts, draws, sentences, resampled)


def pooled(differences: Sequence[PairDifference]) -> list[PairDifference]:
    """Return leads of one system over one baseline on several pairs, each with the variance of draws of them all.

    Two or three draws of a pair hardly tell their own variance; only where they tell of a larger one that is taken.
    """
    variance, freedom = _draws_part(differences)
    return [replace(item, parts=(item.parts[0], (max(variance, item.of_draws), freedom))) for item in differences]


def _draws_part(differences: Sequence[PairDifference]) -> tuple[float, int]:
    variance = float(np.mean([item.of_draws for item in differences]))
    return variance, sum(item.draws - 1 for item in differences)


def mean_difference(differences: Sequence[PairDifference], test_sets: Sequence[Hashable]) -> Difference:
    """Return the mean lead over several pairs, each with draws of its own.

    Args:
        differences: one a pair, all of the same resampling seed.
        test_sets: what each was scored on. Equal ones stand for the same sentences in the same order: their leads on
            one resample belong together, and so the covariance between them counts. Others are independent.

    Raises:
        ValueError: test sets that are said to be equal differ in length.
    """
    count = len(differences)
    sharing: dict[Hashable, list[PairDifference]] = {}
    for item, test_set in zip(differences, test_sets, strict=True):
        sharing.setdefault(test_set, []).append(item)
    of_draws, freedom = _draws_part(differences)
    parts = [(of_draws / count, freedom)]
    for items in sharing.values():
        sizes = {item.sentences for item in items}
        if len(sizes) > 1:
            raise ValueError(f"one test set of {sorted(sizes)} sentences")
        together = np.sum([item.resampled for item in items], axis=0) / count
        parts.append((float(together.var(ddof=1)), sizes.pop() - 1))
    value = float(np.mean([item.value for item in differences]))
    return Difference(value, tuple(parts), min(item.draws for item in differences))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation over draws; of one draw there is no deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
