"""`metanmt fine-tune`: adapt an initialisation to one pair."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from metanmt.config import AdapterConfig, FineTuneConfig, ModelConfig
from metanmt.data.cleaning import CleaningRules, clean, clean_held_out
from metanmt.data.language import Pair
from metanmt.data.leakage import HeldOut
from metanmt.data.manifest import kind_of
from metanmt.data.own_files import detect_source
from metanmt.data.sources import read_pairs
from metanmt.data.store import Bitext, Side, TokenStore
from metanmt.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from metanmt.errors import ConfigError, CorpusError, UsageError
from metanmt.files import OR_OVERWRITE, new_folder, refuse_existing, write_json
from metanmt.nmt.checkpoint import (
    check_tokenizer,
    keep_base,
    load_checkpoint,
    load_with_adapter,
    save_checkpoint,
    say_if_tuned_for_another,
)
from metanmt.nmt.folder import TUNING_FILE
from metanmt.nmt.model import make_model, set_head, update_weights
from metanmt.nmt.soup import fine_tune_soup
from metanmt.nmt.tuning import MAX_SENTENCE_TOKENS, SMALLEST_DEV, hold_out
from metanmt.runlog import say
from metanmt.runtime import Interruption, device, peak_memory_bytes, seed_torch, versions

SCRATCH = "none"
FOREIGN = 3  # times as many pieces on the source side as on the target side
# Sizes of a vocabulary of one's own, and shares of characters with a piece of their own; the first that goes is taken.
OWN_VOCABULARIES = ((2_000, 0.9995), (2_000, 0.98), (4_000, 0.98), (8_000, 0.98))
SentencePairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Text:
    """Where the text of a fine-tuning comes from: sets of a data folder, or a user's own files."""

    data: Path | None = None
    train_set: str = "train"
    dev_set: str = "dev"
    budget_words: int | None = None
    train_files: Sequence[Path] = ()
    dev_files: Sequence[Path] = ()

    def check(self) -> None:
        """Raise a UsageError if it is not given once, if there are two uses for a set, or none."""
        if bool(self.data) == bool(self.train_files):
            raise UsageError("The text to adapt on is not given once.", "Give either --data FOLDER or --train FILES.")
        if self.data and self.dev_files:
            raise UsageError("--dev goes with --train.", "With --data, choose the folder's own set: --dev-set NAME.")
        if self.train_files and (self.train_set, self.dev_set) != (Text.train_set, Text.dev_set):
            raise UsageError(
                "--train-set and --dev-set name sets of a data folder.", "Leave them out, or give --data for --train."
            )
        if self.data and self.train_set == self.dev_set:
            raise UsageError(
                f"The set {self.train_set!r} is to be adapted on and chosen by.",
                "Give another --dev-set, or --train-set.",
            )


