"""The initialisation as a run begins with it, and what the run knows of the words of its text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from metanmt.config import Config
from metanmt.data.counterparts import Counterparts, find_counterparts
from metanmt.data.language import Pair
from metanmt.data.store import Bitext, TokenStore
from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer
from metanmt.data.vectors import data_vectors
from metanmt.meta.task import Task
from metanmt.meta.validation import check_updates
from metanmt.nmt.adapter import make_with_adapter
from metanmt.nmt.lexicon import add_lexicon, hold_correction, lexicon_of
from metanmt.nmt.model import has_adapter, move_only
from metanmt.nmt.ngrams import share_ngrams
from metanmt.runlog import Progress
from metanmt.runtime import device, seed_torch


def make_initialization(config: Config, store: TokenStore, tokenizer: Tokenizer) -> PreTrainedModel:
    """Return theta on its device, with the embeddings that the configuration wants; what the outer loop moves is free.

    It follows from the seed of the run.

    Raises:
        ConfigError: an update strategy has nothing to move. CheckpointError, DataError: what it is made from is missing
            or does not belong to the data.
    """
    seed_torch(config.run.seed)
    model = make_with_adapter(config.model, config.adapter, tokenizer)
    if config.model.lexicon == "universal":
        add_lexicon(model, config.model, data_vectors(store.folder, store.digest))
    model.to(device())
    check_updates(model, config)
    move_only(model, config.model.update)
    hold_correction(model)
    if config.model.lexicon == "ngrams":
        share_ngrams(model, config.model, tokenizer)
    return model


def run_counterparts(
    model: PreTrainedModel, tasks: Sequence[Task], tokenizer: Tokenizer, last: Path, *, stop: Callable[[], bool]
) -> Counterparts | None:
    """Return the counterparts in the text of a run's tasks; None for a run that fine-tuning could not use them of.

    That is one of adapters or with a universal lexicon, whose checkpoints have no embeddings of their own, and one of a
    pretrained vocabulary.

    A run that is to stop meanwhile does without, and finds them when it goes on.

    Args:
        model: of the run.
        tasks: that it learns from.
        tokenizer: of both.
        last: its last checkpoint, which has them already if there is one.
        stop: asked before every task; when it says so, the result is None.
    """
    if has_adapter(model) or lexicon_of(model) is not None or not isinstance(tokenizer, SentencePieceTokenizer):
        return None
    if kept := Counterparts.load(last):
        return kept

    def texts(progress: Progress) -> Iterator[tuple[Pair, Bitext]]:
        for task in tasks:
            if stop():
                return
            progress.note = str(task)
            yield task.pair, task.bitext
            progress.advance(1)

    with Progress("align words", len(tasks), "tasks") as progress:
        found = find_counterparts(texts(progress), tokenizer.special_ids(), tokenizer.vocabulary_size)
    return None if stop() else found
