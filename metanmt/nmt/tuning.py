"""Fine-tuning on one pair with low-resource defaults: warm-up and decay, early stopping on dev, best weights kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from metanmt.config import FineTuneConfig
from metanmt.data.batch import Batch, batch_count, epoch, make_batch
from metanmt.data.language import Pair
from metanmt.data.leakage import HeldOut
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import Tokenizer
from metanmt.errors import CorpusError, DeviceMemoryError
from metanmt.nmt.average import WeightAverage
from metanmt.nmt.lexicon import say_if_unknown, set_pair
from metanmt.nmt.loss import Loss
from metanmt.nmt.model import clip_gradient, move_only, set_dropout
from metanmt.nmt.optimizer import make_optimizer
from metanmt.nmt.score import Counts, counts, resampled_leads, scorer
from metanmt.nmt.translate import translate_ids
from metanmt.runlog import Progress, warn
from metanmt.runtime import seed_torch

SMALLEST_DEV, LARGEST_DEV = 10, 300
MAX_SENTENCE_TOKENS = 400  # of a sentence that is adapted on or chosen by: every model has so many positions
SMALLEST_BATCH_TOKENS, UPDATES_PER_EPOCH = 200, 20
BETA2 = 0.98  # of AdamW
RESAMPLES = 200  # of the dev sentences, for a standard error
DEV_TOKENS = 1_000  # padded tokens of a pass over the dev set; its logits take 4 bytes x vocabulary x tokens, thrice


# By the seed and an update's number: batches that are learned beside the text's, and how much each one's loss counts.
Beside = Callable[[int, int], Sequence[tuple[Batch, float]]]


@dataclass(frozen=True)
class Evaluation:
    """Scores on the dev set after some updates; update 0 is the unadapted model."""

    update: int
    loss: float
    bleu: float
    chrf: float
    counts: Counts | None = field(default=None, repr=False, compare=False)  # of the metric, a row a sentence

    def value(self, metric: str) -> float:
        """Return the score in which more is better."""
        return -self.loss if metric == "loss" else float(getattr(self, metric))

    def standard_error(self, other: Evaluation, metric: str) -> float:
        """Return that of the difference of two values, over the sentences; 0 for the loss."""
        if self.counts is None or other.counts is None:
            return 0.0
        one, two = self.counts[None], other.counts[None]
        return float(resampled_leads(one, two, scorer(metric), RESAMPLES).std(ddof=1))


@dataclass
class TuningReport:
    """What a fine-tuning did and cost; `best` is the evaluation of the weights that are kept."""

    best: Evaluation
    history: list[Evaluation] = field(default_factory=list)
    updates: int = 0
    target_tokens: int = 0
    sentences: int = 0
    soup: int = 0  # fine-tunings whose weights the result is the average of, if any
    interrupted: bool = False

    def followed_by(self, later: TuningReport) -> TuningReport:
        """Return the report of this fine-tuning, which left the model as it was, and of another one behind it."""
        moved = [replace(item, update=self.updates + item.update) for item in later.history[1:]]
        return replace(
            later,
            best=moved[later.history.index(later.best) - 1] if later.best.update else self.best,
            history=[*self.history, *moved],
            updates=self.updates + later.updates,
            target_tokens=self.target_tokens + later.target_tokens,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self, dict_factory=lambda items: {key: value for key, value in items if key != "counts"})

    def add(self, now: Evaluation, metric: str) -> bool:
        """Take in an evaluation, and return whether its weights are to be kept from here on.

        They are if it is better than the start and within one standard error of the highest: a dev set of a hundred
        sentences does not tell the weights of the last updates apart, and of what scores alike those that were trained
        longer, and at lower rates, do better on other sentences (the one-standard-error rule of Breiman, Friedman,
        Olshen, Stone 1984, "Classification and Regression Trees", here with a paired error).
        """
        self.history.append(now)
        highest, value = self.highest(metric), now.value(metric)
        kept = value > self.history[0].value(metric) and (
            value >= highest.value(metric) - now.standard_error(highest, metric)
        )
        if kept:
            self.best = now
        return kept

    def highest(self, metric: str) -> Evaluation:
        """Return the evaluation of the highest value, the first if there are several."""
        return max(self.history, key=lambda item: item.value(metric))

    def evaluations_without_gain(self, metric: str) -> int:
        """Return how many evaluations there have been since the highest one."""
        return len(self.history) - 1 - self.history.index(self.highest(metric))


def hold_out(bitext: Bitext, tokenizer: Tokenizer, seed: int) -> tuple[Bitext, Bitext]:
    """Return (train, dev): a tenth of the text, between 10 and 300 pairs, held out where a user gave no dev set.

    What is left is without the pairs that have a side in common with a pair of dev, be it in other letter case or
    punctuation, as `prepare` and a dev set of one's own have it.

    Raises:
        CorpusError: too few sentences to hold any out.
    """
    if len(bitext) < 2 * SMALLEST_DEV:
        raise CorpusError(
            f"{len(bitext)} sentence pairs are too few to adapt on and to choose by.",
            f"Give at least {2 * SMALLEST_DEV} pairs, or a dev set by --dev.",
        )
    count = min(LARGEST_DEV, max(SMALLEST_DEV, len(bitext) // 10))
    order = np.random.default_rng([seed, 11]).permutation(len(bitext))
    dev = bitext.take(np.sort(order[:count]))
    sources, targets = (
        tokenizer.decode([side.sentence(index).tolist() for index in range(len(bitext))])
        for side in (bitext.source, bitext.target)
    )
    held_out = HeldOut()
    for index in order[:count]:
        held_out.add(sources[index], targets[index])
    rest = [index for index in np.sort(order[count:]) if not held_out.leaks(sources[index], targets[index])]
    if not rest:
        raise CorpusError("The same few sentences make up the whole text.", "Give a dev set by --dev.")
    return bitext.take(np.array(rest)), dev


def evaluate_dev(
    model: PreTrainedModel, tokenizer: Tokenizer, pair: Pair, dev: Bitext, update: int, loss: Loss, metric: str
) -> Evaluation:
    """Return loss, and BLEU and chrF++ of greedy translations, on a tokenised dev set.

    The references are decoded from their tokens, so that nothing but the token store is needed; these scores choose
    weights and are never reported as results. With metric "loss" nothing is translated and the scores are 0.
    """
    was_training = model.training
    model.eval()
    set_pair(model, pair)
    with torch.inference_mode():
        batch = make_batch(dev, np.arange(len(dev)), DEV_TOKENS, tokenizer.pad_id)
        total = sum(float(loss.summed(model, part.to(model.device))) for part in batch)
    scores, counted = {"bleu": 0.0, "chrf": 0.0}, None
    if metric != "loss":
        sources = [dev.source.sentence(index).tolist() for index in range(len(dev))]
        outputs = translate_ids(model, sources, beam=1, forced_bos_id=tokenizer.forced_bos_id(pair))
        references = tokenizer.decode([dev.target.sentence(index).tolist() for index in range(len(dev))])
        hypotheses = tokenizer.decode(outputs)
        found = {name: counts(name, hypotheses, references, pair.target) for name in scores}
        scores, counted = {name: scorer(name)(its.sum(axis=0)) for name, its in found.items()}, found[metric]
    model.train(was_training)
    return Evaluation(update, total / batch.target_tokens, scores["bleu"], scores["chrf"], counted)


def batch_tokens(train: Bitext, config: FineTuneConfig) -> int:
    """Return the target tokens of a batch: fewer for a small corpus, so that an epoch has enough updates."""
    wanted = int(train.target.offsets[-1]) // UPDATES_PER_EPOCH
    return min(config.max_tokens, max(SMALLEST_BATCH_TOKENS, wanted))


def planned_updates(train: Bitext, config: FineTuneConfig) -> int:
    """Return the updates of a whole fine-tuning, early stopping aside."""
    per_epoch = batch_count(train, batch_tokens(train, config))
    return min(config.max_updates, max(config.min_updates, per_epoch * config.max_epochs))


def fine_tune(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    pair: Pair,
    train: Bitext,
    dev: Bitext,
    config: FineTuneConfig,
    *,
    seed: int,
    micro_tokens: int = 1_000,
    precision: str = "auto",
    label: str = "fine-tuning",
    beside: Beside | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> TuningReport:
    """Adapt a model in place to a pair and leave the best weights in it; the unadapted ones are a candidate.

    What is scored on the dev set and kept is the average of the weights over the last updates, not those themselves,
    by `TuningReport.add`.

    Args:
        model: on its device; in evaluation mode afterwards, with the same parameters trainable as before.
        tokenizer: for the dev references.
        pair: which pair.
        train: what to adapt on.
        dev: what to choose by; at most `config.dev_sentences` of it are used.
        config: rates, updates, strategy; with "none" the unadapted model is evaluated, and that is all.
        seed: order of batches and dropout.
        micro_tokens: padded tokens of a forward-backward pass.
        precision: see `nmt.precision.mixed`.
        label: for the progress bar.
        beside: what is learned at each update beside a batch of the text, whose loss counts 1.
        stop: asked after every update but the last; when it says so, the best weights so far are kept.
    """
    config, dev = config.resolved(beside=beside is not None), dev.head(config.dev_sentences)
    loss, judge = Loss(config.label_smoothing, precision), Loss(0.0, precision)
    set_pair(model, pair)
    say_if_unknown(model, pair.source)
    best = evaluate_dev(model, tokenizer, pair, dev, 0, judge, config.metric)
    report = TuningReport(best, [best], sentences=len(train))
    if config.update == "none":
        model.eval()
        return report
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    moving = move_only(model, config.update)
    set_dropout(model, config.dropout)
    rates = {"learning_rate": config.learning_rate, "beta2": BETA2, "weight_decay": config.weight_decay}
    optimizer = make_optimizer(config.optimizer, model, [{"params": moving}], **rates)
    total = planned_updates(train, config)
    between, halvings = max(1, round(total / config.evaluations)), 0
    average = WeightAverage(moving, config.average_share)
    with Progress(label, total, "updates") as progress:
        for update, batch in enumerate(_batches(train, total, config, micro_tokens, tokenizer.pad_id, seed), start=1):
            seed_torch(seed, update)
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(config, update, total)
            parts = [(batch, 1.0), *(beside(seed, update) if beside else ())]
            halvings = _accumulate_gradient(model, optimizer, loss, parts, halvings)
            clip_gradient(moving, config.clip_norm)
            optimizer.step()
            average.update()
            report.updates = update
            report.target_tokens += sum(part.target_tokens for part, _ in parts)
            report.interrupted = update < total and stop()
            if update == total or (update % between == 0 and not report.interrupted):
                with average.in_place():
                    now = evaluate_dev(model, tokenizer, pair, dev, update, judge, config.metric)
                if report.add(now, config.metric):
                    average.keep()
            progress.advance(1, f"dev {config.metric} {abs(report.best.value(config.metric)):.2f}")
            if report.interrupted or report.evaluations_without_gain(config.metric) >= config.patience:
                break
    average.set_best()
    for parameter, moved_before in trainable:
        parameter.requires_grad_(moved_before)
        parameter.grad = None
    model.eval()
    return report


def _accumulate_gradient(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    parts: Sequence[tuple[Batch, float]],
    halvings: int,
) -> int:
    """Set `.grad` to that of logical batches, each with its weight; where memory runs out, in halved micro-batches.

    Returns how often they had to be halved, which the next update begins with.
    """
    for _ in range(halvings):
        parts = [(batch.halved() or batch, weight) for batch, weight in parts]
    while True:
        optimizer.zero_grad()
        try:
            for batch, weight in parts:
                loss.backward(model, batch, weight)
            return halvings
        except torch.OutOfMemoryError:
            smaller = [batch.halved() for batch, _ in parts]
            if not any(smaller):
                raise DeviceMemoryError(
                    "The memory of the device is too small even for one sentence at a time.",
                    "Choose a smaller model, or leave long sentences out.",
                ) from None
        optimizer.zero_grad()
        torch.cuda.empty_cache()
        warn("Out of memory: micro-batches of half the size from here on.")
        parts = [(half or batch, weight) for half, (batch, weight) in zip(smaller, parts, strict=True)]
        halvings += 1


def _batches(
    train: Bitext, total: int, config: FineTuneConfig, micro_tokens: int, pad_id: int, seed: int
) -> Iterator[Batch]:
    done, number = 0, 0
    while done < total:
        for batch in epoch(train, batch_tokens(train, config), micro_tokens, pad_id, (seed, 13, number)):
            if done == total:
                return
            yield batch
            done += 1
        number += 1


def _learning_rate(config: FineTuneConfig, update: int, total: int) -> float:
    warmup = max(1.0, config.warmup_share * total)
    return config.learning_rate * min(update / warmup, max(0.0, (total - update + 1) / max(1.0, total - warmup)), 1.0)
