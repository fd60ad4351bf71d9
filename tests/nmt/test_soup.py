"""A soup of fine-tunings: the average of what they end with, or the best of them where that is worse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from metanmt.config import FineTuneConfig
from metanmt.data.batch import Batch, make_batch
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.nmt import soup
from metanmt.nmt.loss import Loss
from metanmt.nmt.soup import fine_tune_soup
from metanmt.nmt.tuning import Beside, TuningReport, evaluate_dev, fine_tune
from tests import toy

SETTINGS = FineTuneConfig(
    soup=3,
    learning_rate=2e-3,
    min_updates=12,
    max_updates=12,
    max_tokens=400,
    metric="loss",
    evaluations=2,
    dropout=0.1,
)
Tune = Callable[..., TuningReport]
Runs = list[tuple[list[torch.Tensor], TuningReport]]


@pytest.fixture(scope="module")
def dev(tokenizer: SentencePieceTokenizer) -> Bitext:
    return toy.make_bitext(tokenizer, toy.lines(12, skip=60))


@pytest.fixture(scope="module")
def learned(tokenizer: SentencePieceTokenizer, dev: Bitext) -> dict[str, torch.Tensor]:
    """Weights that have learned something, so that runs from there stay near to each other."""
    model = toy.make_m2m100(tokenizer.vocabulary_size)
    toy.initialise(model)
    settings = replace(SETTINGS, soup=1, learning_rate=1e-2, min_updates=80, max_updates=80)
    text = toy.make_bitext(tokenizer, toy.lines(60))
    fine_tune(model, tokenizer, toy.PAIR, text, dev, settings, seed=3, precision="float32")
    return {name: weight.clone() for name, weight in model.state_dict().items()}


@pytest.fixture
def model(toy_model: PreTrainedModel, learned: dict[str, torch.Tensor]) -> PreTrainedModel:
    toy_model.load_state_dict(learned)
    return toy_model


@pytest.fixture
def tune(model: PreTrainedModel, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, dev: Bitext) -> Tune:
    def run(
        seed: int = 1, stop: Callable[[], bool] = lambda: False, beside: Beside | None = None, **changes: Any
    ) -> TuningReport:
        settings, more = replace(SETTINGS, **changes), {"precision": "float32", "beside": beside, "stop": stop}
        return fine_tune_soup(model, tokenizer, toy.PAIR, toy_bitext, dev, settings, seed=seed, **more)

    return run


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The weights and the report of every fine-tuning that a soup is made of."""
    seen: Runs = []

    def watched(model: PreTrainedModel, *args: Any, **kwargs: Any) -> TuningReport:
        report = fine_tune(model, *args, **kwargs)
        seen.append(([weight.detach().clone() for weight in model.parameters()], report))
        return report

    monkeypatch.setattr(soup, "fine_tune", watched)
    return seen


def stopping(at: int) -> Callable[[], bool]:
    asked: Iterator[int] = count(1)
    return lambda: next(asked) >= at


def test_the_average_of_the_runs_is_left_in_the_model(
    model: PreTrainedModel,
    tokenizer: SentencePieceTokenizer,
    dev: Bitext,
    tune: Tune,
    runs: Runs,
) -> None:
    report = tune()
    assert len(runs) == report.soup == 3
    assert len({weights[0].sum().item() for weights, _ in runs}) == 3, "an order and dropout of its own"
    for weight, *parts in zip(model.parameters(), *(weights for weights, _ in runs), strict=True):
        torch.testing.assert_close(weight.detach(), torch.stack(parts).mean(dim=0))
    assert report.updates == 36
    assert [item.update for item in report.history] == [0, 6, 12, 18, 24, 30, 36, 36]
    assert report.best is report.history[-1]
    assert report.best.loss == evaluate_dev(model, tokenizer, toy.PAIR, dev, 0, Loss(), "loss").loss
    assert report.target_tokens == sum(run.target_tokens for _, run in runs)
    assert not model.training


def test_every_run_begins_with_the_unadapted_weights_and_the_first_is_that_without_a_soup(
    model: PreTrainedModel,
    learned: dict[str, torch.Tensor],
    tune: Tune,
    runs: Runs,
) -> None:
    tune()
    assert len({run.history[0].loss for _, run in runs}) == 1
    model.load_state_dict(learned)
    alone = tune(soup=1)
    assert alone == runs[0][1] == runs[3][1]
    assert alone.soup == 0
    for weight, of_first in zip(model.parameters(), runs[0][0], strict=True):
        assert torch.equal(weight, of_first)


def test_the_same_seed_gives_the_same_bits(
    model: PreTrainedModel, learned: dict[str, torch.Tensor], tune: Tune
) -> None:
    hashes = []
    for seed in (1, 1, 2):
        model.load_state_dict(learned)
        tune(seed)
        hashes.append(toy.weights_hash(model))
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_average_that_is_worse_than_its_runs_gives_way_to_the_best_of_them(
    model: PreTrainedModel, tune: Tune, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """From random weights, and far: runs end where there is nothing in the middle."""
    toy.initialise(model)
    report = tune(learning_rate=5e-2, dropout=0.3, min_updates=60, max_updates=60, average_share=0.0)
    best = min(runs, key=lambda run: run[1].best.loss)
    assert report.soup == 0
    assert report.best.loss == best[1].best.loss < report.history[-1].loss
    assert report.best in report.history
    for weight, of_best in zip(model.parameters(), best[0], strict=True):
        assert torch.equal(weight, of_best)
    assert "the best of them is kept" in capsys.readouterr().err


def test_runs_that_gain_nothing_leave_the_unadapted_model(model: PreTrainedModel, tune: Tune) -> None:
    before = toy.weights_hash(model)
    report = tune(learning_rate=50.0)
    assert (report.best.update, report.soup) == (0, 0)
    assert toy.weights_hash(model) == before


@pytest.mark.parametrize(("at", "updates", "counted"), [(8, 8, 1), (14, 15, 1), (26, 28, 2)])
def test_a_stop_keeps_the_runs_that_are_finished(
    model: PreTrainedModel,
    tune: Tune,
    runs: Runs,
    at: int,
    updates: int,
    counted: int,
) -> None:
    report = tune(stop=stopping(at))
    assert report.interrupted
    assert report.updates == updates
    assert report.soup == (counted if counted > 1 else 0)
    for weight, *parts in zip(model.parameters(), *(weights for weights, _ in runs[:counted]), strict=True):
        torch.testing.assert_close(weight.detach(), torch.stack(parts).mean(dim=0))


@pytest.mark.parametrize("update", ["embeddings", "none"])
def test_what_the_strategy_leaves_alone_is_not_averaged_either(model: PreTrainedModel, tune: Tune, update: str) -> None:
    before = [weight.detach().clone() for weight in model.model.encoder.layers.parameters()]
    report = tune(update=update)
    assert report.soup == (3 if update == "embeddings" else 0)
    for weight, was in zip(model.model.encoder.layers.parameters(), before, strict=True):
        assert torch.equal(weight, was)


def test_what_is_learned_beside_is_each_runs_own(tune: Tune, toy_bitext: Bitext) -> None:
    asked: list[tuple[int, int]] = []

    def beside(seed: int, update: int) -> list[tuple[Batch, float]]:
        asked.append((seed, update))
        return [(make_batch(toy_bitext, np.arange(4), 200, 0), 1.0)]

    report = tune(soup=2, beside=beside)
    assert len(asked) == report.updates == len({*asked})
    assert len({seed for seed, _ in asked}) == 2
