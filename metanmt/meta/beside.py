"""What is learned beside a new language's text in fine-tuning: text of meta-training, and text translated back.

Six hundred updates on a few hundred sentences teach a language's words, and make the model forget how others are said;
so what is known is learned again. Text that was translated back (`nmt.back_translation`) is learned likewise.
References: Chu, Dabre, Kurohashi 2017, "An Empirical Comparison of Domain Adaptation Methods for Neural Machine
Translation" (mixed fine-tuning); Neubig, Hu 2018, "Rapid Adaptation of Neural Machine Translation to New Languages",
who add a related language's text; Robins 1995, "Catastrophic Forgetting, Rehearsal and Pseudorehearsal".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from metanmt.config import BatchConfig, Config, FineTuneConfig, OuterConfig
from metanmt.config_file import load_config
from metanmt.data.batch import Batch, batch_count, epoch
from metanmt.data.cleaning import hash64
from metanmt.data.hashes import Hashes
from metanmt.data.language import Pair
from metanmt.data.leakage import normalized
from metanmt.data.own_pieces import texts_of
from metanmt.data.source_form import SourceForm, in_form
from metanmt.data.sources import read_lines
from metanmt.data.store import ENCODE_LINES, Bitext, TokenStore
from metanmt.data.tokenizer import Tokenizer, load_tokenizer, source_form_of
from metanmt.errors import ConfigError, UsageError
from metanmt.files import read_object
from metanmt.meta.run import data_digest
from metanmt.meta.task import EpisodeSampler, Task, chosen_sets, load_task
from metanmt.nmt.back_translation import BY_INIT, drawn_lines, sentences_seen, with_back_translation
from metanmt.nmt.checkpoint import check_tokenizer, checkpoint_tokenizer
from metanmt.nmt.folder import checkpoint_folder, run_of
from metanmt.nmt.lexicon import lexicon_of
from metanmt.nmt.tuning import Beside, batch_tokens
from metanmt.nmt.tuning_text import Text, Tokenised, held_out_by
from metanmt.runlog import Progress, say

BATCH_TOKENS = 300  # target tokens of one language in an update, about: the smaller, the more languages


class Replay:
    """Draws the batches that an update is made beside, each of one task, as their run drew them.

    Args:
        tasks: of the run.
        outer: how it draws them.
        tokens: target tokens of an update, of all its batches together.
        weight: how much their loss, a mean over them, counts.
        micro_tokens: padded tokens of a forward-backward pass.
        pad_id: the id behind the end of a sentence.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        outer: OuterConfig,
        tokens: int,
        weight: float,
        micro_tokens: int,
        pad_id: int,
    ) -> None:
        self.weight = weight
        count = max(1, round(tokens / BATCH_TOKENS))
        batch = BatchConfig(max_tokens=max(1, tokens // count), micro_tokens=micro_tokens)
        drawn = OuterConfig(meta_batch_size=count, task_sampling=outer.task_sampling, temperature=outer.temperature)
        self.sampler = EpisodeSampler(tasks, drawn, batch, pad_id, seed=0)

    def __call__(self, seed: int, update: int) -> list[tuple[Batch, float]]:
        """Return the batches of an update, by its number, in the fine-tuning of a seed, and what each one counts."""
        self.sampler.seed = seed
        drawn = [batch for episode in self.sampler.meta_batch(update, 0) for batch in episode.batches]
        return [(batch, self.weight / len(drawn)) for batch in drawn]


class Synthetic:
    """Deals text that was translated back, one batch an update, all of it before any of it comes again.

    Args:
        bitext: the sentence pairs.
        tokens: target tokens of a batch.
        weight: how much its loss counts.
        micro_tokens: padded tokens of a forward-backward pass.
        pad_id: the id behind the end of a sentence.
    """

    def __init__(self, bitext: Bitext, tokens: int, weight: float, micro_tokens: int, pad_id: int) -> None:
        self.weight = weight
        self._epoch = partial(epoch, bitext, tokens, micro_tokens, pad_id)
        self._count = batch_count(bitext, tokens)
        self._key: tuple[int, ...] = ()

    def __call__(self, seed: int, update: int) -> list[tuple[Batch, float]]:
        """Return the batch of an update, by its number, in the fine-tuning of a seed, and what it counts."""
        number, place = divmod(update - 1, self._count)
        if self._key != (key := (seed, 31, number)):
            self._key, self._batches = key, list(self._epoch(key))
        return [(self._batches[place], self.weight)]


@dataclass(frozen=True)
class Known:
    """Text that the model of a checkpoint has learned from, and how it drew that."""

    data: Path
    tasks: Sequence[Task]
    outer: OuterConfig

    def targets(self, language: str, most: int, seed: int) -> list[str]:
        """Return sentences of a language that is translated into, drawn at random from all there are."""
        tasks = [task for task in self.tasks if task.pair.target == language]
        if not tasks:
            return []
        rng, tokenizer = np.random.default_rng([seed, 29]), load_tokenizer(TokenStore.open(self.data).tokenizer_folder)
        places = np.cumsum([len(task.usable) for task in tasks])
        drawn = np.sort(rng.choice(places[-1], min(most, int(places[-1])), replace=False))
        parts = np.split(drawn, np.searchsorted(drawn, places[:-1]))
        found: list[str] = []
        for task, part, end in zip(tasks, parts, places, strict=True):
            found += texts_of(task.bitext.take(task.usable[part - (end - len(task.usable))]).target, tokenizer)
        return found

    def without(self, texts: Sequence[tuple[Bitext, Tokenizer]]) -> Known | None:
        """Return it without the sentence pairs of which a side stands in one of these texts, each with what cut it.

        Sentences are compared as `metanmt.data.leakage` does, in the form of sources.
        """
        store = TokenStore.open(self.data)
        form, digest = source_form_of(load_tokenizer(store.tokenizer_folder)), store.training_digest
        sides = [texts_of(side, cut_by) for text, cut_by in texts for side in (text.source, text.target)]
        held_out = np.unique(np.concatenate([_hashes(side, form) for side in sides]))
        tasks, left_out = list[Task](), 0
        with Progress("compare with what is held out", len(self.tasks), "texts") as progress:
            for task in self.tasks:
                found = text_hashes(self.data, task.pair, task.train_set, digest)
                leaks = np.isin(found[task.usable], held_out).any(axis=1)
                left_out += int(leaks.sum())
                tasks.append(replace(task, usable=task.usable[~leaks]))
                progress.advance(1, str(task))
        if not left_out:
            return self
        say(f"{left_out:,} sentence pairs to replay are in the dev or test text, and left out")
        tasks = [task for task in tasks if len(task.usable) > 1]
        return replace(self, tasks=tasks) if tasks else None

    def facts(self) -> dict[str, Any]:
        """Return what is noted of it."""
        return {"data": str(self.data), "sets": [str(task) for task in self.tasks]}


@cache
def text_hashes(data: Path, pair: Pair, name: str, digest: str) -> Hashes:
    """Return the hashes of both sides of every sentence pair of a set, (n, 2), as `Known.without` compares them.

    Args:
        data: the folder.
        pair, name: of the set.
        digest: of the folder's text, by which they are kept for the next adaptation of this process.
    """
    store = TokenStore.open(data)
    tokenizer, bitext = load_tokenizer(store.tokenizer_folder), store.bitext(pair, name)
    found, form = np.empty((len(bitext), 2), dtype=np.uint64), source_form_of(tokenizer)
    for start in range(0, len(bitext), ENCODE_LINES):
        part = bitext.take(np.arange(start, min(start + ENCODE_LINES, len(bitext))))
        for column, side in enumerate((part.source, part.target)):
            found[start : start + ENCODE_LINES, column] = _hashes(texts_of(side, tokenizer), form)
    return found


def _hashes(texts: Sequence[str], form: SourceForm) -> Hashes:
    return np.array([hash64(normalized(text)) for text in in_form(texts, form)], dtype=np.uint64)


def replayable(known: Known | None, network: PreTrainedModel) -> Known | None:
    """Return the known text; None for a model of a universal lexicon, which reads one language at a time."""
    if known is None or lexicon_of(network) is None:
        return known
    say("With a universal lexicon nothing of meta-training is replayed.")
    return None


def text_beside(known: Known | None, read: Tokenised, config: FineTuneConfig, micro_tokens: int) -> Beside | None:
    """Return what is learned beside each batch of a pair's text; None if there is nothing.

    Text that was translated back comes as often as the pairs at most: of little there is less in an update.

    Args:
        known: text of meta-training.
        read: the text of the pair, with what was translated back.
        config: how much of either there is beside a batch.
        micro_tokens: padded tokens of a forward-backward pass.
    """
    parts: list[Beside] = []
    pad, batch = read.tokenizer.pad_id, batch_tokens(read.train, config)
    if known is not None:
        tokens = max(1, round(config.replay * batch))
        say(f"Beside each update {tokens:,} target tokens of {len(known.tasks)} meta-train sets are learned again")
        parts.append(Replay(known.tasks, known.outer, tokens, config.replay, micro_tokens, pad))
    if read.synthetic is not None:
        sizes = [int(text.target.offsets[-1]) for text in (read.synthetic, read.train)]
        share = min(config.synthetic, sizes[0] / sizes[1])
        tokens = max(1, round(share * batch))
        say(f"Beside each update {tokens:,} target tokens of {len(read.synthetic):,} back-translated pairs are learned")
        parts.append(Synthetic(read.synthetic, tokens, share, micro_tokens, pad))
    return (lambda seed, update: [item for part in parts for item in part(seed, update)]) if parts else None


def with_text_alone(
    read: Tokenised,
    text: Text,
    known: Known | None,
    pair: Pair,
    stores: Sequence[TokenStore],
    config: FineTuneConfig,
    seed: int,
    back: Callable[[], Path],
) -> tuple[Tokenised, dict[str, Any]]:
    """Return a text with one of the target language alone translated back beside it, and what is noted of that.

    It is a user's, or what the text of meta-training has of that language.

    Args:
        read: the text of the pair, drawn and with a dev set.
        text: with the user's files, and what translates back.
        known: text of meta-training.
        pair: that is adapted to.
        stores: data folders whose dev and test sets of the pair are left out.
        config: of the fine-tuning.
        seed: of what is drawn.
        back: returns the checkpoint that translates back; called when there is something to translate.

    Raises:
        UsageError: there is no such text.
        CorpusError: nothing of it is left, or of its translation.
    """
    most = sentences_seen(read, config)
    lines: Iterable[str] = chain.from_iterable(map(read_lines, text.mono_files))
    files: Sequence[Path] = text.mono_files
    if not files:
        if known is None or not (lines := known.targets(pair.target, most, seed)):
            raise UsageError(
                f"There is no text of {pair.target} alone for --back to translate: data of meta-training has none.",
                "Give some: --mono FILE.",
            )
        files = [known.data]
    form = source_form_of(read.tokenizer)
    drawn, facts = drawn_lines(lines, pair.target, held_out_by(read, pair, stores), most, seed, form)
    read, made = with_back_translation(read, drawn, back(), pair, needed=text.back != BY_INIT)
    return read, {"files": [str(path) for path in files], **facts, **made}


def known_text(init: str, pair: Pair, folder: Path | None, data: Path | None, config: FineTuneConfig) -> Known | None:
    """Return the text to replay: of a folder, or of the data that is adapted on; None if there is none, or no use.

    Raises:
        CheckpointError: the folder was prepared by another tokenizer than that of `init`.
    """
    if not config.replays:
        return None
    if (where := folder or data) is not None:
        store = TokenStore.open(where)
        if folder is not None:
            check_tokenizer(checkpoint_tokenizer(checkpoint_folder(Path(init))), store.digest, init, where)
        tasks, outer = tasks_to_replay(Path(init), store, pair, asked=folder is not None)
        if tasks:
            return Known(where, tasks, outer)
        if folder is not None:
            raise UsageError(
                f"{folder} has no meta-train text but that of {pair}: there is nothing to replay.",
                "Give the data that --init learned from by --replay, or leave that out.",
            )
    if run_of(Path(init)) is not None:
        say(
            "No text of meta-training is learned beside, which is worth a point or two: give the run's data by "
            '--replay DATA (in a comparison: replay = "DATA").'
        )
    return None


def tasks_to_replay(init: Path, store: TokenStore, pair: Pair, *, asked: bool) -> tuple[list[Task], OuterConfig]:
    """Return the tasks that a checkpoint's run learned from this data, and how it drew them; none if it did not.

    What is in the pair that is adapted to is left out, of which a budget may have been drawn; and sets of hardly a
    sentence.

    Args:
        init: the checkpoint.
        store: the data.
        pair: that is adapted to.
        asked: whether a user named the data: then, if the run is not known, all its meta-train text, each set alike.
    """
    run, outer, batch = run_of(init), OuterConfig(), BatchConfig()
    if run is not None and data_digest(run) in (None, store.training_digest):
        config = _config_of(run)
        outer, batch = config.outer, config.batch
    elif not asked:
        return [], outer
    tasks = [load_task(store, other, name, batch) for other, name in chosen_sets(store, outer) if other != pair]
    return [task for task in tasks if len(task.usable) > 1], outer


def _config_of(run: Path) -> Config:
    """Return the configuration of a run, with the one pair that it learned from if it is a transfer from one."""
    try:
        config = load_config(run / "config.toml")
    except ConfigError:  # of another version
        return Config()
    if config.outer.learner != "transfer":
        return config
    state = run / "last" / "trainer.json"
    parent = read_object(state).get("parent") if state.is_file() else None
    name = str(parent or config.outer.parent)
    if name == OuterConfig.parent:  # a copy of the run does not say which it was
        return replace(config, outer=replace(config.outer, learner="joint"))
    return replace(config, outer=replace(config.outer, pairs=(name,)))
