"""Which weights of a fine-tuning are kept: the latest of those that a dev set cannot tell from the best."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sacrebleu.metrics import CHRF

from metanmt.nmt.score import counts, score
from metanmt.nmt.tuning import Evaluation, TuningReport
from tests import toy

REFERENCES = [target for _, target in toy.lines(100)]


def evaluation(update: int, wrong: range) -> Evaluation:
    """Return that of translations of which those of some numbers are nothing like their references."""
    outputs = ["zzz" if number in wrong else text for number, text in enumerate(REFERENCES)]
    scores, chrf = score(outputs, REFERENCES, ter=False), counts("chrf", outputs, REFERENCES)
    return Evaluation(update, 1.0, scores["bleu"]["score"], scores["chrf"]["score"], chrf)


def kept(*history: Evaluation, metric: str = "chrf") -> list[bool]:
    report = TuningReport(history[0], [history[0]])
    result = [report.add(item, metric) for item in history[1:]]
    assert report.best is [history[0], *(item for item, keep in zip(history[1:], result, strict=True) if keep)][-1]
    return result


def test_the_standard_error_is_that_of_the_paired_difference() -> None:
    one, other = evaluation(1, range(20)), evaluation(2, range(20, 40))
    rng = np.random.default_rng(0)
    by_hand, chrf = [], CHRF(word_order=2)
    for _ in range(250):
        drawn = rng.integers(100, size=100)
        references = [REFERENCES[number] for number in drawn]
        values = [
            chrf.corpus_score(["zzz" if n in wrong else REFERENCES[n] for n in drawn], [references]).score
            for wrong in (range(20), range(20, 40))
        ]
        by_hand.append(values[0] - values[1])
    assert one.standard_error(other, "chrf") == pytest.approx(np.std(by_hand), rel=0.15)
    assert one.standard_error(one, "chrf") == 0
    assert one.standard_error(Evaluation(3, 1.0, 0.0, 0.0), "loss") == 0


def test_of_what_cannot_be_told_apart_the_latest_is_kept() -> None:
    start, high, alike, worse = (
        evaluation(0, range(60)),
        evaluation(1, range(20)),
        evaluation(2, range(1, 22)),  # 21 are wrong
        evaluation(3, range(40)),
    )
    assert high.chrf - high.standard_error(alike, "chrf") < alike.chrf < high.chrf
    assert worse.chrf < high.chrf - high.standard_error(worse, "chrf")
    assert kept(start, high, alike, worse) == [True, True, False]
    assert kept(start, worse, high, alike) == [True, True, True]
    assert kept(start, high, worse, alike) == [True, False, True]


def test_what_is_no_better_than_the_start_is_not_kept() -> None:
    start, alike = evaluation(0, range(20)), evaluation(1, range(1, 22))
    assert kept(start, alike, evaluation(2, range(20))) == [False, False]


def test_by_the_loss_the_lowest_is_kept() -> None:
    losses = [Evaluation(update, loss, 0.0, 0.0) for update, loss in enumerate((3.0, 2.0, 2.0001, 1.9, 2.5))]
    assert kept(*losses, metric="loss") == [True, False, True, False]


def test_evaluations_without_gain_count_from_the_highest() -> None:
    report = TuningReport(evaluation(0, range(60)), [evaluation(0, range(60))])
    found = []
    for item in (evaluation(1, range(20)), evaluation(2, range(1, 22)), evaluation(3, range(10))):
        report.add(item, "chrf")
        found.append(report.evaluations_without_gain("chrf"))
    assert found == [0, 1, 0]


def test_the_report_is_plain_values() -> None:
    report = TuningReport(evaluation(0, range(60)), [evaluation(0, range(60)), evaluation(1, range(20))])
    written = json.loads(json.dumps(report.to_json()))
    assert set(written["best"]) == set(written["history"][1]) == {"update", "loss", "bleu", "chrf"}
