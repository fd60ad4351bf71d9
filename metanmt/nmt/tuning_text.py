"""The text of a fine-tuning: sets of a data folder or a user's own files, drawn from, tokenised, held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from metanmt.data.cleaning import CleaningRules, clean, clean_held_out
from metanmt.data.language import Pair, count_words
from metanmt.data.leakage import HeldOut
from metanmt.data.manifest import kind_of
from metanmt.data.own_files import detect_source
from metanmt.data.own_pieces import recut, texts_of, with_own_pieces
from metanmt.data.source_form import as_sources
from metanmt.data.sources import read_pairs
from metanmt.data.store import Bitext, Side, TokenStore
from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer, train_tokenizer
from metanmt.errors import ConfigError, CorpusError, UsageError
from metanmt.nmt.tuning import MAX_SENTENCE_TOKENS, SMALLEST_DEV, hold_out
from metanmt.runlog import say

FOREIGN = 3  # times as many pieces on the source side as on the target side
AS_NEEDED, NEEDED = -1, 1_000  # new pieces: the setting, and how many a foreign language is given
# Sizes of a vocabulary of one's own, and shares of characters with a piece of their own; the first that goes is taken.
OWN_VOCABULARIES = ((2_000, 0.9995), (2_000, 0.98), (4_000, 0.98), (8_000, 0.98))
GIVE_PIECES = "Give it pieces of the language's own: --new-pieces 2000."
OR_SCRATCH = "Try --init none, which learns a vocabulary of the text."
SentencePairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Text:
    """Where the text of a fine-tuning comes from: sets of a data folder, or a user's own files.

    And text of the target language alone, with a checkpoint that translates it back, or that of meta-training.

    Attributes:
        back: that checkpoint; or "init", what is adapted itself, when it has been adapted to that on the same text.
        pairs: what the files or the folder hold, by "train" and "dev", where that is drawn and cleaned already.
    """

    data: Path | None = None
    train_set: str = "train"
    dev_set: str = "dev"
    budget_words: int | None = None
    train_files: Sequence[Path] = ()
    dev_files: Sequence[Path] = ()
    mono_files: Sequence[Path] = ()
    back: str | None = None
    pairs: Mapping[str, SentencePairs] | None = None

    def check(self) -> None:
        """Raise a UsageError if it is not given once, if there are two uses for a set, or none."""
        if bool(self.data) == bool(self.train_files):
            raise UsageError("Exactly one text to adapt on is needed.", "Give either --data FOLDER or --train FILES.")
        if self.data and self.dev_files:
            raise UsageError("--dev goes with --train.", "With --data, choose the folder's own set: --dev-set NAME.")
        if self.train_files and (self.train_set, self.dev_set) != (Text.train_set, Text.dev_set):
            raise UsageError(
                "--train-set and --dev-set name sets of a data folder.", "Leave them out, or give --data for --train."
            )
        if self.mono_files and not self.back:
            raise UsageError(
                "--mono is of no use by itself: a model of the pair the other way round has to translate it.",
                "Add --back TUNED, or leave --mono out.",
            )
        if self.data and self.train_set == self.dev_set:
            raise UsageError(
                f"The set {self.train_set!r} is to be adapted on and chosen by.",
                "Give another --dev-set, or --train-set.",
            )


@dataclass(frozen=True)
class Tokenised:
    """What is adapted on and chosen by, and the tokenizer of both."""

    train: Bitext
    dev: Bitext
    tokenizer: Tokenizer
    spelled: Sequence[Sequence[int]] = ()  # of every piece that the tokenizer has gained: its ids before
    synthetic: Bitext | None = None  # sentence pairs beside them, whose sources were translated back

    @property
    def with_synthetic(self) -> Bitext:
        """All that is adapted on."""
        return self.train if self.synthetic is None else self.train.followed_by(self.synthetic)

    @property
    def train_words(self) -> int:
        """Target words that are adapted on."""
        return int(self.train.target_words.sum())


def text_to_adapt_on(
    train: Bitext,
    dev: Bitext | None,
    pair: Pair,
    tokenizer: Tokenizer,
    facts: dict[str, Any],
    *,
    budget_words: int | None,
    cut_anew: bool,
    seed: int,
) -> Tokenised:
    """Return the text: drawn, and with a dev set.

    Args:
        train, dev: the whole of it, as `whole_sets` has it.
        pair: which pair.
        tokenizer: of the model, by which it is cut.
        facts: what was drawn, dropped and held out is noted in it.
        budget_words: target words to draw; None for all.
        cut_anew: it is going to be cut into other pieces, and then is short enough.
        seed: of the budget's draw, and of what is held out.
    """
    whole = train
    if not cut_anew:
        train = _short_enough(train, str(pair), tokenizer, facts)
    usable = train
    if budget_words is not None:
        if budget_words < 1:
            raise UsageError("A budget of no words cannot be adapted on.", "Give --budget a positive number.")
        words, most = (int(part.target_words.sum(dtype="int64")) for part in (whole, usable))
        budget = min(budget_words, most) if budget_words <= words else budget_words  # of the whole: all that is short
        train = train.draw(budget, seed, pair)
        facts["budget_words"] = budget_words
    if dev is None:
        before = len(train)
        if budget_words is not None and before < 2 * SMALLEST_DEV <= len(usable):
            raise UsageError(
                f"--budget {budget_words} draws {before} of {len(usable):,} sentence pairs: too few to adapt on "
                "and to choose by.",
                f"Give a larger --budget, of at least {2 * SMALLEST_DEV} pairs.",
            )
        train, dev = hold_out(train, tokenizer, seed)
        say(f"No dev set: {len(dev)} sentence pairs are held out to choose by")
        _note_dropped({"also held out": before - len(train) - len(dev)}, facts)
    return Tokenised(train, dev, tokenizer)


def in_its_pieces(
    read: Tokenised, pair: Pair, facts: dict[str, Any], *, new_pieces: int, is_target: bool = False
) -> Tokenised:
    """Return the text as the model reads it: cut into the pieces that it is to have, without what is too long.

    Args:
        read: the text of a pair.
        pair: which pair.
        facts: what was dropped is noted in it, and what the tokenizer has gained.
        new_pieces: of the language's own, at most, that the tokenizer is to have too; 0 where there is an
            `nmt.vocabulary.obstacle`.
        is_target: that language is the target.
    """
    before = read.tokenizer
    if new_pieces:
        read = _with_new_pieces(read, pair, new_pieces, facts, is_target)
        read = replace(read, train=_short_enough(read.train, str(pair), before, facts))
    if read.synthetic is not None:
        read = replace(
            read, synthetic=_short_enough(read.synthetic, "What was translated back", before, facts, "of it")
        )
    return replace(read, dev=_short_enough(read.dev, f"The dev set of {pair}", before, facts, "in dev"))


def pieces_wanted(train: Bitext, wanted: int, is_target: bool) -> tuple[int, bool]:
    """Return how many pieces of the language's own are wanted, and whether its script is as good as unknown."""
    foreign = _foreign(train, is_target)
    return (NEEDED if foreign else 0) if wanted == AS_NEEDED else wanted, foreign


