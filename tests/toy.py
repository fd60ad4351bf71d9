"""Small things that the tests share: a tokenizer, a model without a random generator, a few tokenised pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from torch import nn
from transformers import M2M100Config, M2M100ForConditionalGeneration, PreTrainedModel

from metanmt.config import FineTuneConfig
from metanmt.data.cldr import sentence_pairs
from metanmt.data.language import Pair
from metanmt.data.store import Bitext, Side
from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer, train_tokenizer
from metanmt.nmt.tuning import fine_tune

PAIR = Pair("de", "en")
Lines = list[tuple[str, str]]


def lines(count: int, *, skip: int = 0, language: str = "de") -> Lines:
    """Return sentence pairs of a language and English."""
    return list(islice(sentence_pairs(language, skip + count), skip, None))


LEARNED = lines(20)
"""The pairs that `make_parrot` has learned."""


def make_tokenizer() -> SentencePieceTokenizer:
    """Return a tokenizer of about 400 pieces that translates into English and German."""
    return train_tokenizer((side for pair in lines(300) for side in pair), ("en", "de"), 450)


def make_bitext(tokenizer: Tokenizer, pairs: Lines, pair: Pair = PAIR) -> Bitext:
    """Return the pairs tokenised, in memory."""
    source = tokenizer.encode_source([line[0] for line in pairs], pair)
    target = tokenizer.encode_target([line[1] for line in pairs], pair)
    words = np.array([len(line[1].split()) for line in pairs], dtype=np.uint16)
    return Bitext(Side.of(source), Side.of(target), words)


def make_m2m100(vocabulary_size: int, *, pad_id: int = 0, end_id: int = 2, width: int = 32) -> PreTrainedModel:
    """Return an M2M100 of two layers a side, in training mode without dropout, its weights filled by `fill`."""
    shape = M2M100Config(
        vocab_size=vocabulary_size,
        d_model=width,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        max_position_embeddings=512,
        pad_token_id=pad_id,
        bos_token_id=end_id,
        eos_token_id=end_id,
        decoder_start_token_id=end_id,
        attn_implementation="sdpa",
    )
    model = M2M100ForConditionalGeneration(shape)
    model.generation_config.max_length = None
    fill(model)
    return model.train()


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Set every weight to a sine of its index, at the scale of an ordinary initialisation: no random generator."""
    for number, (name, parameter) in enumerate(model.named_parameters()):
        wave = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 1.7 + number).view(parameter.shape)
        norm = "norm" in name and name.endswith("weight")
        parameter.copy_(1.0 + 0.1 * wave if norm else 0.3 * wave)


def weights_hash(model: nn.Module, names: Sequence[str] | None = None) -> str:
    """Return a digest of the weights (or of those named) that changes with any bit of them."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if names is None or name in names:
            digest.update(name.encode() + parameter.detach().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def initialise(model: nn.Module, seed: int = 1) -> None:
    """Set the weights at random, at a scale from which a model of this size learns in seconds."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        elif parameter.dim() == 1:
            parameter.zero_()
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)


def make_parrot(tokenizer: Tokenizer) -> PreTrainedModel:
    """Return a model that has learned `LEARNED` by heart: a few seconds."""
    model = make_m2m100(tokenizer.vocabulary_size, width=64)
    initialise(model)
    bitext = make_bitext(tokenizer, LEARNED)
    settings = FineTuneConfig(
        optimizer="adamw",
        learning_rate=3e-3,
        dropout=0.0,
        label_smoothing=0.1,
        metric="loss",
        min_updates=450,
        max_updates=450,
        max_tokens=2_000,
        evaluations=3,
        warmup_share=0.2,
    )
    fine_tune(model, tokenizer, PAIR, bitext, bitext, settings, seed=1, precision="float32", label="learning by heart")
    return model
