"""Statistics on cases with a known answer, and an interval that covers the truth as often as it says."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sacrebleu.significance import PairedTest

from metanmt.comparison.statistics import (
    METRICS,
    Difference,
    PairDifference,
    mean_and_deviation,
    mean_difference,
    paired_difference,
    pooled,
)
from metanmt.comparison.tables import same_sentences
from metanmt.nmt.score import Counts, counts, metric, score, scorer
from tests import toy

REFERENCES = [target for _, target in toy.lines(120)]


def corrupted(share: float, seed: int) -> list[str]:
    """Return the references with this share of their words replaced."""
    rng = random.Random(seed)
    words = sorted({word for line in REFERENCES for word in line.split()})
    return [
        " ".join(rng.choice(words) if rng.random() < share else word for word in line.split()) for line in REFERENCES
    ]


@pytest.mark.parametrize("name", METRICS)
def test_summed_counts_give_sacrebleus_own_score(name: str) -> None:
    hypotheses = corrupted(0.3, 1)
    found = scorer(name)(counts(name, hypotheses, REFERENCES).sum(axis=0))
    assert found == pytest.approx(score(hypotheses, REFERENCES, ter=False)[name]["score"], abs=1e-12)


def test_counts_are_of_the_target_language() -> None:
    hypotheses, references = (
        ["今天是星期三的早上我们去", "明天我们再来看看"],
        ["今天是星期四的早上我们去", "明天我们再来看一看"],
    )
    found = scorer("bleu")(counts("bleu", hypotheses, references, "zh").sum(axis=0))
    assert found == pytest.approx(score(hypotheses, references, target="zh", ter=False)["bleu"]["score"], abs=1e-12)
    assert found > 50


@pytest.mark.parametrize("name", METRICS)
def test_identical_systems_do_not_differ(name: str) -> None:
    systems = [counts(name, corrupted(0.3, seed), REFERENCES) for seed in range(3)]
    found = paired_difference(systems, systems, scorer(name), resamples=50)
    assert (found.value, found.interval(), found.p_value()) == (0, (0, 0), 1)


@pytest.mark.parametrize("name", METRICS)
def test_a_corrupted_copy_is_worse(name: str) -> None:
    good, bad = ([counts(name, corrupted(share, seed), REFERENCES) for seed in range(3)] for share in (0.2, 0.4))
    found = paired_difference(good, bad, scorer(name), resamples=200)
    low, high = found.interval()
    assert 0 < low < found.value < high
    assert found.p_value() < 0.01
    mirrored = paired_difference(bad, good, scorer(name), resamples=200)
    assert mirrored.value == pytest.approx(-found.value)
    assert mirrored.interval() == pytest.approx((-high, -low))
    assert found.interval(comparisons=20)[0] < low < found.interval(confidence=0.5)[0]
    assert found.p_value(comparisons=20) == pytest.approx(20 * found.p_value())


def test_one_draw_agrees_with_sacrebleus_paired_bootstrap() -> None:
    """The same resampling by the library: its p-value and ours fall on the same side, its mean difference is ours."""
    ours, theirs = corrupted(0.25, 1), corrupted(0.33, 2)
    found = paired_difference([counts("bleu", ours, REFERENCES)], [counts("bleu", theirs, REFERENCES)], scorer("bleu"))
    test = PairedTest(
        [("theirs", theirs), ("ours", ours)], {"BLEU": metric("bleu")}, [REFERENCES], test_type="bs", n_samples=1000
    )
    _, results = test()
    baseline, system = results["BLEU"]
    assert found.value == pytest.approx(system.score - baseline.score)
    assert (found.p_value() < 0.05) == (system.p_value < 0.05)


def mean_score(sums: Counts) -> float:
    return float(sums[0] / sums[1])


@pytest.mark.parametrize(("of_draws", "of_sentences"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.1, 1.0)])
def test_the_interval_covers_the_truth_at_its_stated_rate(of_draws: float, of_sentences: float) -> None:
    """Systems whose true lead is 0.3; draws and sentences vary by as much as given, beside noise in each cell."""
    rng = np.random.default_rng(7)
    draws, sentences, covered, trials = 3, 60, 0, 400
    for trial in range(trials):
        lead = 0.3 + of_draws * rng.normal(size=(draws, 1)) / 4 + of_sentences * rng.normal(size=(1, sentences))
        lead = lead + 0.5 * rng.normal(size=(draws, sentences))
        base = rng.normal(size=(draws, sentences))
        system = [np.stack([row, np.ones(sentences)], axis=1) for row in base + lead]
        baseline = [np.stack([row, np.ones(sentences)], axis=1) for row in base]
        found = paired_difference(system, baseline, mean_score, resamples=100, seed=trial)
        low, high = found.interval()
        covered += low <= 0.3 <= high
    assert 0.92 <= covered / trials <= 0.995


def lead_on(sentences: Counts, seed: int, *, of_draws: float = 0.0) -> PairDifference:
    """Return a lead of 0.3 on average whose part by sentence is given, over three draws with noise of their own."""
    rng = np.random.default_rng(seed)
    lead = 0.3 + sentences + 0.5 * rng.normal(size=(3, len(sentences))) + of_draws * rng.normal(size=(3, 1))
    base = rng.normal(size=lead.shape)
    system, baseline = ([np.stack([row, np.ones(len(row))], axis=1) for row in rows] for rows in (base + lead, base))
    return paired_difference(system, baseline, mean_score, resamples=100, seed=1)


def test_the_mean_over_test_sets_is_surer_than_each() -> None:
    rng = np.random.default_rng(3)
    pairs = [lead_on(rng.normal(size=60), seed) for seed in range(4)]
    found = mean_difference(pairs, "abcd")
    assert found.value == pytest.approx(sum(item.value for item in pairs) / 4)
    assert found.error == pytest.approx(sum(item.error**2 for item in pairs) ** 0.5 / 4)
    assert found.draws == 3
    assert (0.0, 8) not in found.parts
    assert [freedom for _, freedom in found.parts] == [8, 59, 59, 59, 59]
    one = mean_difference(pairs[:1], "a")
    assert one.error == pytest.approx(pairs[0].error)
    assert one.interval() == pytest.approx(pairs[0].interval())


def test_the_mean_over_one_test_set_is_no_surer_for_being_looked_at_twice() -> None:
    pair = lead_on(np.random.default_rng(3).normal(size=60), 1)
    joint, apart = (mean_difference([pair] * 4, sets) for sets in ("aaaa", "abcd"))
    of_sentences = pair.error**2 - pair.of_draws
    assert joint.error**2 == pytest.approx(of_sentences + pair.of_draws / 4)
    assert apart.error**2 == pytest.approx(pair.error**2 / 4)


def test_shared_sentences_may_lean_the_other_way() -> None:
    """Where a lead on one pair is a deficit on another, sentence by sentence, the mean is surer than if apart."""
    sentences = np.random.default_rng(3).normal(size=60)
    pairs = [lead_on(sentences, 1), lead_on(-sentences, 2)]
    assert mean_difference(pairs, "aa").error < 0.6 * mean_difference(pairs, "ab").error


@pytest.mark.parametrize("of_draws", [0.0, 0.1])
def test_the_mean_over_shared_sentences_covers_the_truth_at_its_stated_rate(of_draws: float) -> None:
    """Four pairs translate the same 60 sentences, and what is easy is so in all; taken as independent, too narrow."""
    rng = np.random.default_rng(11)
    trials, covered = 300, {"aaaa": 0, "abcd": 0}
    for trial in range(trials):
        common = rng.normal(size=60)
        pairs = [
            lead_on(common + 0.5 * rng.normal(size=60), 4 * trial + number, of_draws=of_draws) for number in range(4)
        ]
        for sets in covered:
            low, high = mean_difference(pairs, sets).interval()
            covered[sets] += low <= 0.3 <= high
    assert 0.92 <= covered["aaaa"] / trials <= 0.985
    assert covered["abcd"] / trials < 0.8


def test_an_interval_by_hand() -> None:
    """Variances 4 with 2 degrees of freedom and 9 with 10; Student's 97.5% quantiles are 4.30265 and 2.22814."""
    found = Difference(1.0, ((4.0, 2), (9.0, 10)), 3)
    half = (4 * 4.30265273**2 + 9 * 2.22813885**2) ** 0.5
    assert found.interval() == pytest.approx((1 - half, 1 + half))
    assert Difference(half, found.parts, 3).p_value() == pytest.approx(0.05)
    assert Difference(-half, found.parts, 3).p_value(comparisons=7) == pytest.approx(0.35)
    assert Difference(4.30265273, ((1.0, 2),), 3).p_value() == pytest.approx(0.05), "one part: Student's own"


