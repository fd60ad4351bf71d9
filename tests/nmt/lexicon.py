"""A small universal lexicon without a random generator: vectors that are sines of their place."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from metanmt.config import ModelConfig
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.data.vectors import AlignedVectors, PieceVectors, normalised
from metanmt.nmt.lexicon import add_lexicon
from tests import toy

SETTINGS = ModelConfig(lexicon="universal", universal_entries=30)
SIZE = 12


def vectors_of(ids: np.ndarray, shift: float) -> PieceVectors:
    """Return vectors of these ids, exact in half precision; the lower an id, the commoner."""
    values = normalised(np.sin(1.3 * np.outer(ids + 1, np.arange(1, SIZE + 1)) + shift))
    return PieceVectors(ids, 1_000 - ids, values.astype(np.float16).astype(np.float32))


def make_vectors(tokenizer: SentencePieceTokenizer) -> AlignedVectors:
    """Return vectors of three languages, of which each lacks some pieces; no language has the last ten."""
    special = np.array(tokenizer.special_ids())
    ids = np.setdiff1d(np.arange(tokenizer.vocabulary_size - 10), special)
    languages = {"en": vectors_of(ids[::2], 0.0), "de": vectors_of(ids[1:], 0.1), "fi": vectors_of(ids[:50], 0.2)}
    return AlignedVectors("en", tokenizer.digest(), tokenizer.vocabulary_size, special, languages)


def universal_model(tokenizer: SentencePieceTokenizer, width: int = 32) -> PreTrainedModel:
    """Return a model with a lexicon, its weights filled, its correction too."""
    model = toy.make_m2m100(tokenizer.vocabulary_size, width=width)
    add_lexicon(model, SETTINGS, make_vectors(tokenizer))
    toy.initialise(model)
    with torch.no_grad():
        lexicon = model.model.encoder.embed_tokens
        lexicon.transform.add_(torch.eye(SIZE))
        lexicon.correction.mul_(0.1)
    return model.eval()
