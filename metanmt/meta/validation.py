"""Meta-validation: adapt to the meta-dev pair as a user would adapt to theirs, then score.

The checkpoint of a run is chosen by the score after adaptation, in every learner alike. No text is replayed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from metanmt.config import Config
from metanmt.data.counterparts import Counterparts
from metanmt.data.language import Pair
from metanmt.data.store import Bitext, TokenStore
from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer
from metanmt.errors import ConfigError, CorpusError
from metanmt.meta.unseen import Newcomer, meet
from metanmt.meta.weights import load_weights
from metanmt.nmt.adapter import passing_adapter, targets
from metanmt.nmt.loss import Loss
from metanmt.nmt.model import set_dropout, update_weights
from metanmt.nmt.tuning import MAX_SENTENCE_TOKENS, Evaluation, evaluate_dev, fine_tune
from metanmt.nmt.vocabulary import obstacle, own_rows
from metanmt.runlog import say
from metanmt.runtime import seed_torch

DRAW = 1  # the support draw is the same at every meta-validation and for every learner


class MetaValidation:
    """Adapts a scratch copy of the initialisation to the meta-dev pairs of a store.

    Raises:
        CorpusError: the store has no meta-dev pair, or one without a sentence that is short enough.
        UsageError: a meta-dev pair has no train or no dev set.
    """

    def __init__(self, store: TokenStore, tokenizer: Tokenizer, config: Config) -> None:
        self.tokenizer, self.config = tokenizer, config
        settings = config.validation
        self.pairs: list[tuple[Pair, Bitext, Bitext]] = []
        self.newcomers: dict[Pair, Newcomer] = {}
        for pair in store.pairs("meta-dev"):
            train, dev = store.bitext(pair, "train"), store.bitext(pair, "dev")
            words = int(train.target_words.sum(dtype="int64"))
            if settings.budget > words:
                raise ConfigError(
                    f"validation.budget is {settings.budget:,} words, but the meta-dev pair {pair} has {words:,}.",
                    f"Set validation.budget={words} or less.",
                )
            drawn = train.draw(settings.budget, DRAW, pair)
            self.pairs.append((pair, _short_enough(drawn, f"{pair} train"), _short_enough(dev, f"{pair} dev")))
        if not self.pairs:
            raise CorpusError(
                f"{store.folder} has no meta-dev pair to choose a checkpoint by.",
                'Give role = "meta-dev" to one pair of the manifest and prepare again.',
            )
        self.fine_tune = replace(
            config.fine_tune,
            update="adapters" if config.model.update == "adapters" else config.fine_tune.update,
            min_updates=settings.updates,
            max_updates=settings.updates,
            evaluations=1,
            dev_sentences=settings.sentences,
            metric="chrf" if settings.metric == "loss" else settings.metric,
        )

    def meet(self, model: PreTrainedModel, counterparts: Counterparts | None) -> None:
        """Let the pairs begin as in fine-tuning, with pieces of their own, by the counterparts of a run if it has any.

        Unless the embeddings of its model do not move in an adaptation.
        """
        tokenizer, update = self.tokenizer, self.fine_tune.update
        if counterparts is None or not isinstance(tokenizer, SentencePieceTokenizer):
            return
        if model.get_input_embeddings().num_embeddings != tokenizer.vocabulary_size:
            return
        if obstacle(model, tokenizer, update) is None:
            for pair, train, _ in self.pairs:
                is_target = counterparts.new_side(pair) == "target"
                if newcomer := meet(pair, train, tokenizer, counterparts, known=True, is_target=is_target):
                    self.newcomers[pair] = newcomer

    def __call__(
        self, fast_model: PreTrainedModel, initialization: nn.Module, *, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, Any] | None:
        """Return the scores before and after adaptation, averaged over the meta-dev pairs, and `value` to choose by.

        Args:
            fast_model: overwritten; the scratch copy that the run owns anyway.
            initialization: not modified.
            stop: asked after every update but the last of a pair; when it says so, the result is None.
        """
        before: list[Evaluation] = []
        after: list[Evaluation] = []
        dropout = self.config.model.dropout
        for pair, train, dev in self.pairs:
            load_weights(fast_model, initialization)
            seed_torch(DRAW)
            tokenizer, written = self.tokenizer, False
            if newcomer := self.newcomers.get(pair):
                before.append(self._zero_shot(fast_model, pair, dev, self.fine_tune.metric))
                train, dev = newcomer.read(train), newcomer.read(dev)
                rows = newcomer.start.embeddings(fast_model.get_input_embeddings().weight.detach())
                tokenizer, written = newcomer.reader(), newcomer.start.written
            with (
                own_rows([fast_model], rows, written=written) if newcomer else nullcontext(),
                passing_adapter(fast_model, self.config.adapter, wanted=self.fine_tune.update == "adapters"),
            ):
                report = fine_tune(
                    fast_model,
                    tokenizer,
                    pair,
                    train,
                    dev,
                    self.fine_tune,
                    seed=DRAW,
                    micro_tokens=self.config.batch.micro_tokens,
                    precision=self.config.run.precision,
                    label=f"meta-validation {pair}",
                    stop=stop,
                )
            if report.interrupted:
                break
            if newcomer is None:
                before.append(report.history[0])
            after.append(report.history[-1])
        set_dropout(fast_model, dropout)
        fast_model.train()
        if len(after) < len(self.pairs):
            return None
        mean_before, mean_after = _mean(before), _mean(after)
        value = sum(item.value(self.config.validation.metric) for item in after) / len(after)
        return {"zero_shot": mean_before, "adapted": mean_after, "value": value}

    def zero_shot_loss(self, model: PreTrainedModel) -> float:
        """Return the mean loss of a model on the dev sets of the meta-dev pairs, without adapting."""
        losses = [self._zero_shot(model, pair, dev, "loss").loss for pair, _, dev in self.pairs]
        return sum(losses) / len(losses)

    def _zero_shot(self, model: PreTrainedModel, pair: Pair, dev: Bitext, metric: str) -> Evaluation:
        dev, judge = dev.head(self.config.validation.sentences), Loss(0.0, self.config.run.precision)
        return evaluate_dev(model, self.tokenizer, pair, dev, 0, judge, metric)


def check_updates(model: PreTrainedModel, config: Config) -> None:
    """Raise a ConfigError if the inner loop or meta-validation is to move what the model does not have."""
    update_weights(model, config.inner.update)
    if config.fine_tune.update == "adapters":
        targets(model, config.adapter)
    elif config.model.update == "all":
        update_weights(model, config.fine_tune.update)


def _short_enough(bitext: Bitext, name: str) -> Bitext:
    """Return a set without the sentences that are too long, as `fine-tune` leaves them out."""
    usable = bitext.shorter_than(MAX_SENTENCE_TOKENS)
    if len(usable) == len(bitext):
        return bitext
    if not len(usable):
        raise CorpusError(f"{name} has no usable sentence pair.", "Give it some of fewer words.")
    left_out = len(bitext) - len(usable)
    say(f"Meta-validation leaves out {left_out:,} sentence pairs of {name}: over {MAX_SENTENCE_TOKENS} tokens")
    return bitext.take(usable)


def _mean(evaluations: list[Evaluation]) -> dict[str, float]:
    rows = [asdict(item) for item in evaluations]
    return {key: sum(row[key] for row in rows) / len(rows) for key in ("loss", "bleu", "chrf")}