@pytest.mark.parametrize(("draws", "of_draws"), [(2, 0.5), (2, 1.0), (3, 0.7), (3, 1.0), (3, 2.0)])
@pytest.mark.parametrize("unequal", [False, True])
def test_intervals_of_many_comparisons_cover_the_truth_too(draws: int, of_draws: float, unequal: bool) -> None:
    """Four pairs without any lead, corrected for 80 comparisons, `of_draws` errors of the sentences large.

    Of 8,000 rows 5 may exclude zero by chance on the mean, and 20 on a pair; with the degrees of freedom of
    Satterthwaite for each pair alone four to fifteen times as many do. Where the draws of one pair vary three times as
    much as those of others, that pair's interval is too sure of itself still.
    """
    rng, comparisons, rows = np.random.default_rng(5), 80, 8_000
    sizes = of_draws * (np.array([0.5, 0.5, 1.0, 1.7]) if unequal else np.ones(4))
    each = sizes[:, None] * rng.normal(size=(rows, 4, draws)) * draws**0.5
    values = each.mean(axis=2) + rng.normal(size=(rows, 4))
    variances = each.var(axis=2, ddof=1) / draws
    empty = np.zeros(1)
    wrong, wrong_means = 0, 0
    for row_values, row_variances in zip(values, variances, strict=True):
        leads = [
            PairDifference(float(value), ((1.0, 499), (float(variance), draws - 1)), draws, 500, empty)
            for value, variance in zip(row_values, row_variances, strict=True)
        ]
        for lead in pooled(leads):
            low, high = lead.interval(comparisons=comparisons)
            wrong += not low <= 0 <= high
        parts = ((float(row_variances.mean()) / 4, 4 * (draws - 1)), (0.25, 1996))
        low, high = Difference(float(row_values.mean()), parts, draws).interval(comparisons=comparisons)
        wrong_means += not low <= 0 <= high
    allowed = 1.0 if not unequal else 1.8 if of_draws <= 1 else 4.0
    assert wrong <= allowed * 4 * rows * 0.05 / comparisons
    assert wrong_means <= rows * 0.05 / comparisons + 3 * (rows * 0.05 / comparisons) ** 0.5