def run(
    init: str,
    pair_name: str,
    out: Path,
    text: Text,
    config: FineTuneConfig,
    *,
    model: ModelConfig | None = None,
    adapter: AdapterConfig | None = None,
    seed: int = 1,
    precision: str = "auto",
    micro_tokens: int = 1_000,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Adapt, write the checkpoint with `fine_tune.json` beside it, and return what is in that file.

    And "stop_requested": whether a stop was asked for, in time to be heeded ("interrupted") or not.

    Args:
        init: a run or checkpoint to start from, or "none" to train from scratch.
        pair_name: such as "fi-en".
        out: the new checkpoint's folder; it appears only when it is complete.
        text: what to adapt on and to choose by.
        config: rates, updates, strategy. With update = "adapters" the checkpoint is an adapter alone, a patch of
            `init`, whose files stay as they are; if `init` is an adapter, it is that one which goes on to be adapted.
        model: dimensions, for a model from scratch; and the head.
        adapter: of a new one.
        seed: of the budget's draw, the order of batches, dropout, and a model from scratch.
        precision: see `nmt.precision.mixed`.
        micro_tokens: padded tokens of a forward-backward pass.
        overwrite: replace an existing folder.
    """
    started = time.monotonic()
    pair = Pair.parse(pair_name)
    refuse_existing(out, overwrite=overwrite, marker=TUNING_FILE, remedy=OR_OVERWRITE)
    text.check()
    if init != SCRATCH:
        keep_base(Path(init), out, as_base=config.update == "adapters")
        say_if_tuned_for_another(Path(init), pair)
    config = config.resolved(from_scratch=init == SCRATCH)
    start = _Start(init, config.update, model or ModelConfig(), adapter or AdapterConfig(), seed)
    network, tokenizer, train, dev, drawn = _prepared(start, pair, text)
    say(f"Adapting to {pair}: {len(train):,} sentence pairs, {int(train.target_words.sum()):,} target words")
    with Interruption() as interruption:
        report = fine_tune_soup(
            network.to(device()),
            tokenizer,
            pair,
            train,
            dev,
            config,
            seed=seed,
            precision=precision,
            micro_tokens=micro_tokens,
            label=f"fine-tune {pair}",
            stop=lambda: interruption.requested,
        )
    facts = {
        "pair": str(pair),
        "init": init,
        "data": str(text.data or ", ".join(map(str, text.train_files))),
        **drawn,
        "train_words": int(train.target_words.sum()),
        "dev_sentences": min(len(dev), config.dev_sentences),
        "seed": seed,
        **report.to_json(),
        "config": asdict(config),
        "elapsed_seconds": round(time.monotonic() - started, 1),
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": versions(),
    }
    with new_folder(out, overwrite=overwrite) as folder:
        save_checkpoint(folder, network, tokenizer, pair)
        facts["weights_bytes"] = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        write_json(folder / TUNING_FILE, facts)
    return {"model": str(out), **facts, "stop_requested": interruption.requested}


@dataclass(frozen=True)
class _Start:
    """What is adapted."""

    init: str
    update: str
    model: ModelConfig
    adapter: AdapterConfig
    seed: int

    def loaded(self) -> tuple[PreTrainedModel, Tokenizer]:
        """Return the model of `init`, with an adapter if that is what moves, and its tokenizer."""
        seed_torch(self.seed)
        if self.update == "adapters":
            network, tokenizer = load_with_adapter(Path(self.init), self.adapter)
        else:
            network, tokenizer = load_checkpoint(Path(self.init))
        set_head(network, self.model.head)
        return network, tokenizer

    def made(self, tokenizer: Tokenizer) -> PreTrainedModel:
        """Return a model from scratch."""
        if self.update in ("none", "adapters"):
            raise UsageError(
                f"From scratch, update = {self.update} leaves a model that has learned nothing as it is.",
                "Give a run or checkpoint by --init, or another --update.",
            )
        seed_torch(self.seed)
        return make_model(self.model, tokenizer)


def _prepared(
    start: _Start, pair: Pair, text: Text
) -> tuple[PreTrainedModel, Tokenizer, Bitext, Bitext, dict[str, Any]]:
    """Return model, tokenizer, train, dev, and what was drawn or dropped."""
    seed = start.seed
    store = TokenStore.open(text.data) if text.data else None
    facts: dict[str, Any] = {}
    own = _own_files(pair, text, facts)
    if start.init == SCRATCH:
        if start.model.lexicon != ModelConfig.lexicon:
            raise ConfigError(
                f"Languages share a lexicon ({start.model.lexicon}) in meta-training; here there is one.",
                f"Leave model.lexicon out, or give the run of meta-train --lexicon {start.model.lexicon} by --init.",
            )
        tokenizer = load_tokenizer(store.tokenizer_folder) if store else _own_tokenizer(pair, own["train"])
        network = start.made(tokenizer)
    else:
        network, tokenizer = start.loaded()
    update_weights(network, start.update)  # what cannot move is said before anything is computed
    if store is not None:
        check_tokenizer(tokenizer, store.digest, start.init, store.folder)
        train = store.bitext(pair, text.train_set)
        optional = text.dev_set == Text.dev_set and text.dev_set not in store.sets(pair)
        dev = None if optional else store.bitext(pair, text.dev_set)
        for name, use in ((text.train_set, "is adapted on"), (text.dev_set, "chooses the weights")):
            if kind_of(name) == "test":
                say(f"Note: {name!r} {use}, so it is no test set any more for this model.")
        facts |= {"train_set": text.train_set, "dev_set": None if dev is None else text.dev_set}
    else:
        train = tokenized(tokenizer, own["train"], pair)
        dev = tokenized(tokenizer, own["dev"], pair) if own["dev"] else None
    whole = train
    train = usable = _short_enough(train, str(pair), facts)
    if start.init != SCRATCH:
        _say_if_foreign(train, pair)
    if dev is not None:
        dev = _short_enough(dev, f"The dev set of {pair}", facts, "in dev")
    if text.budget_words is not None:
        if text.budget_words < 1:
            raise UsageError("A budget of no words cannot be adapted on.", "Give --budget a positive number.")
        words, most = (int(part.target_words.sum(dtype="int64")) for part in (whole, usable))
        # A budget of the whole set is one of all that is short enough.
        budget = min(text.budget_words, most) if text.budget_words <= words else text.budget_words
        train = train.draw(budget, seed, pair)
        facts["budget_words"] = text.budget_words
    if dev is None:
        before = len(train)
        if text.budget_words is not None and before < 2 * SMALLEST_DEV <= len(usable):
            raise UsageError(
                f"--budget {text.budget_words} draws {before} of {len(usable):,} sentence pairs: too few to adapt on "
                "and to choose by.",
                f"Give a larger --budget, of at least {2 * SMALLEST_DEV} pairs.",
            )
        train, dev = hold_out(train, tokenizer, seed)
        say(f"No dev set: {len(dev)} sentence pairs are held out to choose by")
        _note_dropped({"also held out": before - len(train) - len(dev)}, facts)
    return network, tokenizer, train, dev, facts


def _short_enough(text: Bitext, name: str, facts: dict[str, Any], where: str = "") -> Bitext:
    """Return the text without the pairs that are too long for a model with so many positions, which are noted."""
    usable = text.shorter_than(MAX_SENTENCE_TOKENS)
    if not len(usable):
        raise CorpusError(f"{name} has no usable sentence pair.", "Give more, or shorter, sentences.")
    too_long = len(text) - len(usable)
    _note_dropped({f"over {MAX_SENTENCE_TOKENS} tokens {where}".rstrip(): too_long}, facts)
    if 10 * too_long > len(text):
        say("So many tokens in a sentence: does the vocabulary know this script? From scratch it learns its own.")
    return text.take(usable) if too_long else text


def _say_if_foreign(text: Bitext, pair: Pair) -> None:
    """Say so where the vocabulary spells a language in bytes or letters, as it does a script that it does not know."""
    source, target = (side.offsets[-1] / len(text) for side in (text.source, text.target))
    if source > FOREIGN * target:
        say(
            f"Note: a sentence takes {source:.0f} pieces in {pair.source} and {target:.0f} in {pair.target}: the "
            "vocabulary hardly knows the language. Meta-train on a collection that has this text too, whose vocabulary "
            "will; or try --init none, which learns one of its own."
        )


def _say_how_it_is_read(sentences: SentencePairs, pair: Pair) -> None:
    """Show the first sentence pair, by which a person sees whether the sides are as they are meant to be."""
    source, target = (shorten(side, 70, placeholder=" ...") for side in sentences[0])
    say(f"The first pair:  {pair.source}  {source}  |  {pair.target}  {target}")
    quoted = sum(all(len(side) > 2 and side[0] == side[-1] == '"' for side in item) for item in sentences)
    if 10 * quoted > 9 * len(sentences):
        say("Note: nearly every line is in quotation marks, which count as text: save the table without them.")


def _dropped_words(dropped: Mapping[str, int]) -> str:
    """Return how many pairs were left out and why, in words; "" for none."""
    found = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
    return f"Dropped: {found}" if found else ""


def _note_dropped(dropped: Mapping[str, int], facts: dict[str, Any]) -> None:
    """Say how many pairs were left out and why, and keep it."""
    found = {reason: count for reason, count in dropped.items() if count}
    if found:
        facts["dropped"] = {**facts.get("dropped", {}), **found}
        say(_dropped_words(found))


def _own_files(pair: Pair, text: Text, facts: dict[str, Any]) -> dict[str, SentencePairs]:
    """Return the cleaned pairs of a user's files; a train sentence that occurs in dev is dropped."""
    own: dict[str, SentencePairs] = {"train": [], "dev": []}
    dropped: Counter[str] = Counter()
    held_out = HeldOut()
    for name, files in (("dev", text.dev_files), ("train", text.train_files)):
        if files:
            raw = read_pairs(detect_source(files, pair), pair)
            if name == "dev":
                own[name] = list(clean_held_out(raw, dropped))
                dropped = Counter({f"{reason} in dev": count for reason, count in dropped.items()})
            else:
                own[name] = list(clean(raw, CleaningRules(), dropped))
            if not own[name]:
                words = _dropped_words(dropped)
                raise CorpusError(
                    f"No sentence pair is left of {', '.join(map(str, files))} after cleaning."
                    + (f" {words}." if words else ""),
                    "Check that both sides hold text, line by line.",
                )
    for item in own["dev"]:
        held_out.add(*item)
    kept = [item for item in own["train"] if not held_out.leaks(*item)]
    if text.train_files and not kept:
        raise CorpusError("Every training sentence is in the dev set too.", "Give other files by --train or --dev.")
    dropped["also in dev"] = len(own["train"]) - len(kept)
    if kept:
        _say_how_it_is_read(kept, pair)
    _note_dropped(dropped, facts)
    return {**own, "train": kept}


def _own_tokenizer(pair: Pair, sentences: SentencePairs) -> Tokenizer:
    """Return a tokenizer of the training text, as small as its script allows; rare characters are spelled in bytes."""
    for size, coverage in OWN_VOCABULARIES:
        say(f"From scratch: learning a vocabulary of at most {size:,} pieces from the training text")
        with suppress(ConfigError):
            return train_tokenizer((side for item in sentences for side in item), [pair.target], size, coverage)
    raise CorpusError("The text has more characters than a vocabulary has room for.", "Is it text, in UTF-8?")


def tokenized(tokenizer: Tokenizer, sentences: SentencePairs, pair: Pair) -> Bitext:
    """Return sentence pairs as ids in memory."""
    source, target = ([item[side] for item in sentences] for side in (0, 1))
    return Bitext(
        Side.of(tokenizer.encode_source(source, pair)),
        Side.of(tokenizer.encode_target(target, pair)),
        np.array([len(sentence.split()) for sentence in target]),
    )
