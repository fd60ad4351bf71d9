"""The initialisation as a run begins with it, and what the run knows of the words of its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from metanmt.config import Config
from metanmt.data.counterparts import Counterparts, find_counterparts, merged
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer
from metanmt.data.vectors import data_vectors
from metanmt.meta.task import Task
from metanmt.meta.unseen import UnseenLanguage
from metanmt.meta.validation import check_updates
from metanmt.nmt.adapter import make_with_adapter
from metanmt.nmt.lexicon import add_lexicon, hold_correction, lexicon_of
from metanmt.nmt.model import has_adapter, move_only
from metanmt.nmt.ngrams import share_ngrams
from metanmt.nmt.vocabulary import has_one_table
from metanmt.runlog import Progress, warn
from metanmt.runtime import device, seed_torch

NO_NEWCOMER = "no language is met as a new one (outer.unseen_share), and learner aligned is joint training."


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


def words_of_run(
    model: PreTrainedModel,
    tasks: Sequence[Task],
    tokenizer: Tokenizer,
    last: Path,
    unseen: bool,
    stop: Callable[[], bool],
) -> tuple[Counterparts | None, list[Task]]:
    """Return the counterparts that a run's checkpoints keep, and its tasks, of languages that may be met as new ones.

    A run that fine-tuning could not use them of, with adapters or a universal lexicon, whose checkpoints have no
    embeddings of their own or one table for each side, or of a pretrained vocabulary, does without either; and so does
    one that is to stop meanwhile, which finds them when it goes on.

    Args:
        model: of the run.
        tasks: that it learns from.
        tokenizer: of both.
        last: its last checkpoint, which has the counterparts already if there is one.
        unseen: whether languages will be met as new ones.
        stop: asked before every task.
    """
    universal = lexicon_of(model) is not None
    if not isinstance(tokenizer, SentencePieceTokenizer) or has_adapter(model) or universal or not has_one_table(model):
        if unseen:
            warn(f"No counterparts for adapters, a universal lexicon or a pretrained vocabulary: {NO_NEWCOMER}")
        return None, list(tasks)
    special, size = tokenizer.special_ids(), tokenizer.vocabulary_size
    if unseen and model.get_input_embeddings().num_embeddings != size:
        warn(f"The model has embeddings for other pieces than the vocabulary's: {NO_NEWCOMER}")
        unseen = False
    kept = Counterparts.load(last)
    if kept and not unseen:
        return kept, list(tasks)
    found: list[Counterparts] = []
    as_new: list[Task] = []
    with Progress("align words", len(tasks) * (1 + unseen), "texts") as progress:
        for task in tasks:
            if stop():
                return kept, list(tasks)
            progress.note = str(task)
            found.append(find_counterparts(task.pair, task.bitext, special, size))
            progress.advance(1)
        for task in tasks if unseen else ():
            if stop():
                return kept, list(tasks)
            progress.note = f"{task} as a new language"
            as_new.append(replace(task, unseen=_as_new(task, tasks, found, tokenizer)))
            progress.advance(1)
    if unseen and not any(task.unseen and task.unseen.newcomers for task in as_new):
        warn(f"No two languages with text enough are translated into the same one: {NO_NEWCOMER}")
    return kept or merged(found, size), as_new or list(tasks)


def _as_new(
    task: Task, tasks: Sequence[Task], found: Sequence[Counterparts], tokenizer: SentencePieceTokenizer
) -> UnseenLanguage:
    """Return the language of a task that can be met as a new one: its source, if other sources have its target too.

    Else its target, if other languages are translated into its source.
    """
    sides = (task.pair.source, task.pair.target), (task.pair.target, task.pair.source)
    for language, other in sides:
        parts = zip(tasks, found, strict=True)
        others = merged(
            (part for item, part in parts if language not in (item.pair.source, item.pair.target)),
            tokenizer.vocabulary_size,
        )
        if other in others.tables:
            break
    is_target = other in others.tables and language == task.pair.target
    return UnseenLanguage(task.pair, task.bitext, tokenizer, others, is_target=is_target)
