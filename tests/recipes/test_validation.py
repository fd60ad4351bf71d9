"""Meta-validation: what it adapts to and is judged by."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from metanmt.data.counterparts import Counterparts
from metanmt.data.language import Pair
from metanmt.data.own_pieces import recut, texts_of, with_own_pieces
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import CorpusError
from metanmt.meta import validation
from metanmt.meta.validation import MetaValidation
from metanmt.nmt.checkpoint import load_checkpoint
from metanmt.nmt.tuning_text import NEEDED
from metanmt.nmt.vocabulary import align_embeddings, grow_embeddings
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


def test_a_pair_begins_as_in_fine_tuning(data: Path, run_folder: Path) -> None:
    store, pair = TokenStore.open(data), Pair("lv", "en")
    model, tokenizer = load_checkpoint(run_folder)
    counterparts = Counterparts.load(run_folder / "best")
    assert counterparts is not None
    validate = MetaValidation(store, tokenizer, small_config())
    validate.meet(model, counterparts)
    [(_, train, _)] = validate.pairs
    newcomer = validate.newcomers[pair]
    table = model.get_input_embeddings().weight
    rows = newcomer.start.embeddings(table)

    tuned = copy.deepcopy(model)
    grown, spelled = with_own_pieces(newcomer.tokenizer, texts_of(train.source, tokenizer), NEEDED)
    text = recut(train, tokenizer, grown, pair)
    grow_embeddings(tuned, len(table), spelled)
    assert align_embeddings(tuned, counterparts, text, pair, grown.special_ids()) > 50
    pieces = torch.from_numpy(newcomer.start.beginnings.pieces)
    torch.testing.assert_close(rows, tuned.get_input_embeddings().weight[pieces])
    others = torch.ones(len(table), dtype=torch.bool)
    others[pieces[pieces < len(table)]] = False
    assert torch.equal(table[others], tuned.get_input_embeddings().weight[: len(table)][others])

    scratch = copy.deepcopy(model)
    aligned = validate(scratch, model)
    plain = MetaValidation(store, tokenizer, small_config())(copy.deepcopy(model), model)
    assert aligned is not None
    assert plain is not None
    assert aligned["zero_shot"] == plain["zero_shot"]
    assert aligned["adapted"] != plain["adapted"]
    assert [name for name, _ in scratch.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_embeddings_that_do_not_move_begin_as_they_are(data: Path, run_folder: Path) -> None:
    model, tokenizer = load_checkpoint(run_folder)
    validate = MetaValidation(TokenStore.open(data), tokenizer, small_config("fine_tune.update=decoder"))
    validate.meet(model, Counterparts.load(run_folder / "best"))
    assert not validate.newcomers
