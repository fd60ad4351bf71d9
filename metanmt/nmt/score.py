"""Scores by sacreBLEU: no number without its signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF, TER

from metanmt.data.language import CHINESE, JAPANESE, OTHERS_WITHOUT_SPACES, base_language

Counts = NDArray[np.float64]
"""What a corpus-level score is computed from, for every sentence: (sentences, counts); they add up."""
SEED = 12345
TOKENIZER = "13a"
TOKENIZERS = {**dict.fromkeys(CHINESE, "zh"), **dict.fromkeys((*JAPANESE, *OTHERS_WITHOUT_SPACES), "char")}


@dataclass(frozen=True)
class Score:
    """One corpus-level score.

    Attributes:
        name: as sacreBLEU prints it: BLEU, chrF2++, TER.
        score: 0 to 100; in TER less is better.
        signature: everything that the figure depends on.
        mean: of the bootstrap, or None.
        interval: half width of its 95% confidence interval, or None.
    """

    name: str
    score: float
    signature: str
    mean: float | None = None
    interval: float | None = None


def bleu_tokenizer(target: str) -> str:
    """Return sacreBLEU's tokenizer for BLEU into a language: 13a, but one of characters where no spaces part words."""
    return TOKENIZERS.get(base_language(target), TOKENIZER)


def parts_no_words(target: str) -> bool:
    """Return whether nothing parts the words of a language, as spaces do."""
    return bleu_tokenizer(target) != TOKENIZER


def _ter(target: str, references: Sequence[str]) -> TER | None:
    """Return TER into a language: of characters in Chinese and Japanese; None where nothing parts words for it."""
    if base_language(target) in OTHERS_WITHOUT_SPACES:
        return None
    characters = base_language(target) in (*CHINESE, *JAPANESE)
    return TER(normalized=characters, asian_support=characters, references=[list(references)])


def score(
    hypotheses: Sequence[str], references: Sequence[str], *, target: str = "", bootstrap: int = 0, ter: bool = True
) -> dict[str, dict[str, Any]]:
    """Return BLEU, chrF++ and TER as `{"bleu": {"score": ..., "signature": ..., ...}, ...}`.

    Args:
        hypotheses: detokenised translations.
        references: detokenised references, one a hypothesis.
        target: their language, such as "zh" or "zho_Hans", which the tokenizers of BLEU and TER depend on.
        bootstrap: resamples for the confidence interval (Koehn 2004), by sacreBLEU with its own seed; 0 for none.
        ter: TER is much slower than the other two; it is left out into Thai, Khmer, Lao and Burmese.
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    metrics: dict[str, Any] = {
        "bleu": BLEU(tokenize=bleu_tokenizer(target), references=[list(references)]),
        "chrf": CHRF(word_order=2, references=[list(references)]),
    }
    if ter and (edit_rate := _ter(target, references)):
        metrics["ter"] = edit_rate
    results = {}
    for name, metric in metrics.items():
        _compute_in_plain_floats(metric)
        result = metric.corpus_score(list(hypotheses), None, n_bootstrap=max(1, bootstrap))
        results[name] = asdict(
            Score(
                result.name,
                float(result.score),
                str(metric.get_signature()),
                float(result._mean) if bootstrap > 1 else None,
                float(result._ci) if bootstrap > 1 else None,
            )
        )
    return results


def _compute_in_plain_floats(metric: Any) -> None:
    """Make every resample's score a Python float: sacreBLEU 2.6 mixes it with numpy's and then cannot average them."""
    compute = metric._compute_score_from_stats

    def plain(stats: Any) -> Any:
        result = compute(stats)
        result.score = float(result.score)
        return result

    metric._compute_score_from_stats = plain


def metric(name: str, target: str = "") -> Any:
    """Return sacreBLEU's metric, as `metanmt evaluate` uses it for a target language."""
    return {"bleu": lambda: BLEU(tokenize=bleu_tokenizer(target)), "chrf": lambda: CHRF(word_order=2)}[name]()


def counts(name: str, hypotheses: Sequence[str], references: Sequence[str], target: str = "") -> Counts:
    """Return the metric's sufficient statistics of every sentence."""
    extract = metric(name, target)._extract_corpus_statistics
    return np.array(extract(list(hypotheses), [list(references)]), dtype=np.float64)


def scorer(name: str) -> Callable[[Counts], float]:
    """Return the function from summed counts to the corpus-level score, whatever the language."""
    compute = metric(name)._compute_score_from_stats
    return lambda sums: float(compute(sums.astype(int).tolist()).score)


def leads(
    system: NDArray[np.float64], baseline: NDArray[np.float64], score: Callable[[Counts], float], weights: NDArray[Any]
) -> NDArray[np.float64]:
    """Return how far systems lead baselines in a corpus-level score, (draws,).

    Args:
        system, baseline: counts, (draws, sentences, counts).
        score: from summed counts to the score.
        weights: how often each sentence counts, (sentences,).
    """
    sums = (np.tensordot(weights, counted, axes=([0], [1])) for counted in (system, baseline))
    return np.array([score(ours) - score(theirs) for ours, theirs in zip(*sums, strict=True)])


def resampled_leads(
    system: NDArray[np.float64],
    baseline: NDArray[np.float64],
    score: Callable[[Counts], float],
    resamples: int,
    seed: int = SEED,
) -> NDArray[np.float64]:
    """Return the leads over paired bootstrap resamples of the sentences (Koehn 2004), (resamples, draws).

    Args:
        system, baseline, score: as of `leads`.
        resamples: how many.
        seed: every pair of systems meets the same resamples.
    """
    sentences = system.shape[1]
    rng, even = np.random.default_rng(seed), np.full(sentences, 1 / sentences)
    return np.array([leads(system, baseline, score, rng.multinomial(sentences, even)) for _ in range(resamples)])
