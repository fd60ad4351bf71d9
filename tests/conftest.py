"""Fixtures of all tests: made once a session, never modified by a test."""

from __future__ import annotations

import os

# Bits depend on the number of threads, and toy models are slower with more. Before torch is imported, here and in every
# process that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from transformers import PreTrainedModel

from metanmt.data.store import Bitext
from metanmt.data.tokenizer import SentencePieceTokenizer
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
