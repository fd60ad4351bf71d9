"""Differences between systems with their uncertainty, over test sentences and over support draws.

A system is adapted on several random draws of the same budget and scored on one test set. A difference of two systems
is therefore uncertain twice: another draw would adapt otherwise, and another test set would score otherwise. The first
is estimated from the draws themselves, the second by the paired bootstrap over sentences (Koehn 2004). Three draws are
too few to be resampled, so that the two variances are added and the interval is Student's, with the degrees of freedom
of Satterthwaite (1946); a simulation in the tests shows that it covers the truth at its stated rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]
"""What a corpus-level score is computed from, for every sentence: (sentences, counts); they add up."""
RESAMPLES, SEED = 1_000, 12345
METRICS = ("bleu", "chrf")


@dataclass(frozen=True)
class Difference:
    """A system's lead over a baseline, in points of the metric.

    Attributes:
        value: mean over the draws.
        low, high: interval at the stated confidence, corrected for the number of comparisons.
        p_value: of no difference, corrected likewise (Bonferroni), at most 1.
        draws: how many there were; with one, the interval is of the sentences alone.
    """

    value: float
    low: float
    high: float
    p_value: float
    draws: int

    @property
    def significant(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def metric(name: str) -> Any:
    """Return sacreBLEU's metric, as `metanmt evaluate` uses it."""
    from sacrebleu.metrics import BLEU, CHRF

    return {"bleu": BLEU, "chrf": lambda: CHRF(word_order=2)}[name]()


def counts(name: str, hypotheses: Sequence[str], references: Sequence[str]) -> Counts:
    """Return the metric's sufficient statistics of every sentence."""
    return np.array(metric(name)._extract_corpus_statistics(list(hypotheses), [list(references)]), dtype=np.float64)


def scorer(name: str) -> Callable[[Counts], float]:
    """Return the function from summed counts to the corpus-level score."""
    compute = metric(name)._compute_score_from_stats
    return lambda sums: float(compute(sums.astype(int).tolist()).score)


def paired_difference(
    system: Sequence[Counts],
    baseline: Sequence[Counts],
    score: Callable[[Counts], float],
    *,
    confidence: float = 0.95,
    comparisons: int = 1,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Difference:
    """Return how far a system leads a baseline that was adapted on the same draws and scored on the same sentences.

    Args:
        system: counts of each draw, (sentences, counts).
        baseline: likewise, in the same order of draws and sentences.
        score: from summed counts to the score.
        confidence: of the interval, all `comparisons` taken together.
        comparisons: how many such differences are looked at (Bonferroni).
        resamples: of the sentences.
        seed: of the resampling; every pair of systems meets the same resamples.
    """
    from scipy.stats import t

    ours, theirs = np.stack(list(system)), np.stack(list(baseline))
    if ours.shape[:2] != theirs.shape[:2]:
        raise ValueError(f"{ours.shape[:2]} draws and sentences against {theirs.shape[:2]}")
    draws, sentences = ours.shape[:2]

    def lead(weights: NDArray[Any]) -> NDArray[np.float64]:
        sums = (np.tensordot(weights, counted, axes=([0], [1])) for counted in (ours, theirs))
        return np.array([score(a) - score(b) for a, b in zip(*sums, strict=True)])

    by_draw = lead(np.ones(sentences))
    rng = np.random.default_rng(seed)
    even = np.full(sentences, 1 / sentences)
    resampled = np.array([lead(rng.multinomial(sentences, even)).mean() for _ in range(resamples)])
    of_sentences = float(resampled.var(ddof=1))
    of_draws = float(by_draw.var(ddof=1)) / draws if draws > 1 else 0.0
    value, variance = float(by_draw.mean()), of_sentences + of_draws
    if variance == 0.0:
        return Difference(value, value, value, 1.0 if value == 0 else 0.0, draws)
    freedom = variance**2 / (of_sentences**2 / max(1, sentences - 1) + of_draws**2 / max(1, draws - 1))
    error = variance**0.5
    half = float(t.ppf(1 - (1 - confidence) / (2 * comparisons), freedom)) * error
    p_value = min(1.0, comparisons * 2 * float(t.sf(abs(value) / error, freedom)))
    return Difference(value, value - half, value + half, p_value, draws)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation over draws; of one draw there is no deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
