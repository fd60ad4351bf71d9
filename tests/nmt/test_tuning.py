"""Fine-tuning: the dev loss falls, the best weights are kept, and the same seed gives the same bits."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from metanmt.config import FineTuneConfig
from metanmt.data.batch import Batch, MicroBatch, make_batch
from metanmt.data.leakage import normalized
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.errors import CorpusError
from metanmt.nmt.loss import Loss
from metanmt.nmt.score import TOKENIZERS
from metanmt.nmt.tuning import (
    TuningReport,
    _accumulate_gradient,
    batch_tokens,
    evaluate_dev,
    fine_tune,
    hold_out,
    planned_updates,
)
from tests import toy

SETTINGS = FineTuneConfig(
    learning_rate=5e-3, min_updates=24, max_updates=24, max_tokens=400, metric="loss", evaluations=4, dropout=0.1
)


@pytest.fixture
def fresh(toy_model: PreTrainedModel) -> PreTrainedModel:
    toy.initialise(toy_model)
    return toy_model


@pytest.fixture(scope="module")
def dev(tokenizer: SentencePieceTokenizer) -> Bitext:
    return toy.make_bitext(tokenizer, toy.lines(12, skip=60))


def tune(
    model: PreTrainedModel, tokenizer: SentencePieceTokenizer, train: Bitext, dev: Bitext, **changes: object
) -> TuningReport:
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    return fine_tune(model, tokenizer, toy.PAIR, train, dev, settings, seed=1, precision="float32", label="test")


def dev_loss(model: PreTrainedModel, tokenizer: SentencePieceTokenizer, dev: Bitext) -> float:
    return evaluate_dev(model, tokenizer, toy.PAIR, dev, 0, Loss(), "loss").loss


def test_with_none_the_unadapted_model_is_evaluated(
    fresh: PreTrainedModel, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, dev: Bitext
) -> None:
    before = toy.weights_hash(fresh)
    report = tune(fresh, tokenizer, toy_bitext, dev, update="none")
    assert report.history == [report.best]
    assert (report.updates, report.target_tokens, report.best.update) == (0, 0, 0)
    assert report.best.loss == pytest.approx(dev_loss(fresh, tokenizer, dev))
    assert toy.weights_hash(fresh) == before
    assert not fresh.training


def test_the_dev_loss_falls(
    fresh: PreTrainedModel, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, dev: Bitext
) -> None:
    report = tune(fresh, tokenizer, toy_bitext, dev)
    assert [item.update for item in report.history] == [0, 6, 12, 18, 24]
    assert report.best.loss < 0.85 * report.history[0].loss
    assert report.updates == 24
    assert report.sentences == len(toy_bitext)
    epochs = report.target_tokens / int(toy_bitext.target.offsets[-1])
    assert epochs == pytest.approx(3, rel=0.1), "8 batches of at most 200 tokens an epoch"
    assert dev_loss(fresh, tokenizer, dev) == pytest.approx(report.best.loss, rel=1e-6), "the model holds the best"
    assert not fresh.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in fresh.parameters())
    assert report.to_json()["best"]["update"] == report.best.update


def test_a_bad_learning_rate_leaves_the_unadapted_model(
    fresh: PreTrainedModel, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, dev: Bitext
) -> None:
    before = toy.weights_hash(fresh)
    report = tune(fresh, tokenizer, toy_bitext, dev, learning_rate=50.0, patience=9)
    assert report.best.update == 0
    assert report.updates == 24
    assert toy.weights_hash(fresh) == before


def test_early_stopping(
    fresh: PreTrainedModel, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, dev: Bitext
) -> None:
    report = tune(fresh, tokenizer, toy_bitext, dev, learning_rate=50.0, patience=2)
    assert report.updates == 12, "two evaluations without improvement, six updates apart"
    assert not report.interrupted


def test_weights_from_the_middle_are_kept(
    fresh: PreTrainedModel, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, dev: Bitext
) -> None:
    """Overfitting on four sentences: the dev loss falls and rises again, the model holds its lowest point."""
    report = tune(fresh, tokenizer, toy_bitext.head(4), dev, learning_rate=3e-2, dropout=0.0, patience=9,
                  min_updates=36, max_updates=36, evaluations=18)  # fmt: skip
    assert 0 < report.best.update < report.history[-1].update
    assert report.best.loss == min(item.loss for item in report.history)
    assert dev_loss(fresh, tokenizer, dev) == pytest.approx(report.best.loss, rel=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_what_is_scored_and_kept_is_an_average_over_the_last_updates(
    fresh: PreTrainedModel, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, dev: Bitext, share: float
) -> None:
    """Share 1 is the plain mean of all updates; 0.2 that of the last fifth or so, by eta = 4 of Shamir and Zhang."""
    path: list[list[torch.Tensor]] = []

    def watch() -> bool:  # asked after every update but the last
        path.append([weight.detach().clone() for weight in fresh.parameters()])
        return False

    def tuned(average_share: float) -> TuningReport:
        toy.initialise(fresh)
        settings = replace(SETTINGS, min_updates=6, max_updates=6, evaluations=2, average_share=average_share)
        return fine_tune(fresh, tokenizer, toy.PAIR, toy_bitext, dev, settings, seed=1, precision="float32", stop=watch)

    tuned(0.0)
    path.append([weight.detach().clone() for weight in fresh.parameters()])
    average = path[0]
    for number, weights in enumerate(path[1:], start=2):
        new = (1 / share) / (number + 1 / share - 1) if share else 1.0
        average = [(1 - new) * old + new * weight for old, weight in zip(average, weights, strict=True)]
    report = tuned(share)
    assert report.best.update == 6
    for weight, expected in zip(fresh.parameters(), average, strict=True):
        torch.testing.assert_close(weight.detach(), expected)
    for weight, unaveraged in zip(path[-1], path[4], strict=True):
        assert torch.equal(weight, unaveraged), "the updates themselves go on from where they are"
    assert dev_loss(fresh, tokenizer, dev) == pytest.approx(report.best.loss, rel=1e-6)


def test_a_stop_keeps_the_best_so_far(
    fresh: PreTrainedModel, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, dev: Bitext
) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 8

    report = fine_tune(fresh, tokenizer, toy.PAIR, toy_bitext, dev, SETTINGS, seed=1, precision="float32", stop=stop)
    assert report.interrupted
    assert report.updates == 8
    assert report.best.update == 6
    assert dev_loss(fresh, tokenizer, dev) == pytest.approx(report.best.loss, rel=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_bits(
    tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, dev: Bitext, precision: str
) -> None:
    def run(seed: int) -> str:
        model = toy.make_m2m100(tokenizer.vocabulary_size)
        settings = replace(SETTINGS, min_updates=5, max_updates=5)
        fine_tune(model, tokenizer, toy.PAIR, toy_bitext, dev, settings, seed=seed, precision=precision)
        return toy.weights_hash(model)

    assert run(1) == run(1) != run(2)


def test_evaluate_dev_translates_for_bleu_and_chrf(
    fresh: PreTrainedModel, tokenizer: SentencePieceTokenizer, dev: Bitext
) -> None:
    toy.fill(fresh)  # these weights babble; the others write nothing that chrF++ counts
    by_loss = evaluate_dev(fresh.train(), tokenizer, toy.PAIR, dev, 7, Loss(), "loss")
    assert (by_loss.update, by_loss.bleu, by_loss.chrf) == (7, 0.0, 0.0)
    scored = evaluate_dev(fresh, tokenizer, toy.PAIR, dev, 7, Loss(), "chrf")
    assert fresh.training
    assert scored.loss == by_loss.loss
    assert scored.chrf > 0
    assert [scored.value(metric) for metric in ("loss", "bleu", "chrf")] == [-scored.loss, scored.bleu, scored.chrf]


def test_dev_bleu_is_of_the_target_language(
    fresh: PreTrainedModel, tokenizer: SentencePieceTokenizer, dev: Bitext, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.fill(fresh)
    words = evaluate_dev(fresh, tokenizer, toy.PAIR, dev, 0, Loss(), "bleu")
    monkeypatch.setitem(TOKENIZERS, toy.PAIR.target, "char")
    characters = evaluate_dev(fresh, tokenizer, toy.PAIR, dev, 0, Loss(), "bleu")
    assert characters.chrf == words.chrf
    assert characters.bleu > words.bleu


def rows(bitext: Bitext) -> set[tuple[int, ...]]:
    return {tuple(bitext.source.sentence(index).tolist()) for index in range(len(bitext))}


def numbered(tokenizer: SentencePieceTokenizer, sources: list[str], targets: list[str]) -> Bitext:
    return toy.make_bitext(tokenizer, list(zip(sources, targets, strict=True)))


@pytest.mark.parametrize(("sentences", "held_out"), [(20, 10), (60, 10), (150, 15), (4_000, 300)])
def test_hold_out(tokenizer: SentencePieceTokenizer, sentences: int, held_out: int) -> None:
    lines = [str(number) for number in range(sentences)]
    bitext = numbered(tokenizer, lines, lines)
    train, dev = hold_out(bitext, tokenizer, seed=1)
    assert len(dev) == held_out
    assert len(train) == sentences - held_out
    assert rows(train).isdisjoint(rows(dev))
    assert rows(train) | rows(dev) == rows(bitext)
    assert rows(hold_out(bitext, tokenizer, seed=1)[1]) == rows(dev) != rows(hold_out(bitext, tokenizer, seed=2)[1])


def test_what_is_held_out_is_on_neither_side_of_the_rest(tokenizer: SentencePieceTokenizer) -> None:
    """As in Tatoeba, every target sentence stands there four times, in one spelling or another."""
    spellings = ("eins {}", "Eins {}", "eins {}.", "eins, {}")
    targets = [spellings[number % 4].format(number // 4) for number in range(400)]
    bitext = numbered(tokenizer, [f"zwei {number}" for number in range(400)], targets)
    train, dev = hold_out(bitext, tokenizer, seed=1)
    assert len(dev) == 40
    assert 200 < len(train) < 300
    ours, theirs = (
        {normalized(line) for line in tokenizer.decode([part.target.sentence(n).tolist() for n in range(len(part))])}
        for part in (train, dev)
    )
    assert ours.isdisjoint(theirs)
    with pytest.raises(CorpusError, match="same few sentences"):
        hold_out(numbered(tokenizer, ["eins", "Eins."] * 15, ["one"] * 30), tokenizer, seed=1)


def test_too_few_sentences_to_hold_out(toy_bitext: Bitext, tokenizer: SentencePieceTokenizer) -> None:
    with pytest.raises(CorpusError, match="19 sentence pairs are too few") as error:
        hold_out(toy_bitext.head(19), tokenizer, seed=1)
    assert "--dev" in error.value.remedy


def test_planned_updates(toy_bitext: Bitext) -> None:
    tokens = int(toy_bitext.target.offsets[-1])
    settings = FineTuneConfig(max_tokens=100, max_epochs=3, min_updates=10, max_updates=1_000)
    assert planned_updates(toy_bitext, settings) == 3 * -(-tokens // 100)
    assert planned_updates(toy_bitext, replace(settings, min_updates=500)) == 500
    assert planned_updates(toy_bitext, replace(settings, max_updates=17)) == 17
    assert planned_updates(toy_bitext, replace(settings, max_tokens=10**9)) == 3 * -(-tokens // 200)


def test_a_small_corpus_takes_small_batches(toy_bitext: Bitext) -> None:
    tokens = int(toy_bitext.target.offsets[-1])
    assert batch_tokens(toy_bitext, FineTuneConfig(max_tokens=1_000)) == 200
    assert batch_tokens(toy_bitext, FineTuneConfig(max_tokens=50)) == 50
    twenty = toy_bitext.take(np.tile(np.arange(len(toy_bitext)), 8))
    assert batch_tokens(twenty, FineTuneConfig(max_tokens=1_000)) == 8 * tokens // 20
    assert batch_tokens(twenty, FineTuneConfig(max_tokens=300)) == 300


def test_what_is_learned_beside_adds_its_gradient(
    fresh: PreTrainedModel, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext
) -> None:
    """That of its mean loss, times its weight; and its tokens are part of the cost."""
    fresh.eval()
    own, *others = (make_batch(toy_bitext, np.arange(start, start + 8), 300, tokenizer.pad_id) for start in (0, 8, 16))
    optimizer = torch.optim.SGD(fresh.parameters(), 1.0)

    def gradient(*parts: tuple[Batch, float]) -> torch.Tensor:
        assert _accumulate_gradient(fresh, optimizer, Loss(0.1), parts, 0) == 0
        return torch.cat([part.grad.flatten() for part in fresh.parameters() if part.grad is not None])

    alone = [gradient((batch, 1.0)) for batch in (own, *others)]
    together = gradient((own, 1.0), *((batch, 0.25) for batch in others))
    assert torch.allclose(together, alone[0] + 0.25 * (alone[1] + alone[2]), rtol=1e-4, atol=1e-7)
    settings = replace(SETTINGS, max_updates=3, min_updates=3)
    asked: list[tuple[int, int]] = []

    def beside(seed: int, update: int) -> list[tuple[Batch, float]]:
        asked.append((seed, update))
        return [(batch, 0.25) for batch in others]

    report = fine_tune(fresh, tokenizer, toy.PAIR, toy_bitext, toy_bitext.head(5), settings, seed=1, beside=beside)
    alone_again = fine_tune(fresh, tokenizer, toy.PAIR, toy_bitext, toy_bitext.head(5), settings, seed=1)
    assert asked == [(1, 1), (1, 2), (1, 3)]
    assert report.target_tokens - alone_again.target_tokens == 3 * sum(batch.target_tokens for batch in others)


def test_memory_that_runs_out_is_remembered(
    fresh: PreTrainedModel,
    tokenizer: SentencePieceTokenizer,
    toy_bitext: Bitext,
    dev: Bitext,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Batches are halved until they fit, once; the result is the same."""
    start = copy.deepcopy(fresh)
    roomy = tune(fresh, tokenizer, toy_bitext, dev, dropout=0.0)
    plain, refused = Loss.summed, 0

    def scarce(self: Loss, model: PreTrainedModel, batch: MicroBatch) -> torch.Tensor:
        nonlocal refused
        if model.training and batch.source.numel() > 100:
            refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(self, model, batch)

    monkeypatch.setattr(Loss, "summed", scarce)
    report = tune(start, tokenizer, toy_bitext, dev, dropout=0.0)
    assert 0 < refused <= 4
    assert capsys.readouterr().err.count("Out of memory: micro-batches of half the size") == refused
    assert report.best.loss == pytest.approx(roomy.best.loss, rel=1e-4)
