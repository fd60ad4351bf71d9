"""Fixtures of all tests: made once a session, never modified by a test."""

from __future__ import annotations

import os
from collections.abc import Sequence

# Bits depend on the number of threads, and toy models are slower with more. Before torch is imported, here and in every
# process that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from transformers import PreTrainedModel

from metanmt.data.language import Pair
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.nmt import back_translation
from tests import toy


@pytest.fixture(scope="session")
def tokenizer() -> SentencePieceTokenizer:
    return toy.make_tokenizer()


@pytest.fixture(scope="session")
def toy_bitext(tokenizer: SentencePieceTokenizer) -> Bitext:
    return toy.make_bitext(tokenizer, toy.lines(60))


@pytest.fixture
def toy_model(tokenizer: SentencePieceTokenizer) -> PreTrainedModel:
    """A fresh model for every test: it may be trained."""
    return toy.make_m2m100(tokenizer.vocabulary_size)


@pytest.fixture(scope="session")
def parrot(tokenizer: SentencePieceTokenizer) -> PreTrainedModel:
    """A model that has learned `toy.LEARNED` by heart."""
    return toy.make_parrot(tokenizer)


@pytest.fixture(autouse=True)
def _same_random_state() -> None:
    torch.manual_seed(1)


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A back-translation from English that marks its source, and what was translated."""
    seen: list[str] = []

    def translate(engine: object, tokenizer: object, sentences: Sequence[str], pair: Pair, **more: object) -> list[str]:
        assert pair.source == "en"
        seen.extend(sentences)
        return [f"{sentence} back" for sentence in sentences]

    monkeypatch.setattr(back_translation, "open_engine", lambda *arguments, **more: (None, None))
    monkeypatch.setattr(back_translation, "translate", translate)
    return seen