def whole_sets(
    pair: Pair,
    text: Text,
    store: TokenStore | None,
    own: Mapping[str, SentencePairs],
    tokenizer: Tokenizer,
    facts: dict[str, Any],
) -> tuple[Bitext, Bitext | None]:
    """Return what there is to adapt on, and the dev set if there is one.

    Args:
        pair: which pair.
        text: where it comes from.
        store: the data folder, if it comes from one; or
        own: the sentence pairs of the user's files, by "train" and "dev".
        tokenizer: of the model; that of the data folder, or one that extends it.
        facts: the names of the sets are noted in it.
    """
    if store is None:
        return tokenized(tokenizer, own["train"], pair), tokenized(tokenizer, own["dev"], pair) if own["dev"] else None
    optional = text.dev_set == Text.dev_set and text.dev_set not in store.sets(pair)
    train = as_read_by(tokenizer, store, pair, store.bitext(pair, text.train_set))
    dev = None if optional else as_read_by(tokenizer, store, pair, store.bitext(pair, text.dev_set))
    for name, use in ((text.train_set, "is adapted on"), (text.dev_set, "chooses the weights")):
        if kind_of(name) == "test":
            say(f"Note: {name!r} {use}, so it is no test set any more for this model.")
    facts |= {"train_set": text.train_set, "dev_set": None if dev is None else text.dev_set}
    return train, dev


def _with_new_pieces(read: Tokenised, pair: Pair, most: int, facts: dict[str, Any], is_target: bool) -> Tokenised:
    """Return the text cut by a vocabulary that has pieces of the language's own too."""
    side = "target" if is_target else "source"
    assert isinstance(read.tokenizer, SentencePieceTokenizer)  # or there is an `obstacle`
    sentences = texts_of(getattr(read.with_synthetic, side), read.tokenizer)
    grown, spelled = with_own_pieces(read.tokenizer, sentences, most, of_targets=is_target)
    train, dev = (recut(part, read.tokenizer, grown, pair) for part in (read.train, read.dev))
    synthetic = read.synthetic and recut(read.synthetic, read.tokenizer, grown, pair)
    before, after = (float(getattr(part, side).offsets[-1]) / len(part) for part in (read.train, train))
    language = getattr(pair, side)
    say(f"{len(spelled):,} new pieces of {language}: a sentence takes {after:.1f} instead of {before:.1f}")
    facts |= {"new_pieces": len(spelled), f"{side}_tokens_a_sentence": {"before": before, "after": after}}
    return Tokenised(train, dev, grown, spelled, synthetic)


