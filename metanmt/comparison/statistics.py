"""Differences between systems with their uncertainty, over test sentences and over support draws.

A system is adapted on several random draws of the same budget and scored on one test set. A difference of two systems
is therefore uncertain twice: another draw would adapt otherwise, and another test set would score otherwise. The first
is estimated from the draws themselves, the second by the paired bootstrap over sentences (Koehn 2004). Three draws are
too few to be resampled, so that the two variances are added and the interval is Student's, with the degrees of freedom
of Satterthwaite (1946); a simulation in the tests shows that it covers the truth at its stated rate.

A mean over pairs is as sure as its test sets are independent. Where several are translations of the same sentences, as
FLORES-200's are, a sentence that is easy in one is easy in all: those are resampled jointly, the same ones of each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metanmt.nmt.score import bleu_tokenizer

Counts = NDArray[np.float64]
"""What a corpus-level score is computed from, for every sentence: (sentences, counts); they add up."""
RESAMPLES, SEED = 1_000, 12345
METRICS = ("bleu", "chrf")


@dataclass(frozen=True)
class Difference:
    """A system's lead over a baseline, in points of the metric.

    Attributes:
        value: mean over the draws.
        error: standard error.
        freedom: degrees of freedom of that error.
        draws: how many there were; with one, the error is of the sentences alone.
    """

    value: float
    error: float
    freedom: float
    draws: int

    def interval(self, confidence: float = 0.95, comparisons: int = 1) -> tuple[float, float]:
        """Return the interval that holds the truth, all comparisons together, at this confidence (Bonferroni)."""
        from scipy.stats import t

        half = self.error and self.error * float(t.ppf(1 - (1 - confidence) / (2 * comparisons), self.freedom))
        return self.value - half, self.value + half

    def p_value(self, comparisons: int = 1) -> float:
        """Return the probability of so large a difference where there is none, corrected likewise."""
        from scipy.stats import t

        if not self.error:
            return 1.0 if self.value == 0 else 0.0
        return min(1.0, comparisons * 2 * float(t.sf(abs(self.value) / self.error, self.freedom)))


@dataclass(frozen=True)
class PairDifference(Difference):
    """A lead on one test set, with what its error is made of.

    Attributes:
        of_draws: variance of the value by the draws.
        sentences: of the test set.
        resampled: the value on each resample of the sentences, (resamples,).
    """

    of_draws: float
    sentences: int
    resampled: NDArray[np.float64] = field(compare=False, repr=False)


def metric(name: str, target: str = "") -> Any:
    """Return sacreBLEU's metric, as `metanmt evaluate` uses it for a target language."""
    from sacrebleu.metrics import BLEU, CHRF

    return {"bleu": lambda: BLEU(tokenize=bleu_tokenizer(target)), "chrf": lambda: CHRF(word_order=2)}[name]()


def counts(name: str, hypotheses: Sequence[str], references: Sequence[str], target: str = "") -> Counts:
    """Return the metric's sufficient statistics of every sentence."""
    extract = metric(name, target)._extract_corpus_statistics
    return np.array(extract(list(hypotheses), [list(references)]), dtype=np.float64)


def scorer(name: str) -> Callable[[Counts], float]:
    """Return the function from summed counts to the corpus-level score, whatever the language."""
    compute = metric(name)._compute_score_from_stats
    return lambda sums: float(compute(sums.astype(int).tolist()).score)


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

    def lead(weights: NDArray[Any]) -> NDArray[np.float64]:
        sums = (np.tensordot(weights, counted, axes=([0], [1])) for counted in (ours, theirs))
        return np.array([score(a) - score(b) for a, b in zip(*sums, strict=True)])

    by_draw = lead(np.ones(sentences))
    rng = np.random.default_rng(seed)
    even = np.full(sentences, 1 / sentences)
    resampled = np.array([lead(rng.multinomial(sentences, even)).mean() for _ in range(resamples)])
    of_draws = float(by_draw.var(ddof=1)) / draws if draws > 1 else 0.0
    parts = [(float(resampled.var(ddof=1)), sentences - 1), (of_draws, draws - 1)]
    return PairDifference(float(by_draw.mean()), *_added(parts), draws, of_draws, sentences, resampled)


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
    parts = [(item.of_draws / count**2, item.draws - 1) for item in differences]
    for items in sharing.values():
        sizes = {item.sentences for item in items}
        if len(sizes) > 1:
            raise ValueError(f"one test set of {sorted(sizes)} sentences")
        together = np.sum([item.resampled for item in items], axis=0) / count
        parts.append((float(together.var(ddof=1)), sizes.pop() - 1))
    value = float(np.mean([item.value for item in differences]))
    return Difference(value, *_added(parts), min(item.draws for item in differences))


def _added(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the error of a sum of independent parts, and its degrees of freedom (Satterthwaite 1946)."""
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return 0.0, 1.0
    return variance**0.5, variance**2 / sum(part**2 / max(1, freedom) for part, freedom in parts)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation over draws; of one draw there is no deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
