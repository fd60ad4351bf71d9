"""What a fine-tuning starts from: a model, and the language of the pair that it hardly knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from metanmt.config import AdapterConfig, FineTuneConfig, ModelConfig
from metanmt.data.counterparts import Counterparts
from metanmt.data.language import Pair
from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer
from metanmt.errors import ConfigError, UsageError
from metanmt.nmt.checkpoint import load_checkpoint, load_with_adapter
from metanmt.nmt.folder import checkpoint_folder
from metanmt.nmt.model import make_model, set_head, update_weights
from metanmt.nmt.tuning_text import AS_NEEDED, NEEDED, Text, Tokenised
from metanmt.nmt.vocabulary import LEAVE_OUT, align_embeddings, begin_tag, grow_embeddings, obstacle
from metanmt.runlog import say
from metanmt.runtime import seed_torch

SCRATCH = "none"


@dataclass(frozen=True)
class NewLanguage:
    """The language of a pair that a model hardly knows, and what it begins with.

    Args:
        pieces: of its own, at most, or AS_NEEDED.
        counterparts: that these, and pieces that are hardly known, begin as; None if they are not aligned.
        is_target: it is the target; else the source.
    """

    pieces: int
    counterparts: Counterparts | None
    is_target: bool

    def begin(self, network: PreTrainedModel, read: Tokenised, pair: Pair) -> int:
        """Let its pieces, and its tag if it is the target, begin by the counterparts; return how many pieces do."""
        assert self.counterparts is not None
        assert isinstance(read.tokenizer, SentencePieceTokenizer)  # or there is an `obstacle`
        train = read.with_synthetic
        if self.is_target:
            begin_tag(network, read.tokenizer.targets, pair.target, self.counterparts.tables)
            train, pair = train.turned(), pair.turned()
        aligned = align_embeddings(network, self.counterparts, train, pair, read.tokenizer.special_ids())
        say(f"{aligned:,} pieces of {pair.source} begin as their translations' counterparts in meta-training")
        return aligned


@dataclass(frozen=True)
class StartingPoint:
    """Which model a fine-tuning starts from, and what of it may move."""

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

    def new_language(
        self,
        config: FineTuneConfig,
        network: PreTrainedModel | None,
        tokenizer: Tokenizer,
        text: Text,
        pair: Pair,
        *,
        tagged: bool,
    ) -> NewLanguage:
        """Return which language is new, how many pieces it is to bring, and by what these and others are aligned.

        Raises:
            ConfigError: new pieces are wanted, and there can be none.
        """
        cannot = obstacle(network, tokenizer, self.update)
        if network is None and text.data is None:
            cannot = ConfigError(
                "From scratch the text has a vocabulary of its own: there are no new pieces.", LEAVE_OUT
            )
        if cannot:
            if config.new_pieces > 0:
                raise cannot
            return NewLanguage(0, None, tagged)
        counterparts = Counterparts.load(checkpoint_folder(Path(self.init))) if network is not None else None
        side = counterparts.new_side(pair) if counterparts else None
        if side is None or not config.align:
            counterparts = None
        wanted = NEEDED if counterparts and config.new_pieces == AS_NEEDED else config.new_pieces
        return NewLanguage(wanted, counterparts, tagged or side == "target")

    def with_target(self, network: PreTrainedModel, tokenizer: Tokenizer, pair: Pair) -> Tokenizer:
        """Return a tokenizer that has a tag for the target; if it is new, so has the model, in place: the others' mean.

        Raises:
            UsageError: it is new, and there can be no tag for it.
        """
        if not isinstance(tokenizer, SentencePieceTokenizer) or pair.target in tokenizer.targets:
            return tokenizer
        known = ", ".join(tokenizer.targets)
        if cannot := obstacle(network, tokenizer, self.update):
            raise UsageError(
                f"{self.init} translates into {known}, not into {pair.target} yet. {cannot}",
                "Let all or the embeddings move (--update all), of a run without a universal lexicon.",
            )
        say(f"{self.init} translates into {known}: the tag of {pair.target} is new, and begins as their mean")
        begin = pair.target.lower()[:2]
        if alike := next((code for code in tokenizer.targets if code.lower().startswith(begin)), None):
            say(f"Note: is {alike} the same language? Then stop here (Ctrl-C) and call it that.")
        grow_embeddings(network, tokenizer.vocabulary_size, [list(tokenizer.targets.values())])
        return tokenizer.with_target(pair.target)

    def check_scratch(self) -> None:
        """Raise a UsageError or ConfigError for what a model from scratch cannot have."""
        if self.model.lexicon != ModelConfig.lexicon:
            raise ConfigError(
                f"Languages share a lexicon ({self.model.lexicon}) in meta-training; here there is one.",
                f"Leave model.lexicon out, or give the run of meta-train --lexicon {self.model.lexicon} by --init.",
            )
        if self.update in ("none", "adapters"):
            raise UsageError(
                f"From scratch, update = {self.update} leaves a model that has learned nothing as it is.",
                "Give a run or checkpoint by --init, or another --update.",
            )

    def made(self, tokenizer: Tokenizer) -> PreTrainedModel:
        """Return a model from scratch."""
        seed_torch(self.seed)
        network = make_model(self.model, tokenizer)
        update_weights(network, self.update)
        return network