def held_out_by(read: Tokenised, pair: Pair, stores: Iterable[TokenStore]) -> HeldOut:
    """Return the sentences of a text, of its dev set, and of a pair's dev and test sets in data folders."""
    held_out = HeldOut()
    sets = [(read.train, read.tokenizer), (read.dev, read.tokenizer)]
    for store in stores:
        tokenizer = load_tokenizer(store.tokenizer_folder)
        for one in {pair, pair.turned()} & {*store.pairs()}:
            sets += [(text, tokenizer) for text in store.held_out_sets(one)]
    for text, tokenizer in sets:
        for source, target in zip(texts_of(text.source, tokenizer), texts_of(text.target, tokenizer), strict=True):
            held_out.add(source, target)
    return held_out


def as_read_by(tokenizer: Tokenizer, store: TokenStore, pair: Pair, text: Bitext) -> Bitext:
    """Return text of a data folder as a tokenizer reads it that is the folder's own, or extends that."""
    if tokenizer.digest() == store.digest:
        return text
    return recut(text, load_tokenizer(store.tokenizer_folder), tokenizer, pair)


def _short_enough(text: Bitext, name: str, tokenizer: Tokenizer, facts: dict[str, Any], where: str = "") -> Bitext:
    """Return the text without the pairs that are too long for a model with so many positions, which are noted."""
    usable = text.shorter_than(MAX_SENTENCE_TOKENS)
    if not len(usable):
        raise CorpusError(f"{name} has no usable sentence pair.", "Give more, or shorter, sentences.")
    too_long = len(text) - len(usable)
    _note_dropped({f"over {MAX_SENTENCE_TOKENS} tokens {where}".rstrip(): too_long}, facts)
    if 10 * too_long > len(text):
        say(f"So many tokens in a sentence: does the vocabulary know this script? {_remedy(tokenizer)}")
    return text.take(usable) if too_long else text


def _remedy(tokenizer: Tokenizer) -> str:
    return GIVE_PIECES if isinstance(tokenizer, SentencePieceTokenizer) else OR_SCRATCH


def _foreign(text: Bitext, target: bool) -> bool:
    """Return whether the vocabulary spells the source, or the target, in bytes or letters, as an unknown script."""
    lengths = [np.diff(side.offsets) for side in (text.source, text.target)]
    return bool(len(text) and np.median(lengths[target] / lengths[not target]) > FOREIGN)


def say_if_foreign(read: Tokenised, pair: Pair) -> None:
    """Say so where the vocabulary hardly knows a language, so that it is hard to learn."""
    if _foreign(read.train, target=False) or _foreign(read.train, target=True):
        source, target = (side.offsets[-1] / len(read.train) for side in (read.train.source, read.train.target))
        say(
            f"Note: a sentence takes {source:.0f} pieces in {pair.source} and {target:.0f} in {pair.target}: the "
            f"vocabulary hardly knows the language. {_remedy(read.tokenizer)}"
        )


def _say_how_it_is_read(sentences: SentencePairs, pair: Pair) -> None:
    """Show the first sentence pair, by which a person sees whether the sides are as they are meant to be."""
    source, target = (side if len(side) <= 70 else f"{side[:66]} ..." for side in sentences[0])
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


def own_files(pair: Pair, text: Text, facts: dict[str, Any]) -> Mapping[str, SentencePairs]:
    """Return the cleaned pairs of a user's files; a train sentence that occurs in dev is dropped."""
    if text.pairs is not None:
        return text.pairs
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


def own_tokenizer(pair: Pair, sentences: SentencePairs) -> Tokenizer:
    """Return a tokenizer of the training text, as small as its script allows; rare characters are spelled in bytes."""
    for size, coverage in OWN_VOCABULARIES:
        say(f"From scratch: learning a vocabulary of at most {size:,} pieces from the training text")
        with suppress(ConfigError):
            sides = (side for source, target in sentences for side in (*as_sources([source]), target))
            return train_tokenizer(sides, [pair.target], size, coverage)
    raise CorpusError("The text has more characters than a vocabulary has room for.", "Is it text, in UTF-8?")


def tokenized(tokenizer: Tokenizer, sentences: SentencePairs, pair: Pair) -> Bitext:
    """Return sentence pairs as ids in memory."""
    source, target = ([item[side] for item in sentences] for side in (0, 1))
    return Bitext(
        Side.of(tokenizer.encode_source(source, pair)),
        Side.of(tokenizer.encode_target(target, pair)),
        np.array([count_words(sentence, pair.target) for sentence in target]),
    )