def test_pooled_draws() -> None:
    pairs = [lead_on(np.zeros(60), seed, of_draws=seed / 10) for seed in range(3)]
    found = pooled(pairs)
    mean = sum(item.of_draws for item in pairs) / 3
    assert [item.of_draws for item in found] == pytest.approx([max(mean, item.of_draws) for item in pairs])
    assert max(item.of_draws for item in pairs) > mean
    assert [item.parts[1][1] for item in found] == [6, 6, 6]
    assert [(item.value, item.parts[0]) for item in found] == [(item.value, item.parts[0]) for item in pairs]


def test_one_test_set_has_one_length() -> None:
    pairs = [lead_on(np.zeros(size), 1) for size in (60, 61)]
    assert mean_difference(pairs, "ab").value == pytest.approx(0.3, abs=0.2)
    with pytest.raises(ValueError, match=r"one test set of \[60, 61\] sentences"):
        mean_difference(pairs, "aa")


def test_other_sentences_are_refused() -> None:
    one, two = (counts("bleu", REFERENCES[:n], REFERENCES[:n]) for n in (5, 6))
    with pytest.raises(ValueError, match="draws and sentences"):
        paired_difference([one], [two], scorer("bleu"))


def test_spread_over_draws() -> None:
    assert mean_and_deviation([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert mean_and_deviation([5.0]) == (5.0, None)


def test_test_sets_of_the_same_sentences_are_one_group() -> None:
    """Also where it takes a third pair to join two."""
    pairs = {"fi-en": ("a", "x"), "tr-en": ("b", "x"), "ko-en": ("c", "y"), "en-ro": ("x", "d"), "ro-de": ("e", "z")}
    first = dict.fromkeys(("fi-en", "tr-en", "en-ro"), "fi-en")
    assert same_sentences(pairs) == {**first, "ko-en": "ko-en", "ro-de": "ro-de"}
    assert same_sentences({**pairs, "fi-de": ("a", "z")}) == {
        **first,
        "ko-en": "ko-en",
        "ro-de": "fi-en",
        "fi-de": "fi-en",
    }
