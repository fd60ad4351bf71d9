"""The initialisation as a run begins with it."""

from __future__ import annotations

from transformers import PreTrainedModel

from metanmt.config import Config
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import Tokenizer
from metanmt.data.vectors import data_vectors
from metanmt.meta.validation import check_updates
from metanmt.nmt.adapter import make_with_adapter
from metanmt.nmt.lexicon import add_lexicon, hold_correction
from metanmt.nmt.model import move_only
from metanmt.nmt.ngrams import share_ngrams
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
