"""Meta-validation: what it adapts to and is judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metanmt.data.language import Pair
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import CorpusError
from metanmt.meta import validation
from metanmt.meta.validation import MetaValidation
from tests.recipes.conftest import small_config


def test_sentences_too_long_for_fine_tuning_are_for_meta_validation_too(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint with a table of positions could not read them, which would end a run at its first validation."""
    store = TokenStore.open(data)
    dev = store.bitext(Pair("lv", "en"), "dev")
    longest = int(max(dev.source.lengths(np.arange(len(dev))).max(), dev.target.lengths(np.arange(len(dev))).max()))
    monkeypatch.setattr(validation, "MAX_SENTENCE_TOKENS", longest - 1)
    [(_, _, kept)] = MetaValidation(store, load_tokenizer(store.tokenizer_folder), small_config()).pairs
    assert 0 < len(kept) < len(dev)
    assert f"leaves out {len(dev) - len(kept)} sentence pairs of lv-en dev" in capsys.readouterr().err
    monkeypatch.setattr(validation, "MAX_SENTENCE_TOKENS", 1)
    with pytest.raises(CorpusError, match="no usable sentence pair"):
        MetaValidation(store, load_tokenizer(store.tokenizer_folder), small_config())
